"""The command in this process: many calls need no process, and the imports, of their own."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from prefloop.cli import main
from prefloop.progress import set_quiet


def prefloop(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What `main` does with these words, as a finished process would have it; without progress."""
    words = ["prefloop", "--quiet", *map(str, arguments)]
    code, handlers = 0, {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)}
    with (
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
        chdir(cwd or Path.cwd()),
        patch.object(sys, "argv", words),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            set_quiet(True)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
