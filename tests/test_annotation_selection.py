"""Which pairs become items and in what order: probabilities held against counts, designs against brute force."""

from __future__ import annotations

import doctest
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prefloop.annotation import selection_design, selection_mix
from prefloop.annotation.selection import LISTED, Group, select_items
from prefloop.annotation.selection_design import PRIOR, d_optimal, differences, read_features
from prefloop.annotation.selection_judges import Opinions, moderate
from prefloop.annotation.selection_mix import Candidates, Chosen, capped, chances, draw, interleaved
from prefloop.config.annotation import AnnotationConfig
from prefloop.errors import ConfigError, DataError
from prefloop.records import Completion, Judgement, Prompt

MIX = (0.5, 0.3, 0.2)


def group(name: str, texts: list[str]) -> Group:
    prompt = Prompt.create(({"role": "user", "content": name},), "test", "train")
    answers = tuple(
        Completion(f"{name}{i}", prompt.id, i, 0, text, (), (), "stop", "m", {}, 0) for i, text in enumerate(texts)
    )
    return Group(prompt, answers)


def groups(count: int, answers: int) -> list[Group]:
    return [group(f"p{n}-", [f"answer {n} number {i}" for i in range(answers)]) for n in range(count)]


def score(completion: str, value: float, judge: str = "reward", **more: Any) -> Judgement:
    return Judgement.create("p", (completion,), judge, "score", value, **more)


def execution(completion: str, correct: float, value: float | None = None, digest: str = "") -> Judgement:
    said = correct if value is None else value
    return score(completion, said, "execution", objectives={"correct": correct}, raw={"digest": digest})


def choice(a: str, b: str, value: float, judge: str = "llm") -> Judgement:
    return Judgement.create("p", (a, b), judge, "choice", value)


def config(kind: str = "pairwise", seed: int = 1, **selection: Any) -> AnnotationConfig:
    return AnnotationConfig.model_validate({"kind": kind, "seed": seed, "selection": selection})


def candidates(prompts: int, each: int, seed: int = 0, identical: float = 0.0) -> Candidates:
    rng = np.random.default_rng(seed)
    total = prompts * each
    return Candidates(
        prompt=np.repeat(np.arange(prompts), each),
        gap=rng.random(total) < 0.25,
        disagreement=rng.random(total) < 0.15,
        identical=rng.random(total) < identical,
        chance=np.ones(total),
    )


def choose(found: Candidates, shares: tuple[float, ...], per_prompt: int, seed: int, most: int | None = None) -> Chosen:
    return draw(found, chances(found, shares, per_prompt, 0.05, most), np.random.default_rng(seed))


def test_docstring_examples() -> None:
    assert doctest.testmod(selection_mix).failed == doctest.testmod(selection_design).failed == 0


# The mix


def test_probabilities_of_one_prompt_by_hand() -> None:
    """Three pairs, one with a moderate gap, one place, shares ½ ½: the gap takes ½ + ½ · ⅓, the others ⅙ each."""
    found = Candidates(
        np.zeros(3, int), np.array([True, False, False]), np.zeros(3, bool), np.zeros(3, bool), np.ones(3)
    )
    seen: dict[int, float] = {}
    for seed in range(30):
        chosen = choose(found, (0.5, 0.5, 0.0), 1, seed)
        assert len(chosen.index) == 1
        seen[int(chosen.index[0])] = float(chosen.probability[0])
    assert seen == pytest.approx({0: 2 / 3, 1: 1 / 6, 2: 1 / 6})


def test_every_prompt_has_its_places_and_prefixes_have_the_shares() -> None:
    found = candidates(400, 10)
    chosen = choose(found, MIX, 2, 3)
    assert Counter(Counter(found.prompt[chosen.index].tolist()).values()) == {2: 400}
    assert len(set(chosen.index.tolist())) == 800
    for reached in (10, 50, 200, 800):
        shares = Counter(chosen.strata[:reached])
        for name, share in zip(("random", "gap", "disagreement"), MIX, strict=True):
            assert shares[name] / reached == pytest.approx(share, abs=0.04 + 1 / reached), (name, reached)


def test_what_a_stratum_lacks_goes_to_random() -> None:
    few = candidates(300, 6)
    rare = np.zeros(len(few.prompt), dtype=bool)
    rare[:12] = True  # only two prompts have them
    found = Candidates(few.prompt, few.gap, rare & ~few.gap, few.identical, few.chance)
    shares = Counter(choose(found, MIX, 1, 1).strata)
    assert shares["disagreement"] <= 2
    assert shares["gap"] / 300 == pytest.approx(0.3, abs=0.06)
    assert shares["random"] / 300 == pytest.approx(0.7, abs=0.06)


@pytest.mark.parametrize(("per_prompt", "most"), [(1, None), (3, None), (1, 9)])
def test_candidates_come_as_often_as_their_probability_says(per_prompt: int, most: int | None) -> None:
    found, draws = candidates(12, 6, seed=5, identical=0.3), 1500
    known = chances(found, MIX, per_prompt, 0.2, most)
    told, seen = known.probability, np.zeros(72)
    sizes = set()
    for seed in range(draws):
        chosen = draw(found, known, np.random.default_rng(seed))
        seen[chosen.index] += 1
        sizes.add(len(chosen.index))
        assert (chosen.probability == told[chosen.index]).all()
    error = np.sqrt(told * (1 - told) / draws)
    assert (abs(seen / draws - told) <= 4.5 * error + 1e-9).all()
    wanted = most or 12 * per_prompt  # less where a prompt has few pairs that are not thinned
    assert wanted - 2 < told.sum() <= wanted + 1e-9
    assert sizes <= {int(told.sum() + 1e-9), int(np.ceil(told.sum() - 1e-9))}


@pytest.mark.parametrize("reached", [12, 30, 60])
def test_inverse_propensity_weights_are_unbiased_in_any_prefix(reached: int) -> None:
    """Horvitz-Thompson: what was reached, weighted, against the mean of all candidates; a plain mean is far off."""
    found = candidates(60, 8, seed=2)
    value = 0.2 + 0.7 * found.gap + 0.1 * np.random.default_rng(0).random(480)  # the mix prefers gaps: bias
    weighted, plain = [], []
    known = chances(found, MIX, 1, 0.05)
    for seed in range(800):
        chosen = draw(found, known, np.random.default_rng(seed))
        index, probability = chosen.index[:reached], chosen.probability[:reached]
        weighted.append((value[index] / probability).sum() * len(chosen.index) / reached / 480)
        plain.append(value[index].mean())
    error = np.std(weighted) / np.sqrt(len(weighted))
    assert np.mean(weighted) == pytest.approx(value.mean(), abs=4 * error + 0.004)
    assert abs(np.mean(plain) - value.mean()) > 20 * error


@given(
    st.lists(st.tuples(st.just(0.0) | st.floats(0.001, 10), st.floats(0.1, 3)), min_size=1, max_size=12),
    st.floats(0.01, 20),
)
@settings(max_examples=200)
def test_capped_is_proportional_below_the_caps(rows: list[tuple[float, float]], total: float) -> None:
    size, caps = (np.array(column) for column in zip(*rows, strict=True))
    found = capped(size, caps, total)
    assert (found <= caps + 1e-9).all()
    assert (found[size == 0] == 0).all()
    assert found.sum() == pytest.approx(min(total, caps[size > 0].sum()), rel=1e-6)
    free = (found < caps - 1e-9) & (size > 1e-6)
    ratios = found[free] / size[free]
    assert np.allclose(ratios, ratios[:1], rtol=1e-6)
    if free.any():
        full = (size > 0) & ~free
        assert (caps[full] <= ratios[0] * size[full] * (1 + 1e-6) + 1e-9).all()


def test_interleaving_holds_the_proportions() -> None:
    strata = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    order = interleaved(strata, np.random.default_rng(0))
    assert sorted(order) == list(range(100))
    for reached in range(1, 101):
        counts = Counter(strata[i] for i in order[:reached])
        assert abs(counts["a"] - 0.6 * reached) <= 1.5
        assert abs(counts["b"] - 0.3 * reached) <= 1.5
        assert abs(counts["c"] - 0.1 * reached) <= 1.5


# Judges


def test_gaps_are_standardised_within_a_judge_and_averaged() -> None:
    judged = [score("a", 1.0), score("b", 4.0), score("c", 1.0), choice("a", "b", 0.25)]
    found = Opinions(judged).gaps([("a", "b"), ("b", "c"), ("a", "c"), ("a", "x")])
    # reward: -3, 3, 0 over √(18/3) = √6; llm: one difference of -½, over itself -1
    assert found[:3] == pytest.approx([(3 / 6**0.5 + 1) / 2, 3 / 6**0.5, 0.0])
    assert np.isnan(found[3])
    assert moderate(np.array([0, np.nan, 1, 2, 3, 4, 5, 6])).tolist() == [
        False,
        False,
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    assert not moderate(np.array([1.0, np.nan])).any()


def test_execution_says_who_should_win_and_others_where_it_ties() -> None:
    judged = [execution("a", 1, 0.6), execution("b", 0, 0.7), score("a", 0.0), score("b", 9.0)]
    found = Opinions(judged)
    assert found.judges == ("execution", "reward")
    assert found.expected(("b", "a")) == {"best": 1, "judge": "execution"}
    assert found.disagree(("a", "b"))
    tied = Opinions([execution("a", 1), execution("b", 1), score("a", 0.0), score("b", 9.0)])
    assert tied.expected(("a", "b")) == {"best": 1, "judge": "reward"}
    assert not tied.disagree(("a", "b"))
    assert Opinions([score("a", 1.0)]).expected(("a", "b")) is None
    assert Opinions([score("a", float("nan")), score("b", 1.0)]).expected(("a", "b")) is None


def test_both_orders_of_a_choice_count() -> None:
    found = Opinions([choice("a", "b", 1.0), choice("b", "a", 1.0)])  # the first shown always wins
    assert found.difference("llm", "a", "b") == 0
    assert found.verdict("llm", "a", "b") == 0
    assert Opinions([choice("b", "a", 1.0)]).verdict("llm", "a", "b") == -1


def test_a_ranking_expects_the_answer_above_all_others() -> None:
    tiers = (("c",), ("a", "b"))
    ranked = Judgement.create("p", ("a", "b", "c"), "oracle", "ranking", None, ranking=tiers)
    assert Opinions([ranked]).expected(("a", "b", "c")) == {"best": 2, "judge": "oracle"}
    assert Opinions([ranked]).expected(("a", "b")) is None


# Items


def test_the_same_seed_gives_the_same_items_and_another_one_others() -> None:
    asked = groups(40, 4)
    judged = [score(c.id, float(i * 7 % 5)) for g in asked for i, c in enumerate(g.answers)]
    first, again, other = (select_items(asked, judged, config(seed=seed)).items for seed in (1, 1, 2))
    assert first == again
    assert [item.id for item in first] != [item.id for item in other]
    assert len({item.prompt.id for item in first}) == 40
    assert all(0 < (item.probability or 0) <= 1 for item in first)
    assert {item.stratum for item in first} == {"random", "gap"}  # one judge: disagreement's share goes to random
    assert Counter(item.stratum for item in first)["gap"] == pytest.approx(12, abs=8)


def test_disagreement_needs_two_judges() -> None:
    asked = groups(100, 4)
    judged = [score(c.id, float(i)) for g in asked for i, c in enumerate(g.answers)]
    against = [score(c.id, -float(i) if i < 2 else 5.0 + i, "other") for g in asked for i, c in enumerate(g.answers)]
    strata = Counter(item.stratum for item in select_items(asked, judged + against, config()).items)
    assert strata["disagreement"] == pytest.approx(20, abs=12)
    picked = [item for item in select_items(asked, judged + against, config()).items if item.stratum == "disagreement"]
    assert all({answer.index for answer in item.answers} == {0, 1} for item in picked)
    assert not [i for i in select_items(asked, [], config()).items if i.stratum != "random"]


def test_pairs_with_nothing_to_choose_between_are_thinned() -> None:
    long = "Plan: count the games of the team in the season and give the number that is asked for, as told. "
    asked = [group(f"p{n}-", [long + "one", long + "two"]) for n in range(200)]
    asked += [group(f"q{n}-", [long + "one", "Plan: something else entirely."]) for n in range(20)]
    judged = [execution(c.id, 1, digest=f"{g.prompt.id}") for g in asked for c in g.answers]
    items = select_items(asked, judged, config()).items
    strata = Counter(item.stratum for item in items)
    assert strata == {"random": 20, "identical": 10}
    assert {round(item.probability or 0, 9) for item in items if item.stratum == "identical"} == {0.05}
    assert {round(item.probability or 0, 9) for item in items if item.stratum == "random"} == {1.0}
    none = select_items(asked, judged, config(identical=0)).items
    assert Counter(item.stratum for item in none) == {"random": 20}
    differing = [execution(c.id, 1, digest=c.id) for g in asked for c in g.answers]
    assert len(select_items(asked, differing, config()).items) == 220


def test_in_order_takes_the_first_of_each_prompt() -> None:
    items = select_items(groups(3, 3), [], config(strategy="in-order", pairs_per_prompt=2)).items
    assert [[a.id for a in item.answers] for item in items][:3] == [
        ["p0-0", "p0-1"],
        ["p0-0", "p0-2"],
        ["p1-0", "p1-1"],
    ]
    assert {(item.stratum, item.probability) for item in items} == {("in-order", None)}
    assert len(select_items(groups(3, 3), [], config(strategy="in-order", items=2)).items) == 2


def test_rankings_take_as_many_answers_as_asked_or_there_are() -> None:
    asked = [*groups(30, 6), group("few-", ["a", "b", "c"])]
    found = select_items(asked, [], config("ranking"))
    assert Counter(len(item.answers) for item in found.items) == {4: 30, 3: 1}
    assert found.candidates == 30 * 15 + 1
    assert {round(item.probability or 0, 9) for item in found.items} == {round(1 / 15, 9), 1.0}


def test_of_many_answers_some_pairs_are_looked_at_each_as_likely() -> None:
    found = select_items(groups(5, 40), [], config(strategy="random"))
    assert found.candidates == 5 * 780
    assert [item.probability for item in found.items] == pytest.approx([1 / 780] * 5)
    assert LISTED < 780


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="at most 1 together"):
        config(random_share=0.8, gap_share=0.3)
    assert not [
        i for i in select_items(groups(9, 3), [], config(random_share=0, gap_share=0)).items if not i.probability
    ]


# The simulation

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_simulation_counts_labels(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import annotation_selection as simulation

    curve = np.linspace(0.5, 0.95, len(simulation.SIZES))
    assert simulation.needed(curve, 0.4) == simulation.SIZES[0]
    assert simulation.needed(curve, 0.99) == simulation.SIZES[-1]
    assert simulation.needed(curve, curve[3]) == pytest.approx(simulation.SIZES[3])
    middle = simulation.needed(curve, (curve[3] + curve[4]) / 2)
    assert middle == pytest.approx((simulation.SIZES[3] * simulation.SIZES[4]) ** 0.5)
    monkeypatch.setattr(simulation, "PROMPTS", 60)
    monkeypatch.setattr(simulation, "TEST", 20)
    monkeypatch.setattr(simulation, "SIZES", (20, 60))
    simulation.main(["--seeds", "2"])
    out = capsys.readouterr().out
    assert out.count("| d-optimal |") == 1 + len(simulation.TARGETS)
    made = simulation.world(0)
    rows = made.test[:400]
    assert (
        np.mean((simulation.fitted(rows, rows @ made.theta > 0) @ made.test.T > 0) == (made.test @ made.theta > 0))
        > 0.9
    )


# D-optimal


def greedy_by_determinants(table: np.ndarray, prompts: np.ndarray, per_prompt: int, most: int) -> list[int]:
    """The definition, without updates: the pair that makes det(A + w x xᵀ) greatest."""
    scaled = table / np.sqrt((table**2).sum(axis=1).mean())
    weights = 0.25 / np.sqrt(1 + np.pi * PRIOR**2 * (scaled**2).sum(axis=1) / 8)
    matrix, found = np.eye(table.shape[1]) / PRIOR**2, []
    while len(found) < most:
        free = [
            i for i in range(len(table)) if i not in found and sum(prompts[j] == prompts[i] for j in found) < per_prompt
        ]
        if not free:
            break
        gains = [np.linalg.slogdet(matrix + weights[i] * np.outer(scaled[i], scaled[i]))[1] for i in free]
        best = free[int(np.argmax(np.round(gains, 12)))]
        matrix = matrix + weights[best] * np.outer(scaled[best], scaled[best])
        found.append(best)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_design_is_the_greedy_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, prompts = rng.standard_normal((30, 4)) * [3, 1, 1, 0.2], np.arange(30) // 3
    assert d_optimal(table, prompts, 2, 20) == greedy_by_determinants(table, prompts, 2, 20)
    whole = d_optimal(table, prompts, 3)
    assert sorted(whole) == list(range(30))


def test_orthogonal_directions_come_first() -> None:
    """In the plane: after (2, 0), gains are ln(1 + w x A⁻¹ x); what was seen counts less, what is new in full."""
    table = np.array([[2.0, 0.0], [1.99, 0.0], [1.4, 1.4], [0.0, 1.9], [0.0, 0.0]])
    order = d_optimal(table, np.arange(5), 1)
    assert order[:3] == [0, 3, 2]
    assert order[-1] == 4
    assert d_optimal(table, np.zeros(5, int), 1) == [0]
    assert d_optimal(np.zeros((0, 2)), np.zeros(0, int), 1) == []


def test_d_optimal_items_and_what_it_needs(tmp_path: Path) -> None:
    asked = groups(4, 3)
    ids = [c.id for g in asked for c in g.answers]
    np.savez(tmp_path / "f.npz", ids=np.array(ids), features=np.random.default_rng(0).standard_normal((12, 2)))
    features = read_features(tmp_path / "f.npz")
    items = select_items(asked, [], config(strategy="d-optimal"), features).items
    assert len({item.prompt.id for item in items}) == len(items) == 4
    assert {(item.stratum, item.probability) for item in items} == {("d-optimal", None)}
    rows = [tuple(c.id for c in pair) for g in asked for pair in combinations(g.answers, 2)]
    best = d_optimal(differences(rows, features, {}), np.arange(12) // 3, 1)
    assert [tuple(c.id for c in item.answers) for item in items] == [rows[i] for i in best]
    with pytest.raises(ConfigError, match="give --features"):
        select_items(asked, [], config(strategy="d-optimal"))
    with pytest.raises(ConfigError, match="kind=pairwise"):
        select_items(asked, [], config("ranking", strategy="d-optimal"), features)
    del features["p0-1"]
    with pytest.raises(DataError, match=r"1 answers have no features, completion p0-1 first"):
        select_items(asked, [], config(strategy="d-optimal"), features)
    assert select_items(
        asked, [], config(strategy="d-optimal"), {**features, "twin": np.ones(2)}, {"twin": "p0-1"}
    ).items


def test_features_in_parquet_are_those_of_npz(tmp_path: Path) -> None:
    table = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.savez(tmp_path / "f.npz", ids=np.array(["a", "b"]), features=table)
    pq.write_table(pa.table({"completion_id": ["a", "b"], "features": table.tolist()}), tmp_path / "f.parquet")
    one, other = read_features(tmp_path / "f.npz"), read_features(tmp_path / "f.parquet")
    assert one.keys() == other.keys() == {"a", "b"}
    assert all((one[name] == other[name]).all() for name in one)


def test_features_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK no archive")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    np.savez(tmp_path / "names.npz", other=np.ones(2))
    np.savez(tmp_path / "objects.npz", ids=np.array([{}], dtype=object), features=np.ones((1, 2)))
    np.savez(tmp_path / "short.npz", ids=np.array(["a", "b"]), features=np.ones((1, 2)))
    np.savez(tmp_path / "nan.npz", ids=np.array(["a"]), features=np.array([[np.nan, 1.0]]))
    pq.write_table(
        pa.table({"completion_id": ["a", "b"], "features": [[1.0], [1.0, 2.0]]}), tmp_path / "ragged.parquet"
    )
    for name in (
        "bad.npz",
        "bad.parquet",
        "names.npz",
        "objects.npz",
        "short.npz",
        "nan.npz",
        "ragged.parquet",
        "no.npz",
    ):
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            read_features(tmp_path / name)
