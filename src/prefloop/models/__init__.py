"""Models and what surrounds them: loading, chat template, lineage, group forward, reference store."""

import logging
import os

# PyTorch keeps what oneDNN prepared for each shape of a bfloat16 product on the CPU, 1,024 of them by default; packed
# rows differ in every step, so the process would grow by some 100 MB with each. Read at the first such product.
os.environ.setdefault("LRU_CACHE_CAPACITY", "8")

# PEFT imports bitsandbytes wherever it is installed, and that warns of an optional kernel.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

# Accelerate imports DeepSpeed wherever it is installed, and that says on stdout, where --json prints, that there is no
# GPU.
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
