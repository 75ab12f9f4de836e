"""Guards of a loop: pure functions of rounds' figures that say when a round is not promoted and when the loop ends.

Published third rounds lost what the first two had won: answers doubled in length, judges gave nearly everything their
highest score, abilities that nobody looked at fell. Guards look at the watched questions alone, never at those that are
reported.

A finding is ``ok``, ``warn`` (said, nothing more), ``hold`` (the round is not promoted) or ``stop`` (neither is it, and
the loop ends).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prefloop.config.loop import GuardsConfig
from prefloop.errors import DataError
from prefloop.evaluation.rounds import UNMEASURED
from prefloop.loop.guard_rules import GUARDS, Case, Finding, Round, figure_of


def judge_round(found: Round, earlier: Sequence[Round], config: GuardsConfig) -> list[Finding]:
    """What every guard says of a round; last, under one name, those that had nothing to look at.

    Args:
        found: a round of ``rounds.json``; what the guards themselves write there is not read.
        earlier: all rounds before it, round 0 first.
        config: with ``enabled: false`` everything is found and said, and nothing is acted upon.
    """
    case = Case(found, earlier, config)
    seen = {name: guard(case) for name, guard in GUARDS.items()}
    findings = [_whole(name, finding, config.enabled) for name, finding in seen.items() if finding]
    missing = [name for name, finding in seen.items() if not finding]
    if missing:
        findings.append(Finding(UNMEASURED, None, None, "ok", f"Not measured: {', '.join(missing)}.", config.enabled))
    return findings


def promoted(findings: Sequence[Finding]) -> bool:
    """Whether nothing holds the round back.

    >>> promoted([Finding("gain", 0.0, 0.0, "warn", "…")]), promoted([Finding("KL", 21.0, 20.0, "hold", "…")])
    (True, False)
    """
    return not any(finding.acted and finding.verdict in ("hold", "stop") for finding in findings)


def ends(findings: Sequence[Finding]) -> str | None:
    """Why the loop ends here, or None.

    >>> ends([Finding("gain", -0.1, 0.0, "stop", "No gain twice.")])
    'No gain twice.'
    """
    reasons = [finding.text for finding in findings if finding.acted and finding.verdict == "stop"]
    return " ".join(reasons) or None


def best(rounds: Sequence[Round]) -> int:
    """The round with the highest accuracy on the watched questions among round 0 and those promoted; of ties the first.

    Raises:
        DataError: no such round has the figure.

    >>> best([{"round": i, "promoted": i < 2, "watched": {"accuracy": a}} for i, a in enumerate((0.5, 0.6, 0.7))])
    1
    """
    known = [
        (accuracy, -int(one["round"]))
        for one in rounds
        if (one["round"] == 0 or one.get("promoted"))
        and (accuracy := figure_of(one, ("watched", "accuracy"))) is not None
    ]
    if not known:
        raise DataError("no round has an accuracy on watched questions: the best cannot be told")
    return -max(known)[1]


def _whole(name: str, finding: Finding, acted: bool) -> Finding:
    """The finding under its name, its sentence ended by what follows from it."""
    follows = {"hold": "the round is not promoted", "stop": "the loop ends"}
    if not acted:
        follows = {"hold": "the round would not be promoted", "stop": "the loop would end"}
        follows = {verdict: f"{words}, but guards are off" for verdict, words in follows.items()}
    end = f": {follows[finding.verdict]}." if finding.verdict in follows else "."
    return replace(finding, name=name, text=finding.text + end, acted=acted)
