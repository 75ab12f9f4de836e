"""The desk's figures: agreement, raters' skill and habits, policies' strengths, stop rules.

``python -m prefloop.annotation.figures PATH_OR_URL`` prints them as JSON. The server runs it as a process of its own
(`prefloop.annotation.background`) and never imports it: it needs NumPy and SciPy, and takes seconds.

Only what counts is used (no surplus), unless a figure says otherwise. Intervals are bootstrapped over prompts, or
Wilson's where every case has a prompt of its own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from prefloop.annotation.background import DATABASE_VARIABLE
from prefloop.annotation.database import database_url
from prefloop.annotation.figures_agreement import agreement
from prefloop.annotation.figures_estimates import Figure
from prefloop.annotation.figures_policies import rules, strengths
from prefloop.annotation.figures_raters import habits, raters
from prefloop.annotation.figures_verdicts import Verdicts, read_verdicts
from prefloop.annotation.stream import Connection
from prefloop.errors import PrefloopError, StoreError


def figures(connection: Connection) -> dict[str, Any]:
    """All figures (`prefloop.annotation.figures_estimates.Figure`), ready for JSON.

    Returns:
        - ``agreement``: ``alpha`` (Krippendorff's, of first, tie, second and both bad), ``percent`` (of two verdicts on
          the same answers), ``self`` (a repeat says what was said before), ``kendall`` (mean tau-b of two rankings).
        - ``raters``, surplus included: for each ``rater`` (pseudonym), ``gold`` (share right), ``eta`` (skill: chance
          to name the better of two answers), ``eta_policies`` (Crowd-BT over policies), ``left`` and ``side_habit``
          (its interval leaves out ½, as one honest rater in twenty will), ``longer``, ``majority`` (agreement with
          that of the others), ``seconds`` (median).
        - ``policies``: ``strengths`` ``[{"policy", "component", **figure}]`` (Davidson, natural logs, mean 0 within a
          component; those of different components cannot be compared), ``order_effect`` (γ), ``longer``, ``tie``,
          ``both_bad``, ``expected`` (the majority says what the judge said), ``length_only`` (it picks the longest).
        - ``stop``: of every rule that is set, ``rule``, ``wanted``, ``now``, ``met``, ``why``.
    """
    found = read_verdicts(connection)
    agreeing, strong = agreement(found), strengths(found)
    return {
        "agreement": agreeing,
        "raters": raters(found),
        "policies": strong | habits(found) | rules(found),
        "stop": _stop(found, agreeing["alpha"], strong),
    }


def _stop(found: Verdicts, alpha: Figure, policies: dict[str, Any]) -> list[dict[str, Any]]:
    """Widths are those of the widest interval; with strengths missing, the order effect says why."""
    stop = found.config.stop
    stated = []
    if stop.judgements is not None:
        now = sum(row.counted for row in found.rows)
        stated.append(_rule("judgements", stop.judgements, now, now >= stop.judgements))
    for rule, wanted, parts in (
        ("agreement_width", stop.agreement_width, [alpha]),
        ("preference_width", stop.preference_width, policies["strengths"] or [policies["order_effect"]]),
    ):
        if wanted is not None:
            open_ends = [part["why"] for part in parts if part["low"] is None]
            width = None if open_ends else max(part["high"] - part["low"] for part in parts)
            why = open_ends[0] if open_ends else ""
            stated.append(_rule(rule, wanted, width, width is not None and width <= wanted, why))
    return stated


def _rule(rule: str, wanted: float, now: float | None, met: bool, why: str = "") -> dict[str, Any]:
    return {"rule": rule, "wanted": wanted, "now": now, "met": met, "why": why}


@contextmanager
def reading(place: str | Path) -> Iterator[Connection]:
    """A connection that cannot write and sees one moment of the project, beside the server that owns it.

    Raises:
        StoreError: there is no such database, or no project in it.
    """
    url = database_url(place)
    shown = url.render_as_string(hide_password=True)
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and not Path(url.database or "").is_file():
        raise StoreError(f"there is no annotation project at {url.database}: start one with prefloop annotate")
    try:
        with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
            if sqlite:
                connection.exec_driver_sql("PRAGMA query_only=ON")
                connection.exec_driver_sql("BEGIN")
            else:
                connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection
    except DBAPIError as error:
        raise StoreError(f"the project in {shown} cannot be read: {str(error.orig).strip().splitlines()[0]}") from error


def main(arguments: Sequence[str]) -> int:
    """Print the figures of the database given, or named by ``PREFLOOP_ANNOTATION_DATABASE``; the exit code."""
    place = arguments[0] if arguments else os.environ.get(DATABASE_VARIABLE)
    if not place:
        print(
            f"name a database: python -m prefloop.annotation.figures PATH_OR_URL, or {DATABASE_VARIABLE}",
            file=sys.stderr,
        )
        return 2
    try:
        with reading(place) as connection:
            found = figures(connection)
    except PrefloopError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(found, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
