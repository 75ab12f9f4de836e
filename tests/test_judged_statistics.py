"""Statistics of judged comparisons against values derived by hand, closed forms, AlpacaEval's own code and sklearn."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from math import isnan, log
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.maths import calibration, diversity, length_control, resampling, win_rate
from prefloop.maths.calibration import (
    TEMPERATURES,
    brier_score,
    calibration_error,
    calibration_error_interval,
    cross_fitted,
    fit_temperature,
    logits,
    tempered,
)
from prefloop.maths.diversity import distinct_n, word_tokens
from prefloop.maths.length_control import (
    GamedRows,
    alpaca_eval_win_rate,
    extreme_change,
    length_controlled_win_rate,
)
from prefloop.maths.resampling import none_seen, resampled_counts, resampled_sums
from prefloop.maths.statistics import clustered_mean_interval, paired_bootstrap, sample_size
from prefloop.maths.win_rate import both_orders, prompts_needed, smallest_win_rate
from prefloop.maths.win_rate import win_rate as rate_of

NONE = float("nan")


@pytest.mark.parametrize("module", [calibration, diversity, length_control, resampling, win_rate])
def test_docstring_examples(module: ModuleType) -> None:
    found = doctest.testmod(module, extraglobs={"np": np})
    assert found.attempted
    assert not found.failed


# Win rates


def test_a_win_counts_only_where_it_survives_the_swap() -> None:
    # won, lost, tied; won then lost; tied then won; no verdict in one order
    first, second = [1, 0, 0.5, 1, 0.5, 1], [1, 0, 0.5, 0, 1, NONE]
    found = rate_of(first, second, "abcdef")
    assert (found.wins, found.ties, found.losses, found.invalid, found.n) == (1, 3, 1, 1, 5)
    assert found.rate.estimate == (1 + 3 / 2) / 5
    assert found.consistency == 3 / 5
    # single verdicts that name a winner: 1 0 1 shown first, 1 0 0 1 shown second; first slot won: 1, 1 and 0, 0
    assert found.decisive == 7
    assert found.first_slot == 4 / 7


def test_a_judge_that_always_takes_the_first_answer_shows_in_the_first_slot_and_wins_nothing() -> None:
    found = rate_of([1, 1, 1, 1], [0, 0, 0, 0], "abcd")
    assert (found.first_slot, found.consistency, found.ties, found.rate.estimate) == (1.0, 0.0, 4, 0.5)


def test_all_ties_and_no_verdicts() -> None:
    ties = rate_of([0.5] * 3, [0.5] * 3, "abc")
    assert ties.rate.estimate == 0.5
    assert ties.rate.low < 0.5 < ties.rate.high  # three ties do not show that nothing else occurs
    assert (ties.first_slot, ties.decisive, ties.detectable) == (None, 0, float("inf"))
    nothing = rate_of([NONE, 1], [1, NONE], "ab")
    assert (nothing.rate, nothing.n, nothing.invalid, nothing.consistency) == (None, 0, 2, None)
    one = rate_of([1], [1], "a")
    assert (one.rate.low, one.rate.high) == (0, 1)


def test_pairs_of_one_prompt_are_resampled_together() -> None:
    verdicts = [1, 1, 1, 1, 0, 0, 0, 0]
    apart, together = (rate_of(verdicts, verdicts, names).rate for names in ("abcdefgh", "aaaabbbb"))
    assert (together.low, together.high) == (0, 1)  # two clusters: 0, ½ or 1
    assert apart.high - apart.low < 1
    assert apart == clustered_mean_interval(verdicts, "abcdefgh", bounds=(0, 1))


def test_probabilities_are_read_as_the_verdict_they_lean_to() -> None:
    assert both_orders([0.9, 0.51, 0.5], [0.6, 0.4, 0.5]).tolist() == [1, 0.5, 0.5]
    with pytest.raises(ValueError, match="a verdict is"):
        both_orders([1.5], [1])
    with pytest.raises(ValueError, match="pair them first"):
        rate_of([1, 1], [1], "ab")


@given(st.lists(st.tuples(*[st.sampled_from([0, 0.5, 1, NONE])] * 2), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_swapping_model_and_baseline_turns_the_win_rate_round(games: list[tuple[float, float]]) -> None:
    first, second = map(np.array, zip(*games, strict=True))
    names = list(range(len(games)))
    forth = rate_of(first, second, names, draws=10)
    # the model's answer shown first is the baseline's shown second
    back = rate_of(1 - second, 1 - first, names, draws=10)
    assert (forth.wins, forth.losses, forth.ties, forth.invalid) == (back.losses, back.wins, back.ties, back.invalid)
    assert (forth.first_slot, forth.consistency) == (back.first_slot, back.consistency)
    if forth.n:
        assert forth.rate.estimate == pytest.approx(1 - back.rate.estimate)


@pytest.mark.parametrize(("discordant", "needed"), [(0.10, 312), (0.20, 626), (0.30, 940), (0.40, 1254)])
def test_prompts_for_five_points_more(discordant: float, needed: int) -> None:
    assert sample_size(0.05, discordant) == needed
    # five points more wins than losses are a win rate of 52.5%
    assert prompts_needed(0.525, discordant) == prompts_needed(0.475, discordant) == needed


def test_prompts_for_a_win_rate_of_55_percent() -> None:
    # n = (1.9600·½ + 0.8416·√(0.55·0.45))² / 0.05² = 782.6
    assert prompts_needed(0.55) == 783
    assert smallest_win_rate(783) == pytest.approx(0.55, abs=1e-4)
    with pytest.raises(ValueError, match="does not fit"):
        prompts_needed(0.8, decided=0.5)


def test_so_many_prompts_show_the_win_rate_that_was_planned_for() -> None:
    rng, n = np.random.default_rng(0), prompts_needed(0.6, decided=0.5)
    outcomes = rng.choice([1, 0.5, 0], p=[0.35, 0.5, 0.15], size=(400, n))
    z = (outcomes.mean(axis=1) - 0.5) / (outcomes.std(axis=1, ddof=1) / np.sqrt(n))
    assert 0.72 < (z > 1.96).mean() < 0.88


def test_what_a_set_can_show_counts_prompts_not_pairs() -> None:
    verdicts = np.random.default_rng(1).choice([0.0, 1.0], size=200)
    repeated = np.repeat(verdicts, 4)
    alone = rate_of(verdicts, verdicts, list(range(200)), draws=10).detectable
    together = rate_of(repeated, repeated, list(np.repeat(np.arange(200), 4)), draws=10).detectable
    assert alone == pytest.approx(together)
    assert alone == pytest.approx(smallest_win_rate(200))


# Length control


@pytest.fixture(scope="module")
def alpaca_eval() -> Iterator[ModuleType]:
    """alpaca_eval's own regression, with stand-ins for the parts of its package that only load files and clients."""
    pytest.importorskip("sklearn")
    pytest.importorskip("patsy")
    spec = importlib.util.find_spec("alpaca_eval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("alpaca_eval is not installed")
    root = Path(spec.submodule_search_locations[0])
    tables = dict.fromkeys(("convert_to_dataframe", "load_or_convert_to_dataframe"), pd.DataFrame)
    settings_ = dict.fromkeys(("DATASETS_TOKEN", "DATASETS_FORCE_DOWNLOAD", "DEFAULT_CACHE_DIR"))
    valid = {"validate_alpacaeval_preference": lambda x, is_allow_nan=True: 1 <= x <= 2 or isnan(x)}
    parts: dict[str, dict[str, Any]] = {
        "alpaca_eval": {"__path__": [str(root)]},
        "alpaca_eval.metrics": {"__path__": [str(root / "metrics")]},
        "alpaca_eval.constants": settings_,
        "alpaca_eval.types": {"AnyLoadableDF": object},
        "alpaca_eval.utils": tables | valid,
    }
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in parts.items():
            module = ModuleType(name)
            vars(module).update(content)
            patch.setitem(sys.modules, name, module)
        for name in ("constants", "types", "utils"):
            setattr(sys.modules["alpaca_eval"], name, sys.modules[f"alpaca_eval.{name}"])
        yield importlib.import_module("alpaca_eval.metrics.glm_winrate")
        for name in [name for name in sys.modules if name.startswith("alpaca_eval")]:
            sys.modules.pop(name)


def leaderboard(n: int, theta: float, phi: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Made annotations of one model, with ties (0) and missing ones, and of two gamed baselines."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(20, 900, n), rng.integers(20, 1400, n)
    difficulty = rng.normal(size=n)
    x = (first - second) / (first - second).std(ddof=1)
    p = 1 / (1 + np.exp(-(theta + phi * np.tanh(x) + 0.8 * difficulty + rng.normal(size=n))))
    preference = np.where(rng.random(n) < 0.05, 0.0, 1 + p)
    preference[rng.random(n) < 0.03] = np.nan
    lengths = {"output_1": ["x" * int(k) for k in first], "output_2": ["x" * int(k) for k in second]}
    table = pd.DataFrame({"preference": preference, "index": np.arange(n), **lengths, "generator_1": "baseline"})
    gamed_x = np.concatenate([rng.normal(-1, 0.3, n), rng.normal(1, 0.3, n)])
    gamed_p = 1 / (1 + np.exp(-phi * np.tanh(gamed_x) + 0.5 * rng.normal(size=2 * n)))
    gamed = {"preference": gamed_p, "index": np.tile(np.arange(n), 2), "std_delta_len": gamed_x}
    extra = {"instruction_difficulty": np.tile(difficulty, 2), "not_gamed_baseline": False, "model": "gamed"}
    return table.assign(generator_2="model", annotator="judge"), pd.DataFrame(gamed | extra)


def ours(table: pd.DataFrame, gamed: pd.DataFrame, with_gamed: bool) -> length_control.AlpacaEvalRate:
    rows = GamedRows(*(gamed[name].to_numpy() for name in ("preference", "std_delta_len", "instruction_difficulty")))
    return alpaca_eval_win_rate(
        table["preference"].replace({0.0: 1.5}).to_numpy() - 1,
        table["output_2"].str.len().to_numpy(),
        table["output_1"].str.len().to_numpy(),
        gamed["instruction_difficulty"].to_numpy()[: len(table)],
        rows if with_gamed else None,
    )


@pytest.mark.filterwarnings("ignore::FutureWarning:sklearn")
@pytest.mark.parametrize("with_gamed", [True, False])
@pytest.mark.parametrize(("theta", "phi", "seed"), [(0.6, -1.2, 0), (-0.9, -0.4, 1), (0.05, 1.5, 2)])
def test_alpaca_eval_itself_finds_the_same(
    alpaca_eval: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    theta: float,
    phi: float,
    seed: int,
    with_gamed: bool,
) -> None:
    table, gamed = leaderboard(150, theta, phi, seed)
    gamed.to_csv(tmp_path / "gamed.csv", index=False)
    monkeypatch.setattr(alpaca_eval, "hf_hub_download", lambda **_: tmp_path / "gamed.csv")
    name = "length_controlled_v1" if with_gamed else "length_controlled_noreg"
    # its solver stops early by default; these settings let it finish
    exact = {**alpaca_eval.GLM_INFO[name], "kwargs": {"n_splits": 5, "tol": 1e-10, "max_iter": 20_000}}
    fits: list[Any] = []
    fit = alpaca_eval.fit_LogisticRegressionCV
    monkeypatch.setattr(alpaca_eval, "fit_LogisticRegressionCV", lambda *a, **k: fits.append(fit(*a, **k)) or fits[-1])
    theirs = alpaca_eval.get_length_controlled_winrate(table, glm_name=name, save_weights_dir=None, glm_info=exact)
    found = ours(table, gamed, with_gamed)
    assert found.strength == pytest.approx(fits[0].C_[0])
    assert [found.length, found.difficulty, found.model] == pytest.approx(fits[0].coef_[0], abs=1e-5)
    assert 100 * found.controlled == pytest.approx(theirs["length_controlled_winrate"], abs=1e-4)
    assert 100 * found.raw == pytest.approx(theirs["win_rate"])
    assert found.length * phi > 0  # the control sees the judge's lean


@pytest.mark.filterwarnings("ignore::FutureWarning:sklearn")
def test_alpaca_eval_as_it_stands_finds_nearly_the_same(
    alpaca_eval: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, gamed = leaderboard(150, 0.6, -1.2, 0)
    gamed.to_csv(tmp_path / "gamed.csv", index=False)
    monkeypatch.setattr(alpaca_eval, "hf_hub_download", lambda **_: tmp_path / "gamed.csv")
    theirs = alpaca_eval.get_length_controlled_winrate(table, save_weights_dir=None)
    assert 100 * ours(table, gamed, True).controlled == pytest.approx(theirs["length_controlled_winrate"], abs=0.05)


@given(st.floats(0, 100), st.floats(0, 100))
@settings(max_examples=100, deadline=None)
def test_alpaca_eval_warns_of_the_same_changes(alpaca_eval: ModuleType, raw: float, controlled: float) -> None:
    low, high = min(raw * 0.75, raw - 10), max(raw + (100 - raw) / 4, raw + 10)
    if min(abs(controlled - low), abs(controlled - high)) > 1e-6:  # away from rounding
        assert extreme_change(raw / 100, controlled / 100) == alpaca_eval.get_is_extreme_changes(raw, controlled)


def judged(n: int, theta: float, phi: float, seed: int, longer_by: float = 0) -> tuple[np.ndarray, ...]:
    """Verdicts drawn from the minimal model, and the lengths of both sides."""
    rng = np.random.default_rng(seed)
    model, baseline = rng.normal(500 + longer_by, 100, n), rng.normal(500, 100, n)
    d = model - baseline
    p = 1 / (1 + np.exp(-(theta + phi * np.tanh(d / d.std(ddof=1)))))
    return (rng.random(n) < p).astype(float), model, baseline


def test_the_minimal_form_is_the_ridge_regression_of_sklearn() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    preference, model, baseline = judged(120, 0.4, 1.0, 3, longer_by=40)
    preference[:30] = 0.5
    d = model - baseline
    rows = np.column_stack([np.ones(120), np.tanh(d / d.std(ddof=1))])
    oracle = linear.LogisticRegression(C=100.0, fit_intercept=False, tol=1e-12, max_iter=10_000)
    labels, weights = np.repeat([1, 0], 120), np.concatenate([preference, 1 - preference])
    theta, phi = oracle.fit(np.vstack([rows, rows]), labels, sample_weight=weights).coef_[0]
    found = length_controlled_win_rate(preference, model, baseline, list(range(120)), draws=50)
    assert found.controlled.estimate == pytest.approx(1 / (1 + np.exp(-theta)), abs=1e-6)
    assert found.length == pytest.approx(phi, abs=1e-5)


def test_a_known_lean_to_length_is_taken_out() -> None:
    preference, model, baseline = judged(2000, 0.3, 1.5, 4, longer_by=100)
    found = length_controlled_win_rate(preference, model, baseline, list(range(2000)), draws=200)
    truth = 1 / (1 + np.exp(-0.3))
    assert found.controlled.low < truth < found.controlled.high
    assert found.raw.low > truth  # the longer answers had won more
    assert found.length == pytest.approx(1.5, abs=0.3)
    assert found.controlled.high - found.controlled.low > 0.02
    assert not found.extrapolated


def test_where_length_does_not_matter_the_control_changes_nothing() -> None:
    preference, model, baseline = judged(4000, 0.5, 0.0, 5)
    found = length_controlled_win_rate(preference, model, baseline, list(range(4000)), draws=10)
    assert found.controlled.estimate == pytest.approx(found.raw.estimate, abs=0.003)


def test_the_interval_is_as_wide_as_the_estimates_spread() -> None:
    """A width of 3.92 standard deviations over repeated sets; the coverage itself, 94.4% of 450 sets, takes a minute."""

    def repeated(seed: int, draws: int) -> length_control.LengthControlledRate:
        return length_controlled_win_rate(*judged(150, 0.3, 1.0, seed, longer_by=50), list(range(150)), draws=draws)

    found = np.array([repeated(seed, 2).controlled.estimate for seed in range(400)])
    widths = [(kept := repeated(1000 + seed, 300).controlled).high - kept.low for seed in range(8)]
    assert np.mean(widths) / 3.92 == pytest.approx(found.std(), rel=0.15)  # ±4% from 400 sets, ±4% from 8 widths
    assert found.mean() == pytest.approx(1 / (1 + np.exp(-0.3)), abs=0.01)


def test_the_interval_goes_by_prompts() -> None:
    preference, model, baseline = judged(100, 0.3, 1.0, 6)
    four = [np.repeat(values, 4) for values in (preference, model, baseline)]
    names = [str(i) for i in np.repeat(np.arange(100), 4)]
    together = length_controlled_win_rate(*four, names, draws=400).controlled
    apart = length_controlled_win_rate(*four, list(range(400)), draws=400).controlled
    alone = length_controlled_win_rate(preference, model, baseline, list(range(100)), draws=400).controlled
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert together.high - together.low > 1.6 * (apart.high - apart.low)


def test_a_baseline_against_itself_is_a_half() -> None:
    lengths = [10, 20, 30, 40]
    found = length_controlled_win_rate([0.5] * 4, lengths, lengths, "abcd")
    assert (found.controlled.estimate, found.raw.estimate, found.length) == (0.5, 0.5, None)
    assert found.left_out == "all pairs differ in length by the same amount"
    assert found.controlled.low < 0.5 < found.controlled.high


def test_longer_always_wins() -> None:
    rng = np.random.default_rng(7)
    d = np.concatenate([steps := rng.uniform(1, 100, 60), -steps])
    found = length_controlled_win_rate(d > 0, 500 + d, np.full(120, 500), list(range(120)), draws=200)
    assert found.raw.estimate == 0.5
    assert found.controlled.estimate == pytest.approx(0.5, abs=1e-6)
    assert found.length > 3
    assert np.isfinite(found.length)
    # nearly all answers longer: 98% won, and what is left at equal length is a guess
    more = np.concatenate([rng.uniform(1, 100, 98), [-5, -50]])
    found = length_controlled_win_rate(more > 0, 500 + more, np.full(100, 500), list(range(100)), draws=200)
    assert found.raw.estimate == 0.98
    assert found.extrapolated
    assert found.shorter == 0.02
    assert found.controlled.estimate < 0.9
    assert found.controlled.high - found.controlled.low > 0.3


def test_all_won_needs_no_regression() -> None:
    found = length_controlled_win_rate([1] * 10, range(10), [5] * 10, list(range(10)))
    assert found.left_out == "all outcomes are equal"
    assert found.controlled == found.raw
    assert found.controlled.estimate == 1
    assert found.controlled.low == pytest.approx(1 - none_seen(10))


def test_swapping_the_sides_turns_the_controlled_rate_round() -> None:
    preference, model, baseline = judged(200, 0.4, 0.8, 8, longer_by=30)
    forth = length_controlled_win_rate(preference, model, baseline, list(range(200)), draws=100)
    back = length_controlled_win_rate(1 - preference, baseline, model, list(range(200)), draws=100)
    assert forth.controlled.estimate == pytest.approx(1 - back.controlled.estimate, abs=1e-9)
    assert forth.length == pytest.approx(back.length, abs=1e-9)
    assert forth.controlled.low == pytest.approx(1 - back.controlled.high, abs=1e-9)


@given(st.lists(st.tuples(st.sampled_from([0, 0.5, 1]), st.integers(0, 100_000)), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_verdicts_and_lengths_give_a_rate(rows: list[tuple[float, int]]) -> None:
    preference, lengths = zip(*rows, strict=True)
    found = length_controlled_win_rate(preference, lengths, [500] * len(rows), list(range(len(rows))), draws=20)
    assert 0 <= found.controlled.low <= found.controlled.high <= 1
    assert 0 <= found.controlled.estimate <= 1


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        (([1, NONE], [1, 2], [1, 1]), "leave the pair out"),
        (([1, 2], [1, 2], [1, 1]), "lies in 0..1"),
        (([1, 0], [1, NONE], [1, 1]), "a length or difficulty is missing"),
        (([1, 0], [1, 2, 3], [1, 1]), "do not match"),
    ],
)
def test_rows_that_cannot_be_fitted_are_refused(arrays: tuple[list[float], ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        length_controlled_win_rate(*arrays, "ab")


def test_alpaca_evals_form_needs_lengths_that_differ_and_five_rows() -> None:
    with pytest.raises(ValueError, match="no length to control for"):
        alpaca_eval_win_rate([1, 0], [1, 2], [1, 2], [0, 0])
    with pytest.raises(ValueError, match="too few for 5 folds"):
        alpaca_eval_win_rate([1, 0], [1, 2], [1, 1], [0, 0])


# Calibration


def test_brier_score() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    # (0.1² + 0.4² + 0.5²) / 3
    assert brier_score([0.9, 0.4, 0.5], [1, 0, 1]) == pytest.approx((0.01 + 0.16 + 0.25) / 3)
    rng = np.random.default_rng(0)
    p, y = rng.random(500), rng.integers(0, 2, 500)
    assert brier_score(p, y) == pytest.approx(metrics.brier_score_loss(y, p))
    assert brier_score([0.5, 0.5], [1, 0.5]) == 0.125  # a label that people tie on


def test_calibration_error_over_bins_of_equal_mass() -> None:
    curve = pytest.importorskip("sklearn.calibration").calibration_curve
    rng = np.random.default_rng(1)
    p = rng.permutation(np.linspace(0.01, 0.99, 1000))
    y = (rng.random(1000) < p**2).astype(float)
    true, said = curve(y, p, n_bins=10, strategy="quantile")
    assert calibration_error(p, y) == pytest.approx(np.abs(true - said).mean())
    assert calibration_error(p, y) > 0.1  # mean of p - p² is 1/6


def test_calibration_error_by_hand() -> None:
    # three pairs in two bins of 1.5: the middle one counts half in both: |0.5·(0.5-1) + 0.1 - 0| = 0.15, |-0.25 - 0.1|
    assert calibration_error([0.1, 0.5, 0.9], [0, 1, 1], bins=2) == pytest.approx((0.15 + 0.35) / 3)
    assert calibration_error([0.3, 0.3], [0, 1], bins=5) == pytest.approx(0.2)  # bins of equal p share their labels
    assert calibration_error([0, 1], [0, 1]) == 0
    assert calibration_error([1, 0], [0, 1]) == 1


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.7]), st.sampled_from([0, 0.5, 1])), min_size=1), st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_order_of_pairs_does_not_change_the_calibration_error(rows: list[Any], random: Any) -> None:
    mixed = random.sample(rows, len(rows))
    assert calibration_error(*zip(*rows, strict=True)) == pytest.approx(calibration_error(*zip(*mixed, strict=True)))


def test_the_interval_of_the_calibration_error_takes_out_its_lean() -> None:
    rng = np.random.default_rng(2)
    p = rng.random(300)
    y = rng.random(300) < p  # calibrated: what is measured is noise
    found = calibration_error_interval(p, y, list(range(300)), draws=200)
    assert found.estimate > 0.02
    assert found.low < found.estimate / 2
    wrong = calibration_error_interval(p, 1 - p > 0.5, list(range(300)), draws=200)
    assert wrong.low > 0.4
    with pytest.raises(ValueError, match="at least two clusters"):
        calibration_error_interval([0.5, 0.5], [0, 1], "aa")


def test_temperature_undoes_a_judge_that_is_too_sure() -> None:
    rng = np.random.default_rng(3)
    z = rng.normal(0, 1.5, 20_000)
    y = rng.random(20_000) < tempered(z, 1.0)
    assert fit_temperature(3 * z, y) == pytest.approx(3, rel=0.05)
    # the slope of a logistic regression without penalty is 1 / T
    linear = pytest.importorskip("sklearn.linear_model")
    slope = linear.LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(3 * z[:, None], y).coef_[0, 0]
    assert fit_temperature(3 * z, y) == pytest.approx(1 / slope, rel=1e-5)


def test_temperature_at_its_bounds() -> None:
    z = np.array([1.0, -1.0, 2.0])
    assert fit_temperature(z, z < 0) == pytest.approx(TEMPERATURES[1], rel=1e-3)  # always wrong: knows nothing
    assert fit_temperature(np.array([1.0, 1.0]), [1, 0]) == pytest.approx(TEMPERATURES[1], rel=1e-3)
    assert tempered(z, fit_temperature(z, z > 0)) == pytest.approx([1, 0, 1], abs=1e-3)  # always right


def test_logits_of_certainty_are_finite() -> None:
    assert logits([0, 0.5, 1]) == pytest.approx([-log(999_999), 0, log(999_999)])


def test_no_pair_is_tempered_with_its_own_label() -> None:
    rng = np.random.default_rng(4)
    z, names = rng.normal(size=60), [str(i) for i in np.repeat(np.arange(20), 3)]
    y = (rng.random(60) < tempered(z, 0.5)).astype(float)
    before = cross_fitted(z, y, names)
    changed = y.copy()
    changed[:3] = 1 - changed[:3]  # one prompt
    after = cross_fitted(z, changed, names)
    assert after[:3] == pytest.approx(before[:3], abs=0)
    assert (after != before).any()
    assert cross_fitted(z[::-1], y[::-1], names[::-1])[::-1] == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize(("p", "y"), [([0.5], [2]), ([1.5], [1]), ([], []), ([0.5, 0.5], [1]), ([NONE], [1])])
def test_what_is_no_probability_is_refused(p: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match=r"probabilities"):
        brier_score(p, y)


# Diversity


def test_distinct_n_grams() -> None:
    assert distinct_n([[1, 2, 3]], 1) == 1
    assert distinct_n([[1, 1, 1, 1]], 2) == 1 / 3
    assert distinct_n([["a"], ["b"]], 2) is None  # no n-gram crosses texts
    assert distinct_n([], 1) is None
    with pytest.raises(ValueError, match="not 0"):
        distinct_n([[1]], 0)


def test_words_of_any_script() -> None:
    assert word_tokens("Straße STRASSE") == ["strasse", "strasse"]
    assert word_tokens("cafe\u0301") == word_tokens("café") == ["café"]
    assert word_tokens("שלום, עולם! 😀") == ["שלום", ",", "עולם", "!", "😀"]
    assert word_tokens("  \n ") == []


# Resampling


def test_resampled_sums_are_those_of_whole_clusters() -> None:
    rows = np.array([[1.0, 1.0], [2.0, 1.0], [10.0, 1.0]])
    sums = resampled_sums(rows, "aab", draws=2000, seed=0)
    assert {tuple(row) for row in sums} == {(6.0, 4.0), (13.0, 3.0), (20.0, 2.0)}
    assert (sums[:, 0] == 13).mean() == pytest.approx(0.5, abs=0.05)
    again = resampled_sums(rows[::-1], "baa", draws=2000, seed=0)
    assert (sums == again).all()


def test_draws_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resampled_counts(5, 30, 0, 5)))
    monkeypatch.setattr(resampling, "CELLS_AT_ONCE", 35)
    blocks = list(resampled_counts(5, 30, 0, 5))
    assert len(blocks) == 5
    assert (np.concatenate(blocks) == whole).all()
    assert (whole.sum(axis=1) == 5).all()


def test_both_bootstraps_find_the_same_interval() -> None:
    rng = np.random.default_rng(9)
    d = rng.normal(size=200)
    sums = resampled_sums(np.column_stack([d, np.ones(200)]), list(range(200)), draws=4000, seed=1)
    mine = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    other = paired_bootstrap(np.zeros(200), d, list(range(200)), draws=4000)
    assert mine == pytest.approx([other.low, other.high], abs=0.02)
