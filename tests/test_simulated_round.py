"""Simulated raters of a round: the real queue, the same verdicts every time, and nothing that passes for people's."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from prefloop.annotation import simulated_round
from prefloop.annotation.simulated_round import SUMMARY, collect_simulated, simulated_raters
from prefloop.config.judges import PeopleConfig
from prefloop.config.loop import RatersConfig
from prefloop.errors import ConfigError, DataError, StoreError
from prefloop.judging.open import open_judge
from prefloop.preferences.votes import majority
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.tables import read_records, write_records

K = 5


def build_round(root: Path, prompts: int = 12) -> dict[str, float]:
    """A round's folder of so many prompts with `K` answers each; quality by completion id: a later one is better.

    The first prompt's answers are one text, so it gives nothing to compare.
    """
    asked = [Prompt.create(({"role": "user", "content": f"question {n}"},), "a-task", "train") for n in range(prompts)]
    answers = [
        Completion(f"{prompt.id}-{i}", prompt.id, i, 1, "same" if not n else f"answer {i}", (1, 2), (-0.5, -0.1),
                   "stop", "policy", {}, 1)
        for n, prompt in enumerate(asked) for i in range(K)
    ]  # fmt: skip
    write_records(root / "prompts.parquet", asked, Prompt)
    write_records(root / "completions.parquet", answers, Completion)
    return {answer.id: 20.0 * answer.index for answer in answers}


def certain(**changes: Any) -> RatersConfig:
    """Raters who never err: qualities 20 apart are drawn in their order but once in e²⁰."""
    return RatersConfig(**{"count": 4, "skill_low": 1.0, "skill_high": 1.0, "tie": 0.0, "overlap": 2, **changes})


def said(root: Path) -> list[Judgement]:
    return read_records(root / "people" / "judgements.parquet", Judgement)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_every_item_has_its_verdicts_by_different_raters_and_all_are_marked(tmp_path: Path) -> None:
    quality = build_round(tmp_path)
    found = collect_simulated(tmp_path, certain(), quality, 7)
    judgements = said(tmp_path)
    by_prompt: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        by_prompt.setdefault(judgement.prompt_id, []).append(judgement)
    assert len(by_prompt) == 11  # the twelfth has one text alone
    for rankings in by_prompt.values():
        assert len({ranking.judge for ranking in rankings}) == len(rankings) == 2
        assert len({frozenset(ranking.completion_ids) for ranking in rankings}) == 1
        assert len(rankings[0].completion_ids) == 4
    assert {judgement.judge for judgement in judgements} == {f"people/simulated-{n}" for n in (1, 2, 3, 4)}
    assert all(j.kind == "ranking" and j.raw["simulated"] is True and j.raw["role"] == "item" for j in judgements)
    assert (found["items"], found["judgements"], found["open_items"], found["pairs"]) == (11, 22, 0, 11)
    assert found["simulated"] is True
    assert json.loads((tmp_path / "people" / SUMMARY).read_text()) == found
    assert json.loads((tmp_path / "people" / "project.json").read_text())["simulated"] is True
    for card in ("README.md", "preferences/README.md"):
        assert "no person judged anything" in (tmp_path / "people" / card).read_text()


def test_certain_raters_say_the_order_of_the_qualities(tmp_path: Path) -> None:
    quality = build_round(tmp_path)
    collect_simulated(tmp_path, certain(), quality, 7)
    for judgement in said(tmp_path):
        assert [i for (i,) in judgement.ranking] == sorted(judgement.completion_ids, key=lambda i: -quality[i])


def test_skills_are_spread_evenly_and_show_in_the_verdicts(tmp_path: Path) -> None:
    config = RatersConfig(count=3, skill_low=0.5, skill_high=1.0, tie=0.0, overlap=3)
    assert [one.skill for one in simulated_raters(config)] == [0.5, 0.75, 1.0]
    quality = build_round(tmp_path, 81)
    collect_simulated(tmp_path, config, quality, 1)
    right: Counter[str] = Counter()
    for judgement in said(tmp_path):
        ends = judgement.ranking[0][0], judgement.ranking[-1][0]
        right[judgement.judge] += quality[ends[0]] > quality[ends[1]]
    # 80 rankings each, said as drawn or turned round: within 4 standard errors, 0.056 at most
    assert right["people/simulated-1"] / 80 == pytest.approx(0.5, abs=0.22)
    assert right["people/simulated-2"] / 80 == pytest.approx(0.75, abs=0.19)
    assert right["people/simulated-3"] == 80


def test_ties_come_at_their_rate(tmp_path: Path) -> None:
    quality = build_round(tmp_path, 41)
    collect_simulated(tmp_path, certain(tie=0.5, overlap=4), quality, 1)
    tied = [len(judgement.ranking) < len(judgement.completion_ids) for judgement in said(tmp_path)]
    assert sum(tied) / len(tied) == pytest.approx(0.5, abs=0.16)  # of 160: 4 standard errors


def test_two_answers_are_chosen_between(tmp_path: Path) -> None:
    quality = build_round(tmp_path)
    collect_simulated(tmp_path, certain(ranked=2), quality, 3)
    judgements = said(tmp_path)
    assert {judgement.kind for judgement in judgements} == {"choice"}
    for judgement in judgements:
        first, second = judgement.completion_ids
        assert judgement.value == float(quality[first] > quality[second])


def test_the_same_inputs_give_the_same_bytes_and_another_seed_other_ones(tmp_path: Path) -> None:
    roots = [tmp_path / name / "round" for name in "abc"]
    for root, seed in zip(roots, (5, 5, 6), strict=True):
        collect_simulated(root, RatersConfig(count=3), build_round(root), seed)
    a, b, c = (files(root / "people") for root in roots)
    assert a == b
    assert {name for name in a if a[name] != c.get(name)} >= {"judgements.jsonl", "judgements.parquet"}


def test_what_is_whole_is_left_alone_and_what_was_killed_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = (tmp_path / name / "round" for name in ("whole", "killed"))
    expected = collect_simulated(whole, RatersConfig(count=3), build_round(whole), 5)
    before = files(whole)
    monkeypatch.setattr(simulated_round, "open_database", None)  # not even opened again
    assert collect_simulated(whole, RatersConfig(count=3), build_round(whole), 5) == expected
    monkeypatch.undo()
    assert files(whole) == before

    quality, simulate = build_round(killed), simulated_round.simulate

    def in_the_middle(*args: Any, **options: Any) -> None:
        assert simulate(*args, **{**options, "verdicts": 10}) == 10
        raise KeyboardInterrupt

    def at_the_end(*args: Any) -> None:
        raise KeyboardInterrupt

    for place, ended in (("simulate", in_the_middle), ("_mark", at_the_end)):
        with monkeypatch.context() as patch:
            patch.setattr(simulated_round, place, ended)
            with pytest.raises(KeyboardInterrupt):
                collect_simulated(killed, RatersConfig(count=3), quality, 5)
        assert not (killed / "people").exists()
    assert collect_simulated(killed, RatersConfig(count=3), quality, 5) == expected
    assert files(killed / "people") == files(whole / "people")
    assert sorted(path.name for path in killed.iterdir()) == ["completions.parquet", "people", "prompts.parquet"]


def test_other_peoples_work_is_never_replaced(tmp_path: Path) -> None:
    quality = build_round(tmp_path)
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "judgements.parquet").write_bytes(b"what people said")
    with pytest.raises(StoreError, match="holds what people said"):
        collect_simulated(tmp_path, certain(), quality, 1)
    assert (tmp_path / "people" / "judgements.parquet").read_bytes() == b"what people said"


def test_other_settings_are_another_collection(tmp_path: Path) -> None:
    quality = build_round(tmp_path)
    collect_simulated(tmp_path, certain(), quality, 1)
    before = files(tmp_path)
    for config, changed, seed in (
        (certain(tie=0.1), quality, 1),
        (certain(), quality, 2),
        (certain(), {name: value + 1 for name, value in quality.items()}, 1),
    ):
        with pytest.raises(StoreError, match="with other settings"):
            collect_simulated(tmp_path, config, changed, seed)
    assert files(tmp_path) == before


def test_a_judge_people_reads_what_was_collected(tmp_path: Path) -> None:
    quality = build_round(tmp_path)
    collect_simulated(tmp_path, certain(), quality, 1)
    prompts = read_records(tmp_path / "prompts.parquet", Prompt)
    completions = read_records(tmp_path / "completions.parquet", Completion)
    with open_judge(PeopleConfig(), run=tmp_path) as judge:
        judged = judge.judge(prompts, completions)
    assert len(judged) == 22
    for found in majority(judged, Counter()).values():
        (one,) = found
        tiers = [quality[i] for (i,) in one.ranking]
        assert all(better > worse for better, worse in combinations(tiers, 2))


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    quality = build_round(tmp_path)
    with pytest.raises(ConfigError, match=r"raters.overlap is 5, but raters.count 4"):
        collect_simulated(tmp_path, certain(overlap=5), quality, 1)
    with pytest.raises(ConfigError, match=r"raters.who is people"):
        collect_simulated(tmp_path, RatersConfig(who="people"), quality, 1)
    with pytest.raises(DataError, match="44 answers have no quality"):
        collect_simulated(tmp_path, certain(), {}, 1)
    assert not (tmp_path / "people").exists()
