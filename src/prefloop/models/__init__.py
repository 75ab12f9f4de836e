"""Models and what surrounds them: loading, chat template, lineage, group forward, reference store."""

import logging

# PEFT imports bitsandbytes wherever it is installed, and that warns of an optional kernel.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
