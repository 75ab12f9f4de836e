"""Starting processes that work together, so that they end together, and with the process that started them.

`accelerate launch` gives each of its processes a session of its own: neither Ctrl-C nor the launcher's death reaches
them, and a training whose starter was killed would go on, and keep `--resume` waiting. So their standard input is one
end of a pair of sockets. The other end is the starter's, and the kernel closes it however the starter ends.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

ENDS = "PREFLOOP_ENDS_WITH_STDIN"
"""Set for processes that end once nobody holds the other end of their standard input."""
THREADS = "OMP_NUM_THREADS"
Output = IO[str] | int | None
END_S = 20.0
"""How long processes that were told to end are waited for."""


def run_together(config: Path, each: int, words: Sequence[str], stdout: Output = None, stderr: Output = None) -> int:
    """Start a module in the processes that Accelerate's configuration describes, and wait until all have ended.

    Args:
        config: Accelerate's configuration.
        each: processes on this machine, which share its cores where ``OMP_NUM_THREADS`` does not say otherwise.
        words: the module and its arguments.
        stdout: where they speak, as `subprocess` takes it; None: where this process does.
        stderr: the same of what they say on the way.

    Returns:
        0, or the exit code of the process that failed first.
    """
    command = [sys.executable, "-m", __name__, "--config_file", str(config), "-m", *words]
    environment = {THREADS: str(threads_of(each)), **os.environ, ENDS: "1"}
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            launcher = subprocess.Popen(
                command, stdin=theirs, stdout=stdout, stderr=stderr, env=environment, start_new_session=True
            )
        try:
            return launcher.wait()
        finally:
            ours.shutdown(socket.SHUT_WR)  # whoever still works ends
            launcher.kill()
            launcher.wait()
            ours.settimeout(END_S)
            with suppress(TimeoutError):
                ours.recv(1)  # nothing ever comes: it returns when the last of them has let go of its end


def threads_of(each: int) -> int:
    """Cores of this machine for each of so many processes."""
    return max(1, (os.cpu_count() or 1) // each)


def end_with_starter() -> None:
    """In a process of `run_together`: end when the one that started it does, whatever is at work here.

    A training is safe against that at any instruction, as it is against a kill.
    """
    if os.environ.get(ENDS):
        threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    """`accelerate launch`, without the traceback of the launcher, which says nothing of what went wrong."""
    import logging

    from accelerate.commands.launch import main as launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch()
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        sys.exit(first.exitcode if first.exitcode > 0 else 128 - first.exitcode)


if __name__ == "__main__":
    main()
