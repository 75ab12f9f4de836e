"""The reward model of a round learns from some raters on some prompts and is examined on others by others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import prefloop
from hypothesis import given
from hypothesis import strategies as st
from test_training import build_model_folder, files
from transformers import AutoModelForSequenceClassification

from prefloop.config.loop import RatersConfig, RlhfConfig
from prefloop.config.recipe import Recipe
from prefloop.config.training import RewardTrainingConfig
from prefloop.errors import DataError, JudgeError
from prefloop.evaluation.reward_examined import (
    RatedPair,
    accuracy,
    against_truth,
    calibration,
    rated_pairs,
    raters_figures,
)
from prefloop.loop import run_training
from prefloop.loop.launch import Launch
from prefloop.loop.reward_round import Scorer, split_of, train_reward
from prefloop.models.load import Policy, load_policy
from prefloop.models.source import PolicySource
from prefloop.models.template import encode_completion, encode_prompt
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.run_folder import RunFolder

RATERS = tuple(f"people/r{n}" for n in range(4))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(build_model_folder(tmp_path_factory.mktemp("model")), device="cpu")


def asked(count: int) -> list[Prompt]:
    return [
        Prompt.create(({"role": "user", "content": f"how many {n}"},), "toy", "train", {"template": f"t{n % 7}"})
        for n in range(count)
    ]


def answered(prompts: Sequence[Prompt], round_: int = 1) -> list[Completion]:
    """Two right answers and two wrong ones to each prompt; the last two are one text."""
    texts = ("points", "points points", "final who", "final who")
    return [
        Completion(f"{prompt.id}-{round_}-{i}", prompt.id, i, round_, text, (), (), "stop", "toy", {}, 0)
        for prompt in prompts
        for i, text in enumerate(texts)
    ]


def ranked(prompts: Sequence[Prompt], raters: Sequence[str] = RATERS, round_: int = 1) -> list[Judgement]:
    """Every rater puts a right answer above the other, and both above a wrong one."""
    return [
        Judgement.create(prompt.id, tuple(ids), rater, "ranking", 1.0, ranking=tuple((i,) for i in ids))
        for prompt in prompts
        for ids in [[f"{prompt.id}-{round_}-{i}" for i in range(3)]]
        for rater in raters
    ]


def right(completions: Sequence[Completion]) -> dict[str, float]:
    return {completion.id: float(completion.index < 2) for completion in completions}


def settings(**changes: Any) -> Recipe:
    reward = {"method": "full", "epochs": 8, "learning_rate": 5e-3, "batch_prompts": 8, "checkpoint_every": 2}
    reward |= changes.pop("reward", {})
    loop = {"name": "rlhf", "reward": reward, "held_out_prompts": 0.3, **changes}
    return Recipe(name="toy", loop=loop)


class TestSplit:
    @given(st.integers(2, 30), st.floats(0.01, 0.99), st.floats(0.01, 0.89))
    def test_shares_and_at_least_one_rater_on_either_side(self, count: int, share: float, prompts: float) -> None:
        names = [f"people/{n}" for n in range(count)]
        config = RlhfConfig(raters=RatersConfig(held_out_raters=share), held_out_prompts=prompts)
        shown = asked(3)
        found = split_of(shown, ranked(shown, names), config)
        assert 1 <= len(found.raters) <= count - 1
        assert abs(len(found.raters) - share * count) <= 1
        assert found.raters < set(names)

    def test_so_large_a_share_of_many_prompts(self) -> None:
        shown = asked(4000)
        found = split_of(shown, ranked(shown[:1]), RlhfConfig(held_out_prompts=0.15))
        assert len(found.prompts) / 4000 == pytest.approx(0.15, abs=0.023)  # 4 standard errors

    def test_a_later_round_holds_out_the_same(self) -> None:
        shown, config = asked(40), RlhfConfig(held_out_prompts=0.3)
        first, later = (split_of(part, ranked(part), config) for part in (shown[:20], shown))
        assert first.raters == later.raters
        assert later.prompts & {prompt.id for prompt in shown[:20]} == first.prompts
        assert split_of(shown[::-1], ranked(shown)[::-1], config) == later

    def test_one_rater_is_too_few(self) -> None:
        shown = asked(3)
        with pytest.raises(DataError, match="1 raters judged"):
            split_of(shown, ranked(shown, RATERS[:1]), RlhfConfig())


class TestExamined:
    def test_pairs_of_a_ranking_with_a_tie_and_of_choices(self) -> None:
        said = [
            Judgement.create("p", ("c", "a", "b"), "x", "ranking", 1.0, ranking=(("c",), ("a", "b"))),
            Judgement.create("q", ("e", "d"), "x", "choice", 1.0),
            Judgement.create("q", ("e", "d"), "y", "choice", 0.5),
            Judgement.create("q", ("e", "d"), "z", "choice", None, raw={"both_bad": True}),
            Judgement.create("q", ("e", "d"), "w", "choice", 0.0, raw={"left_out": "repeat"}),
        ]
        assert [(pair.first, pair.second, pair.judge, pair.label) for pair in rated_pairs(said)] == [
            ("a", "b", "x", 0.5), ("a", "c", "x", 0.0), ("b", "c", "x", 0.0), ("d", "e", "x", 0.0), ("d", "e", "y", 0.5)
        ]  # fmt: skip

    def test_accuracy_leaves_out_ties_and_unscored_answers(self) -> None:
        """Right, wrong, a tie of scores (½) and two that do not count: ½ of three."""
        pairs = [
            RatedPair("p", "a", "b", "x", 1.0),
            RatedPair("q", "a", "b", "x", 0.0),
            RatedPair("r", "a", "c", "x", 0.0),
            RatedPair("s", "a", "b", "x", 0.5),
            RatedPair("t", "a", "unscored", "x", 1.0),
        ]
        found = accuracy(pairs, {"a": 1.0, "b": 0.0, "c": 1.0})
        assert found is not None
        assert found["estimate"] == 0.5
        assert found["ci_low"] == 0
        assert found["ci_high"] == 1
        assert accuracy(pairs[:1], {"a": 1.0, "b": 0.0}) is None

    def test_calibration_by_hand(self) -> None:
        """Logit 1, right three times of four: T = 1 / ln 3, so p = ¾ each time; on two other labels 1 and 0."""
        fitted = [RatedPair("p", "a", "b", "x", label) for label in (1.0, 1.0, 1.0, 0.0)]
        examined = [RatedPair("p", "a", "b", "y", label) for label in (1.0, 0.0)]
        found = calibration(fitted, examined, {"a": 2.0, "b": 1.0})
        assert found["temperature"] == pytest.approx(1 / math.log(3), rel=1e-5)
        assert found["brier"] == pytest.approx((0.25**2 + 0.75**2) / 2, rel=1e-5)
        assert found["ece"] == pytest.approx(0.25, rel=1e-5)  # mean p ¾, mean label ½
        assert calibration([], examined, {"a": 2.0, "b": 1.0})["temperature"] is None
        assert calibration(fitted, examined, {"a": 2.0})["brier"] is None

    def test_against_the_truth_by_hand(self) -> None:
        """p: two right answers against a wrong one that scores between them; q: ordered rightly. 2 of 3."""
        prompts = asked(2)
        p, q = (answered([prompt]) for prompt in prompts)
        scores = {p[0].id: 3.0, p[1].id: 1.0, p[2].id: 2.0, q[0].id: 1.0, q[2].id: 0.0}
        truth = right([*p[:3], q[0], q[2]])
        found = against_truth(scores, truth, [*p, *q], {prompt.id: prompt.id for prompt in prompts})
        assert found["accuracy"]["estimate"] == pytest.approx(2 / 3)
        assert (found["n"], found["best_correct"], found["best_possible"], found["unscored"]) == (3, 1.0, 1.0, 0)
        assert against_truth(scores, {}, [*p, *q], {})["accuracy"] is None

    def test_what_the_raters_are_worth_by_hand(self) -> None:
        """x is right twice, y once of two; of two items labelled (1, 1) and (1, 0), alpha is 0."""
        pairs = [RatedPair("p", "a", "b", who, 1.0) for who in "xy"]
        pairs += [RatedPair("q", "c", "d", "x", 1.0), RatedPair("q", "c", "d", "y", 0.0)]
        found = raters_figures(pairs, {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0}, {})
        assert found["against_truth"]["estimate"] == 0.75
        assert (found["alpha"], found["pairs"]) == (0.0, 4)
        assert raters_figures(pairs, {}, {})["against_truth"] is None


def row_score(policy: Policy, model: Path, prompt: Prompt, text: str) -> float:
    """Of a row alone, as transformers reads it."""
    loaded = AutoModelForSequenceClassification.from_pretrained(model).eval()
    ids = [*encode_prompt(policy.tokenizer, prompt.messages), *encode_completion(policy.tokenizer, text)]
    with torch.no_grad():
        return float(loaded(torch.tensor([ids])).logits.item())


def run(
    root: Path,
    policy: Policy,
    recipe: Recipe,
    judgements: Sequence[Judgement],
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    truth: dict[str, float] | None = None,
    round_: int = 1,
    launch: Launch | None = None,
) -> tuple[Path, dict[str, Any]]:
    with RunFolder.open(root, {"recipe": recipe.settings}, resume=True) as folder:
        given = right(completions) if truth is None else truth
        source = PolicySource(policy.name, device="cpu")
        return train_reward(recipe, folder, source, prompts, completions, judgements, given, round_, launch)


class TestTraining:
    def test_it_learns_and_is_examined_on_what_it_has_not_seen(self, policy: Policy, tmp_path: Path) -> None:
        prompts = asked(30)
        completions = answered(prompts)
        out, figures = run(tmp_path / "r", policy, settings(), ranked(prompts), prompts, completions)
        split = split_of(prompts, ranked(prompts), settings().loop)  # type: ignore[arg-type]
        assert figures["held_out_prompts_and_raters"]["estimate"] > 0.9
        assert figures["against_truth"]["estimate"] == figures["this_round"]["estimate"] == 1.0
        assert figures["held_out"] == {
            "prompts": len(split.prompts), "raters": sorted(split.raters), "rated_pairs": 3 * len(split.prompts),
            "truth": 4 * len(split.prompts),
        }  # fmt: skip
        # of the prompts that teach, one ranking of three answers each: three pairs
        assert figures["pairs"] == 3 * (30 - len(split.prompts))
        assert figures["raters"]["against_truth"]["estimate"] == 1.0
        assert figures["raters"]["alpha"] is None  # of answers named in order one label was ever given
        assert 0 <= figures["brier"] < 0.25
        assert figures["temperature"] > 0
        assert figures["ece"] is not None
        assert (out / "training.json").is_file()

    def test_processes_are_handed_what_would_be_trained_here(
        self, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prompts = asked(12)
        given = (settings(reward={"epochs": 1}), ranked(prompts), prompts, answered(prompts))
        here, figures = run(tmp_path / "here", policy, *given)
        monkeypatch.setattr(run_training, "start", lambda launch, config, words, **_: prefloop(*words))
        there, theirs = run(tmp_path / "there", policy, *given, launch=Launch(2))
        assert (files(there), theirs) == (files(here), figures)

    def test_what_is_held_out_teaches_nothing(self, policy: Policy, tmp_path: Path) -> None:
        """Turned round, verdicts of held-out raters and on held-out prompts leave the model byte for byte as it is."""
        prompts = asked(16)
        completions, recipe = answered(prompts), settings(reward={"epochs": 1})
        split = split_of(prompts, ranked(prompts), recipe.loop)  # type: ignore[arg-type]
        turned = [j if split.taught(j) else replace(j, ranking=j.ranking[::-1]) for j in ranked(prompts)]
        assert turned != ranked(prompts)
        same, figures = run(tmp_path / "a", policy, recipe, ranked(prompts), prompts, completions)
        other, examined = run(tmp_path / "b", policy, recipe, turned, prompts, completions, truth={})
        assert files(same) == files(other)
        a, b = (found["held_out_prompts_and_raters"]["estimate"] for found in (figures, examined))
        assert b == pytest.approx(1 - a)
        assert examined["against_truth"] is None
        assert examined["raters"]["against_truth"] is None

    def test_rounds_are_learned_from_together_and_examined_apart(self, policy: Policy, tmp_path: Path) -> None:
        prompts = asked(24)
        first, second = answered(prompts[:12]), answered(prompts[12:], 2)
        said = [*ranked(prompts[:12]), *ranked(prompts[12:], round_=2)]
        _, figures = run(tmp_path / "r", policy, settings(), said, prompts, [*first, *second], round_=2)
        split = split_of(prompts, said, settings().loop)  # type: ignore[arg-type]
        assert figures["pairs"] == 3 * (24 - len(split.prompts))
        later = {c.id: truth for c, truth in zip(second, right(second).values(), strict=True)}
        _, alone = run(tmp_path / "s", policy, settings(), said, prompts, [*first, *second], truth=later, round_=2)
        assert figures["this_round"] == alone["against_truth"]

    def test_a_killed_training_goes_on_with_the_same_bytes_and_a_finished_one_is_read(
        self, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prompts = asked(16)
        given = (settings(reward={"epochs": 3}), ranked(prompts), prompts, answered(prompts))
        whole, figures = run(tmp_path / "whole", policy, *given)
        train, steps = run_training.train_reward_model, []

        def killed(*args: Any, **options: Any) -> None:
            def log(row: dict[str, Any]) -> None:
                steps.append(row["step"])
                if row["step"] == 3:
                    raise KeyboardInterrupt

            train(*args, **{**options, "log": log})

        with monkeypatch.context() as patch:
            patch.setattr(run_training, "train_reward_model", killed)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "cut", policy, *given)
        again, resumed = run(tmp_path / "cut", policy, *given)
        assert steps == [1, 2, 3]
        assert files(again) == files(whole)
        assert resumed == figures
        monkeypatch.setattr(run_training, "train_reward_model", None)  # nothing is trained twice
        assert run(tmp_path / "cut", policy, *given) == (again, figures)

    def test_nothing_to_learn_from_is_said(self, policy: Policy, tmp_path: Path) -> None:
        prompts = asked(6)
        tied = [replace(j, ranking=(j.completion_ids,)) for j in ranked(prompts)]
        with pytest.raises(DataError, match=r"no verdict to train a reward model on .*comparison tied"):
            run(tmp_path / "r", policy, settings(), tied, prompts, answered(prompts))


@pytest.fixture(scope="module")
def trained(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that has learned for one epoch."""
    prompts = asked(10)
    root = tmp_path_factory.mktemp("scorer") / "r"
    return run(root, policy, settings(reward={"epochs": 1}), ranked(prompts), prompts, answered(prompts))[0]


class TestScorer:
    def test_scores_are_those_of_rows_alone_whatever_the_batch(self, policy: Policy, trained: Path) -> None:
        prompts = asked(5)
        completions = answered(prompts)
        tokens = [encode_completion(policy.tokenizer, c.text) for c in completions]
        generated = [replace(c, token_ids=tuple(ids)) for c, ids in zip(completions, tokens, strict=True)]
        expected = {c.id: row_score(policy, trained, prompts[n // 4], c.text) for n, c in enumerate(completions)}
        for answers, budget in ((completions, 8192), (generated, 8192), (generated[::-1], 64), (generated[3:4], 64)):
            with Scorer(trained, tokens_per_batch=budget, device="cpu") as scorer:
                found = scorer.score(prompts, answers)
            assert found.keys() == {answer.id for answer in answers}
            assert found == pytest.approx({i: expected[i] for i in found}, abs=1e-4)

    def test_one_text_has_one_score(self, trained: Path) -> None:
        (prompt,) = prompts = asked(1)
        with Scorer(trained, device="cpu") as scorer:
            found = scorer.score(prompts, answered(prompts))
        assert found[f"{prompt.id}-1-2"] == found[f"{prompt.id}-1-3"]
        assert len(set(found.values())) == 3

    def test_what_cannot_be_scored_is_left_out(self, trained: Path) -> None:
        prompts = asked(2)
        answers = answered(prompts[:1])
        long = replace(answers[1], token_ids=(5,) * 96)  # the model's whole context
        with Scorer(trained, device="cpu") as scorer:
            assert scorer.score(prompts, [answers[0], long]).keys() == {answers[0].id}
            assert scorer.score(prompts[1:], answers) == {}
            assert scorer.score(prompts, []) == {}

    def test_it_must_be_open(self, trained: Path) -> None:
        with pytest.raises(JudgeError, match="is not open"):
            Scorer(trained).score([], [])

    def test_an_adapter_is_read_on_the_base_that_it_names(self, policy: Policy, tmp_path: Path) -> None:
        prompts = asked(10)
        given = (ranked(prompts), prompts, answered(prompts))
        recipe = settings(reward={"method": "lora", "lora_rank": 4, "epochs": 2})
        out, _ = run(tmp_path / "r", policy, recipe, *given)
        with Scorer(out, device="cpu") as named, Scorer(out, policy.name, device="cpu") as told:
            scores = named.score(prompts, given[2])
            assert scores == told.score(prompts, given[2])
        assert np.isfinite(list(scores.values())).all()
        assert len(scores) == 40


def test_a_loop_without_raters_has_no_reward_model(policy: Policy, tmp_path: Path) -> None:
    prompts = asked(4)
    with pytest.raises(DataError, match=r"set loop.name=rlhf"):
        run(tmp_path / "r", policy, Recipe(loop={"name": "iterative-dpo"}), ranked(prompts), prompts, answered(prompts))


def test_defaults_of_a_reward_training_are_valid() -> None:
    assert isinstance(RlhfConfig().reward, RewardTrainingConfig)
