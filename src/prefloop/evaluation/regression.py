"""A benchmark before against after, document by document: the change, its interval, and whether it is a drop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import erfc, isinf, sqrt
from typing import Any

import numpy as np

from prefloop.errors import DataError
from prefloop.evaluation.harness import TaskScores
from prefloop.maths.statistics import (
    SHARE,
    clustered_standard_error,
    design_effect,
    holm,
    mcnemar_exact,
    minimum_detectable_gain,
    paired_bootstrap,
    sample_size,
)

ALPHA, POWER, DRAWS = 0.05, 0.8, 10_000
TOLERATED = 0.05
"""A drop of a share that a benchmark should be able to rule out: 5 points."""
RULE = (
    "a drop is significant where the 95% interval of the paired change, resampled by document, lies wholly on the "
    "worse side and the p-value (exact McNemar for right and wrong, else the paired z test), Holm-adjusted over all "
    "figures, is below 0.05"
)


def compared_benchmarks(
    before: Mapping[str, Sequence[TaskScores]], after: Mapping[str, Sequence[TaskScores]], seed: int = 1
) -> dict[str, Any]:
    """Figures of both sides by benchmark, and which of them dropped significantly by `RULE`.

    A benchmark of several tasks counts every document once: its figures are means over documents, not over tasks.

    Raises:
        DataError: the two sides were asked different documents.
    """
    found = {name: _benchmark(name, before[name], after[name], seed) for name in before}
    figures = [(name, label, figure) for name, one in found.items() for label, figure in one["figures"].items()]
    for (_, _, figure), p in zip(figures, holm([figure["p"] for _, _, figure in figures]), strict=True):
        sign = _sign(figure) if p < ALPHA else 0
        figure |= {"p_holm": p, "drop": sign < 0, "gain": sign > 0}
        figure["warning"] = _warning(figure)
    drops = [f"{name}: {label}" for name, label, figure in figures if figure["drop"]]
    return {"benchmarks": found, "drops": drops, "rule": RULE}


def _benchmark(name: str, before: Sequence[TaskScores], after: Sequence[TaskScores], seed: int) -> dict[str, Any]:
    old, new = ([(side.task, side.documents) for side in sides] for sides in (before, after))
    if old != new:
        raise DataError(f"the two sides were not asked the same documents of {name}: start over in another --out")
    documents = [document for side in before for document in side.documents]
    paired = sorted(set.intersection(*(set(side.scores) for side in (*before, *after))))
    return {
        "tasks": [side.task for side in before],
        "documents": len(documents),
        "truncated": {"before": sum(s.truncated for s in before), "after": sum(s.truncated for s in after)},
        "figures": {
            label: _figure(
                *(np.concatenate([side.scores[label] for side in sides]) for sides in (before, after)),
                documents,
                before[0].higher_is_better.get(label, True),
                seed,
            )
            for label in paired
        },
        "without_interval": {
            f"{old.task}: {label}": {"before": old.totals[label], "after": new.totals[label]}
            for old, new in zip(before, after, strict=True)
            for label in sorted((old.totals.keys() & new.totals.keys()) - set(paired))
        },
    }


def _figure(
    before: np.ndarray, after: np.ndarray, documents: Sequence[str], higher_is_better: bool, seed: int
) -> dict[str, Any]:
    """One figure's paired change; documents of the same content count as one cluster."""
    values = np.concatenate([before, after])
    verdicts = bool(np.isin(values, (0.0, 1.0)).all())
    share = bool(((values >= 0) & (values <= 1)).all())
    fixed, broken, p = mcnemar_exact(before, after)
    found = {
        "n": len(set(documents)),
        "before": float(before.mean()),
        "after": float(after.mean()),
        "change": float((after - before).mean()),
        "higher_is_better": higher_is_better,
        "share": share,
        "low": None,
        "high": None,
        "changed": float((before != after).mean()),
        "p": p if verdicts else _z_test(after - before, documents),
    }
    if verdicts:
        found |= {"fixed": fixed, "broken": broken}
    if found["n"] > 1:
        bounds = SHARE if share else None
        interval = paired_bootstrap(before, after, documents, draws=DRAWS, seed=seed, bounds=bounds)
        found |= {"low": interval.low, "high": interval.high}
    if verdicts and found["n"] > 1:
        least = minimum_detectable_gain(len(before) / design_effect(after - before, documents), found["changed"])
        found["smallest_change_shown"] = None if isinf(least) else least
    return found


def _sign(figure: Mapping[str, Any]) -> int:
    """1 where the whole interval is better, -1 where it is worse, else 0."""
    if figure["low"] is None or figure["low"] <= 0 <= figure["high"]:
        return 0
    return 1 if (figure["low"] > 0) == figure["higher_is_better"] else -1


def _z_test(change: np.ndarray, documents: Sequence[str]) -> float:
    """Two-sided p of d̄ / SE, SE clustered by document (Miller 2024, 2411.00640)."""
    error, mean = clustered_standard_error(change, documents), float(change.mean())
    if not error:
        return 1.0 if not mean or len(set(documents)) < 2 else 0.0
    return erfc(abs(mean) / error / sqrt(2))


def _warning(figure: Mapping[str, Any]) -> str:
    """What the figure cannot say: drops of a share that the interval does not rule out."""
    if figure["n"] < 2:
        return "one document says nothing about others: raise --limit or add documents."
    if figure["drop"] or not figure["share"]:
        return ""
    possible = -figure["low"] if figure["higher_is_better"] else figure["high"]
    if possible <= TOLERATED:
        return ""
    enough = sample_size(TOLERATED, max(figure["changed"], TOLERATED), ALPHA, POWER)
    more = f"; {enough:,} would show one of {100 * TOLERATED:.0f}" if enough > figure["n"] else ""
    return f"{figure['n']:,} documents do not rule out a drop of {100 * possible:.1f} points{more}."
