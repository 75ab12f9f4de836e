"""The failures a user can meet, each a one-line message that names the thing, the place and the way out."""

from __future__ import annotations


class PrefloopError(Exception):
    """Root of every failure this package raises on purpose.

    The command line prints ``str(error)`` on one line and exits with ``exit_code``.
    """

    exit_code = 1


class ConfigError(PrefloopError, ValueError):
    """A recipe or an option that cannot mean anything; carries all findings at once."""

    exit_code = 2


class DataError(PrefloopError, ValueError):
    """A file or row that cannot be read; names file, line and reason."""

    exit_code = 3


class ModelError(PrefloopError, RuntimeError):
    """A model folder that is missing, damaged, or not the one expected (wrong lineage)."""

    exit_code = 4


class StoreError(PrefloopError, OSError):
    """The run folder cannot be written, or belongs to another recipe."""

    exit_code = 5


class JudgeError(PrefloopError, RuntimeError):
    """A judge failed as a whole (a single failed item stays unscored and counted instead)."""

    exit_code = 6


class AwaitingJudgementsError(JudgeError):
    """People have not judged enough yet; what was computed is kept, and the run goes on once they have."""

    exit_code = 7
