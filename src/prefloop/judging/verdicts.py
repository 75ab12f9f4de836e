"""What a judge model's reply says, read strictly from its last lines, and how consistent its comparisons are.

A verdict line stands alone at the end and nowhere else in the reply; emphasis marks around it do not matter. All
else is unreadable: not a tie, not a zero.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from prefloop.records import Judgement

P_FIRST = {"A": 1.0, "tie": 0.5, "B": 0.0}
"""P(the answer shown first is better), by verdict."""
OBJECTIVES = ("instruction_following", "honesty", "truthfulness", "helpfulness")
"""Aspects of UltraFeedback (2310.01377), each rated 1 to 5."""

_CHOICE = re.compile(r"verdict:[ \t]*(a|b|tie)", re.IGNORECASE)
_SCORE = re.compile(r"score:[ \t]*([0-5])", re.IGNORECASE)
_RATING = re.compile(rf"({'|'.join(OBJECTIVES)}):[ \t]*([1-5])".replace("_", "[_ ]"), re.IGNORECASE)


def read_choice(text: str) -> str | None:
    """``A``, ``B`` or ``tie`` from the last line ``Verdict: …``; None where that is not what it says.

    >>> read_choice("The first one is right.\\nVerdict: A"), read_choice("I prefer A.")
    ('A', None)
    """
    found = _last_lines(text, _CHOICE, 1)
    return None if found is None else {"a": "A", "b": "B", "tie": "tie"}[found[0][1].lower()]


def read_score(text: str) -> int | None:
    """0 to 5 from the last line ``Score: N``.

    >>> read_score("Relevant and complete.\\nScore: 4"), read_score("Score: 4.5"), read_score("Score: 7")
    (4, None, None)
    """
    found = _last_lines(text, _SCORE, 1)
    return None if found is None else int(found[0][1])


def read_objectives(text: str) -> dict[str, int] | None:
    """Ratings 1 to 5 from the last four lines ``Honesty: N`` and so on, in any order, each once."""
    found = _last_lines(text, _RATING, len(OBJECTIVES))
    if found is None:
        return None
    rated = {match[1].lower().replace(" ", "_"): int(match[2]) for match in found}
    return {name: rated[name] for name in OBJECTIVES} if len(rated) == len(OBJECTIVES) else None


def _last_lines(text: str, form: re.Pattern[str], count: int) -> list[re.Match[str]] | None:
    """Matches of the last `count` lines that hold anything, if exactly these lines have the form."""
    lines = [line for raw in text.splitlines() if (line := raw.strip(" \t*_`"))]
    matches = [form.fullmatch(line) for line in lines]
    found = [match for match in matches[-count:] if match]
    whole = len(found) == count == sum(match is not None for match in matches)
    return found if whole else None


def p_first(verdicts: Sequence[str | None]) -> float | None:
    """Mean P(shown first is better) over the readable verdicts; None without any."""
    found = [P_FIRST[verdict] for verdict in verdicts if verdict]
    return fmean(found) if found else None


def p_both_orders(straight: Sequence[str | None], swapped: Sequence[str | None]) -> tuple[float | None, bool | None]:
    """P(first better) as the mean over both orders, and whether the orders agree on the side; None if one is unread.

    Args:
        straight: verdicts where the first answer was shown first.
        swapped: verdicts where it was shown second.
    """
    there, back = p_first(straight), p_first(swapped)
    if there is None or back is None:
        return None, None
    agree = (there > 0.5) - (there < 0.5) == (back < 0.5) - (back > 0.5)
    return (there + 1 - back) / 2, agree


def consistency(judgements: Sequence[Judgement]) -> dict[str, float | int | None]:
    """How a judge's comparisons behave; rates are None where nothing could be counted.

    Returns:
        ``pairs`` and ``verdicts`` (two orders, all samples);
        ``consistency_rate``, pairs whose orders agree over pairs readable in both orders;
        ``first_slot_win_rate``, verdicts for the answer shown first over verdicts for either (0.5 = no bias);
        ``tie_rate``, ties over readable verdicts; ``invalid_rate``, unreadable over all verdicts.
    """
    pairs = [judgement for judgement in judgements if judgement.kind == "choice" and "orders" in judgement.raw]
    orders = [_verdicts(judgement.raw) for judgement in pairs]
    verdicts = [verdict for pair in orders for order in pair for verdict in order]
    agreed = [agree for pair in orders if (agree := p_both_orders(*pair)[1]) is not None]
    count = {name: verdicts.count(name) for name in P_FIRST}
    readable = sum(count.values())
    return {
        "pairs": len(pairs),
        "verdicts": len(verdicts),
        "consistency_rate": _share(sum(agreed), len(agreed)),
        "first_slot_win_rate": _share(count["A"], count["A"] + count["B"]),
        "tie_rate": _share(count["tie"], readable),
        "invalid_rate": _share(len(verdicts) - readable, len(verdicts)),
    }


def _verdicts(raw: dict[str, Any]) -> tuple[list[str | None], list[str | None]]:
    straight, swapped = ([reading["verdict"] for reading in order] for order in raw["orders"])
    return straight, swapped


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
