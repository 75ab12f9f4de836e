"""How far judges agree with people, beside how far people agree with each other and what length alone would say.

Every figure has its n and a 95% interval by bootstrap over prompts; a figure that is undefined, or that only one
prompt could speak for, has no estimate or no interval. The formulas are in `prefloop.maths.agreement` and
`prefloop.maths.calibration`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefloop.evaluation.opinions import (
    Opinions,
    Pair,
    judge_opinions,
    labelled_pairs,
    length_differences,
    rater_verdicts,
)
from prefloop.maths.agreement import (
    alpha_interval,
    decided_hits,
    kappa_interval,
    krippendorff_alpha,
    mean_kappa_interval,
    plurality,
    same_label,
)
from prefloop.maths.calibration import (
    brier_score,
    calibration_error_interval,
    cross_fitted,
    fit_temperature,
    logits,
    squared_errors,
)
from prefloop.maths.resampling import kept_clusters
from prefloop.maths.statistics import SHARE, Interval, clustered_mean_interval, paired_bootstrap
from prefloop.records import Completion, Judgement

Array = NDArray[np.float64]
Figure = dict[str, float | int | None]
"""``estimate``, ``ci_low``, ``ci_high`` and ``n``; None where undefined."""

LENGTH = "baseline/length"
TIE = 0.5
DRAWS, SEED = 1000, 0


def agreement(
    people: Sequence[Judgement],
    completions: Sequence[Completion],
    judges: Mapping[str, Sequence[Judgement]],
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> dict[str, Any]:
    """People among themselves, and each judge against them; the longer-wins baseline is always one of the judges.

    The people's verdict on a pair is the one that most raters gave, a tie where two have most.

    Args:
        people: ``choice`` judgements with values 1, 0 and ½, judge = the rater.
        judges: judgements by name, scores or choices (`opinions.judge_opinions`).

    Returns:
        ``people``: counts, and the figures alpha, same (share of equal labels of two raters, ties included), kappa
        (mean over pairs of raters), accuracy (a rater against the others' verdict: the ceiling for a judge) and
        longer_wins. ``judges``: by name, see `judge_figures`.

    Raises:
        DataError: a label is no choice, or an answer is missing.
    """
    pairs = labelled_pairs(people)
    names, ratings = rater_verdicts(people, pairs)
    differences = length_differences(pairs, completions)
    board = _Board(pairs, ratings, differences, draws, seed)
    given = {**judges, LENGTH: length_judge(pairs, completions)}
    return {
        "people": {"raters": {name: int((~np.isnan(row)).sum()) for name, row in zip(names, ratings, strict=True)}}
        | board.people_figures(),
        "judges": {name: board.judge_figures(judge_opinions(said, pairs)) for name, said in given.items()},
        "draws": draws,
        "seed": seed,
    }


def length_judge(pairs: Sequence[Pair], completions: Sequence[Completion]) -> list[Judgement]:
    """The baseline that knows nothing but length: the answer with more characters wins, equal ones tie."""
    differences = length_differences(pairs, completions)
    return [
        Judgement.create(pair.prompt_id, (pair.first, pair.second), LENGTH, "choice", (float(np.sign(d)) + 1) / 2)
        for pair, d in zip(pairs, differences, strict=True)
    ]


class _Board:
    """The people's labels on all pairs, against which judges are held."""

    def __init__(self, pairs: Sequence[Pair], ratings: Array, differences: Array, draws: int, seed: int) -> None:
        self._prompts = [pair.prompt_id for pair in pairs]
        self._ratings, self._differences = ratings, differences
        self._verdict, self._share = plurality(ratings), np.nanmean(ratings, axis=0)
        self._draws, self._seed = draws, seed

    def people_figures(self) -> dict[str, Any]:
        """What the raters say among themselves; figures of two raters are pooled over all pairs of raters."""
        ratings, count = self._ratings, len(self._ratings)
        two = [(a, b) for a in range(count) for b in range(a + 1, count)]
        same = np.array([same_label(ratings[a], ratings[b]) for a, b in two])
        others = [plurality(np.delete(ratings, r, axis=0)) for r in range(count)] if count > 1 else []
        ceiling = np.array([decided_hits(row, rest) for row, rest in zip(ratings, others, strict=False)])
        labels = (~np.isnan(ratings)).sum(axis=0)
        agreed = (labels > 1) & (np.nanmin(ratings, axis=0) == np.nanmax(ratings, axis=0))
        options = {"draws": self._draws, "seed": self._seed}
        return {
            "pairs": len(self._prompts),
            "prompts": len(set(self._prompts)),
            "ties": int((self._verdict == TIE).sum()),
            "unanimous": int(agreed.sum()),
            "alpha": _figure(alpha_interval(ratings, self._prompts, **options), (labels > 1).sum()),
            "same": self._mean(same),
            "kappa": _figure(mean_kappa_interval(ratings, self._prompts, **options), (labels > 1).sum()),
            "accuracy": self._mean(ceiling),
            "longer_wins": self._mean(self._longer(self._verdict)),
        }

    def judge_figures(self, opinions: Opinions) -> dict[str, Any]:
        """One judge against the people, on the pairs that it judged.

        Returns:
            ``judged``, ``unscored`` and ``not_judged`` pairs, ``ties`` of the judge; figures ``accuracy`` (on pairs
            that people decided, a tie of the judge counts half), ``kappa`` (against the people's verdict, ties are a
            label), ``alpha`` (raters and judge together) and ``alpha_people`` (the raters alone on these pairs);
            ``length`` and ``calibration``.
        """
        verdict, known = opinions.verdict_N, ~np.isnan(opinions.verdict_N)
        options = {"draws": self._draws, "seed": self._seed}
        judged = np.where(known, self._ratings, np.nan)
        together = alpha_interval(np.vstack([judged, verdict]), self._prompts, **options)
        return {
            "judged": int(known.sum()),
            "unscored": opinions.unscored,
            "not_judged": opinions.not_judged,
            "ties": int((verdict == TIE).sum()),
            "accuracy": self._mean(decided_hits(verdict, self._verdict)),
            "kappa": _figure(kappa_interval(verdict, self._verdict, self._prompts, **options), known.sum()),
            "alpha": _figure(together, known.sum()),
            "alpha_people": krippendorff_alpha(judged),
            "length": self._length_figures(verdict),
            "calibration": self._calibration(opinions),
        }

    def _length_figures(self, verdict: Array) -> dict[str, Figure]:
        """Share in which the longer answer wins, of pairs that both decide and that differ in length.

        Returns:
            ``judge``, ``people`` and their paired ``difference``.
        """
        judge, people = self._longer(verdict), self._longer(self._verdict)
        both = ~(np.isnan(judge) | np.isnan(people))
        judge, people = (np.where(both, side, np.nan) for side in (judge, people))
        names, difference = kept_clusters(self._prompts, both), None
        if len(set(names)) > 1:
            difference = paired_bootstrap(
                people[both], judge[both], names, draws=self._draws, seed=self._seed, bounds=SHARE
            )
        return {
            "judge": self._mean(judge),
            "people": self._mean(people),
            "difference": _figure(difference, both.sum()),
        }

    def _calibration(self, opinions: Opinions) -> dict[str, Any]:
        """Brier score and calibration error against the share of raters for the first answer, ties half.

        Returns:
            ``brier`` and ``ece`` as the judge says it, ``brier_tempered`` and ``ece_tempered`` with the temperature
            of the other folds of prompts, ``temperature`` fitted to all, and ``brier_half``, what p = ½ throughout
            would reach.
        """
        known = ~np.isnan(opinions.probability_N)
        said, share = opinions.probability_N[known], self._share[known]
        names = kept_clusters(self._prompts, known)
        if len(set(names)) < 2:
            return {}
        tempered = cross_fitted(logits(said), share, names, seed=self._seed)
        return {
            "brier": self._brier(said, share, names),
            "brier_tempered": self._brier(tempered, share, names),
            "brier_half": brier_score(np.full(len(share), 0.5), share),
            "ece": self._calibration_error(said, share, names),
            "ece_tempered": self._calibration_error(tempered, share, names),
            "temperature": fit_temperature(logits(said), share),
        }

    def _brier(self, probability: Array, share: Array, names: list[int]) -> Figure:
        errors = squared_errors(probability, share)
        return _figure(
            clustered_mean_interval(errors, names, draws=self._draws, seed=self._seed, bounds=SHARE), len(errors)
        )

    def _calibration_error(self, probability: Array, share: Array, names: list[int]) -> Figure:
        found = calibration_error_interval(probability, share, names, draws=self._draws, seed=self._seed)
        return _figure(found, len(share))

    def _longer(self, verdict: Array) -> Array:
        """1 where the longer answer wins, 0 where the shorter, NaN where neither or they are equally long."""
        unequal = np.where(self._differences == 0, np.nan, self._differences > 0)
        found = np.where(unequal == verdict, 1.0, 0.0)
        found[np.isnan(unequal) | np.isnan(verdict) | (verdict == TIE)] = np.nan
        return found

    def _mean(self, values: Array) -> Figure:
        """Mean of shares [N] or [rows, N] over what is known, clustered by prompt."""
        table = values.reshape(-1, len(self._prompts))
        known, flat = ~np.isnan(table).ravel(), table.ravel()
        names = kept_clusters(self._prompts * len(table), known)
        if not known.any():
            return _figure(None, 0)
        if len(set(names)) < 2:
            return {**_figure(None, known.sum()), "estimate": float(flat[known].mean())}
        found = clustered_mean_interval(flat[known], names, draws=self._draws, seed=self._seed, bounds=SHARE)
        return _figure(found, known.sum())


def _figure(found: Interval | None, n: int | np.int64) -> Figure:
    if found is None:
        return {"estimate": None, "ci_low": None, "ci_high": None, "n": int(n)}
    return {"estimate": found.estimate, "ci_low": found.low, "ci_high": found.high, "n": int(n)}
