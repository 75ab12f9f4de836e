"""Running lm-evaluation-harness without its logs, its bars and its ways to fetch or run code."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from prefloop.models.load import quiet_transformers


@contextmanager
def harness_quiet() -> Iterator[list[str]]:
    """Nothing is printed, metrics are not fetched and templates run in a sandbox; gives what was warned of.

    Settings of the libraries are restored afterwards.
    """
    warned: list[str] = []
    with (
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
        quiet_transformers(),
        _quiet_datasets(),
        _sandboxed_templates(),
        _no_fetched_metrics(),
        _collected_warnings(warned),
    ):
        yield warned


def last_cause(error: BaseException) -> str:
    """First line of what an error goes back to."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


@contextmanager
def _collected_warnings(warned: list[str]) -> Iterator[None]:
    logger, handler = logging.getLogger("lm_eval"), _Collector(warned)
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


class _Collector(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.append(record.getMessage())


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from datasets.utils.logging import get_verbosity, set_verbosity, set_verbosity_error

    level, hidden = get_verbosity(), are_progress_bars_disabled()
    set_verbosity_error()
    disable_progress_bars()
    try:
        yield
    finally:
        set_verbosity(level)
        if not hidden:
            enable_progress_bars()


@contextmanager
def _sandboxed_templates() -> Iterator[None]:
    """Templates of a task cannot reach Python through attributes (Jinja's own sandbox)."""
    import lm_eval.utils as harness
    from jinja2.sandbox import SandboxedEnvironment

    plain = harness.env
    sandbox = SandboxedEnvironment(
        loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline
    )
    sandbox.filters.update(plain.filters)
    harness.env = sandbox
    try:
        yield
    finally:
        harness.env = plain


@contextmanager
def _no_fetched_metrics() -> Iterator[None]:
    """The library `evaluate` runs metrics as code from the Hub: offline it only has what the user fetched."""
    import evaluate

    before = evaluate.config.HF_EVALUATE_OFFLINE
    evaluate.config.HF_EVALUATE_OFFLINE = True
    try:
        yield
    finally:
        evaluate.config.HF_EVALUATE_OFFLINE = before
