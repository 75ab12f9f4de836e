"""What processes started together do for `test_together`: each says what it sees, then ends as it is told."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

from prefloop.loop.together import THREADS, end_with_starter

if __name__ == "__main__":
    end_with_starter()
    rank, (folder, how) = os.environ["RANK"], sys.argv[1:3]
    seen = f"{os.getpid()} {os.environ[THREADS]} {torch.get_num_threads()}"
    (Path(folder) / f"{rank}.partial").write_text(seen)
    (Path(folder) / f"{rank}.partial").rename(Path(folder) / rank)
    print(f"{rank} came out", flush=True)
    if how == "fails" and rank == "1":
        sys.exit(3)
    if how != "ends":
        time.sleep(600)  # until it is ended
