"""Runs `prefloop` and says at the end, on the last line of stderr, what it cost: for `benchmarks/scale.py`."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from prefloop.cli import main


def peak_bytes() -> int:
    """Most resident memory of this program: what the process was before it became it does not count, on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


try:
    main()
except SystemExit as ended:
    if ended.code:
        raise
own, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
cpu = sum(usage.ru_utime + usage.ru_stime for usage in (own, workers))
print(json.dumps({"cpu_seconds": cpu, "peak_gb": peak_bytes() / 1e9, "torch": "torch" in sys.modules}), file=sys.stderr)
