"""Policy gradient: what an update is, that it learns, and that a killed run ends with the same bytes."""

from __future__ import annotations

import doctest
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from test_advantages import TRL, trl_trainer
from test_training import build_model_folder, files
from torch import Tensor

from prefloop.config.loop import PolicyGradientConfig
from prefloop.config.sampling import Sampling
from prefloop.errors import ConfigError, DataError, JudgeError, StoreError
from prefloop.generation.generate import generate_completions
from prefloop.maths.advantages import grpo, rloo
from prefloop.models.load import Policy, load_policy
from prefloop.models.template import encode_prompt, end_token_ids
from prefloop.records import Completion, Prompt
from prefloop.training import loop as training_loop
from prefloop.training import policy_gradient as module
from prefloop.training import rollouts as kept_rollouts
from prefloop.training.checkpoint import STATE
from prefloop.training.policy_losses import treated_rewards
from prefloop.training.rollouts import Plan, Rollouts
from prefloop.training.sampled import own_sampler
from prefloop.training.trainable import trainable
from prefloop.training.update import TrainingResult

NAN = math.nan
K = 4
TOKENS = 8
"""Longest answer."""


@pytest.fixture(autouse=True)
def _on_one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def policy(folder: Path) -> Policy:
    """Untrained, and so that most answers end: every fourth token ends one."""
    return ending(load_policy(folder, device="cpu"))


def ending(policy: Policy) -> Policy:
    policy.model.generation_config.eos_token_id = [*range(0, 300, 4), policy.tokenizer.eos_token_id]
    return policy


PROMPTS = [
    Prompt.create(({"role": "user", "content": f"how many {'most ' * (n % 3)}{n}"},), "toy", "train") for n in range(10)
]


def settings(**changes: Any) -> PolicyGradientConfig:
    given: dict[str, Any] = {
        "iterations": 3,
        "prompts": 4,
        "k": K,
        "minibatches": 2,
        "learning_rate": 5e-3,
        "method": "full",
        "checkpoint_every": 2,
        "kl_weight": 0.05,
    }
    return PolicyGradientConfig(**{**given, **changes})


def first_token(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> dict[str, float]:
    """A score that differs between answers and knows no chance."""
    return {c.id: (c.token_ids[0] % 7) / 7 + 0.1 * len(c.token_ids) for c in completions}


def train(
    policy: Policy, out: Path, config: PolicyGradientConfig, score: Any = first_token, **rest: Any
) -> TrainingResult:
    given: dict[str, Any] = {"seed": 1, "max_new_tokens": TOKENS, "prompts": PROMPTS, **rest}
    prompts = given.pop("prompts")
    return module.train_policy_gradient(policy, prompts, score, config, out / "checkpoint", work=out / "work", **given)


def rollouts(out: Path, number: int = 0) -> Rollouts:
    """What a run kept of an iteration."""
    from safetensors import safe_open

    path = out / "work" / f"rollouts-{number:05}.safetensors"
    with safe_open(path, "pt") as stored:
        found = Rollouts.read(path, json.loads(stored.metadata()["rollouts"])["identity"])
    assert found is not None
    return found


def row_logps(model: Any, policy: Policy, prompt: Prompt, answer: Sequence[int]) -> Tensor:
    """Per-token log-probabilities of one answer from its own row, with gradient: knows no groups, no batches."""
    ids = encode_prompt(policy.tokenizer, prompt.messages)
    logps = model(torch.tensor([[*ids, *answer]])).logits[0].float().log_softmax(-1)
    return torch.stack([logps[len(ids) + t - 1, token] for t, token in enumerate(answer)])


@dataclass
class Seen:
    """What the loop's `update` was given."""

    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found, real = Seen(), training_loop.update

    def update(optimizer: Any, parameters: Mapping[str, Any], *rest: Any) -> float:
        found.gradients.append({n: p.grad.clone() for n, p in parameters.items()})
        found.weights.append({n: p.detach().clone() for n, p in parameters.items()})
        return real(optimizer, parameters, *rest)

    monkeypatch.setattr(training_loop, "update", update)
    return found


# --- plans ---


def test_a_prompt_is_asked_once_per_iteration_and_all_before_any_again() -> None:
    plan = Plan.of(10, settings(iterations=7, prompts=4, epochs=2, minibatches=3), seed=5)
    assert all(len(set(visit)) == 4 for visit in plan.visits)
    for first, second in itertools.pairwise(plan.visits[0::2]):
        assert first != second
    for i in (0, 2, 4):  # two iterations of 4 out of 10 make a round of the prompts
        assert not set(plan.visits[i]) & set(plan.visits[i + 1])
    assert plan.per_iteration == 6
    assert [len(update) for update in plan.updates[:3]] == [2, 1, 1]
    for start in range(0, len(plan.updates), 3):  # every epoch sees each unit of its iteration once
        iteration = start // 6
        epoch = [unit for update in plan.updates[start : start + 3] for unit in update]
        assert sorted(epoch) == list(range(4 * iteration, 4 * iteration + 4))
    assert plan == Plan.of(10, settings(iterations=7, prompts=4, epochs=2, minibatches=3), seed=5)
    assert plan != Plan.of(10, settings(iterations=7, prompts=4, epochs=2, minibatches=3), seed=6)


def test_more_minibatches_than_prompts_are_refused() -> None:
    with pytest.raises(ValidationError, match="minibatches is at most prompts"):
        settings(prompts=2, minibatches=3)


# --- rewards ---


def made(scores: list[list[float]], cut: list[list[int]], lengths: list[list[int]], kl: float = 0.0) -> Rollouts:
    """Rollouts whose answers have these scores and lengths, and `kl` nats per token."""
    sizes = [size for row in lengths for size in row]
    old = [torch.full((size,), -1.0) for size in sizes]
    answers = [tuple(range(size)) for size in sizes]
    return Rollouts(answers, old, [o - kl for o in old], torch.tensor(scores), torch.tensor(cut).bool(), {})


def test_truncated_answers_get_the_lowest_reward_of_their_group_or_no_part() -> None:
    """Group 1: the cut answer scored 9, its group's lowest is 1. Group 2: a cut answer without a score stays so."""
    found = made([[9.0, 1.0, 3.0], [NAN, 2.0, 5.0]], [[1, 0, 0], [1, 0, 0]], [[1] * 3] * 2)
    plain = settings(whiten=False, kl_weight=0.0)
    lowest, _ = treated_rewards(found, plain, 1.0)
    assert lowest[0].tolist() == [1.0, 1.0, 3.0]
    assert lowest[1].isnan().tolist() == [True, False, False]
    masked, rewards = treated_rewards(found, settings(whiten=False, truncated="mask", kl_weight=0.0), 1.0)
    assert masked.isnan().tolist() == [[True, False, False], [True, False, False]]
    assert rewards.nansum().item() == 11.0


def test_whitening_length_penalty_and_kl_by_hand() -> None:
    """Scores 0, 2, 2, 4 and one unscored: mean 2, deviation √(8/3) = 1.632993 (+ 1e-4), so −1.224670 and 0.

    First length 4: 5 tokens are free, 7 are 0.5 beyond, at price 2 that is −1. KL of ½ nat per token at price 0.1:
    −0.05 per token, for rloo alone.
    """
    found = made([[0.0, 2.0, NAN], [2.0, 4.0, 2.0]], [[0] * 3] * 2, [[5, 7, 9], [4, 4, 4]], kl=0.5)
    found = replace(found, scores_GK=torch.tensor([[0.0, 2.0, NAN], [2.0, 4.0, NAN]]))
    white = 2 / (math.sqrt(8 / 3) + 1e-4)
    _, rewards = treated_rewards(found, settings(algorithm="grpo", length_penalty=2.0, kl_weight=0.1), 4.0)
    assert rewards[0].tolist()[:2] == pytest.approx([-white, -1.0], abs=1e-6)
    assert rewards[1].tolist()[:2] == pytest.approx([0.0, white], abs=1e-6)
    assert rewards[:, 2].isnan().all()
    _, rewards = treated_rewards(found, settings(algorithm="rloo", length_penalty=2.0, kl_weight=0.1), 4.0)
    assert rewards[0].tolist()[:2] == pytest.approx([-white - 0.25, -1.0 - 0.35], abs=1e-6)
    assert rewards[1].tolist()[:2] == pytest.approx([-0.2, white - 0.2], abs=1e-6)


# --- one update ---


def oracle(
    policy: Policy, model: Any, found: Rollouts, members: Sequence[int], config: PolicyGradientConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """[N, L] log-probabilities with gradient from separate rows, their mask, and the advantages of these answers."""
    order = Plan.of(len(PROMPTS), config, 1).visits[0]
    rows = [row_logps(model, policy, PROMPTS[order[n // K]], found.answers[n]) for n in members]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1.0)
    mask = torch.tensor([[t < len(row) for t in range(padded.shape[1])] for row in rows]).long()
    white = found.scores_GK.double()
    white = (white - white.mean()) / (white.std() + 1e-4)
    if config.algorithm == "rloo":
        kl = torch.stack([(o - r).sum() for o, r in zip(found.old, found.reference, strict=True)]).view(-1, K)
        advantages = rloo(white - config.kl_weight * kl)
    else:
        advantages = grpo(white, std=config.algorithm != "dr-grpo")
    return padded, mask, advantages.float().flatten()[list(members)]


def padded(values: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True, padding_value=-1.0)


TRLS = {"grpo": "grpo", "dapo": "dapo", "dr-grpo": "dr_grpo"}


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "dapo", "dr-grpo"])
def test_updates_are_trls(policy: Policy, seen: Seen, tmp_path: Path, algorithm: str) -> None:
    """Loss and gradient of both updates of an iteration, on the very rollouts, from rows of their own.

    The second update's ratios are not 1: its loss needs the log-probabilities recorded while sampling.
    """
    trl = pytest.importorskip("trl", reason=TRL)
    config = settings(algorithm=algorithm, iterations=1, learning_rate=0.05, max_grad_norm=1e6, clip_high=0.1)
    result = train(policy, tmp_path, config)
    found, plan = rollouts(tmp_path), Plan.of(len(PROMPTS), config, 1)
    assert len(seen.gradients) == 2
    for number, units in enumerate(plan.updates):
        members = [n for unit in units for n in range(K * unit, K * (unit + 1))]
        with trainable(policy, config, 1) as model:
            model.load_state_dict(seen.weights[number], strict=False)
            model.set_attn_implementation("sdpa")
            logps, mask, advantages = oracle(policy, model, found, members, config)
            common: dict[str, Any] = {"prompt_ids": mask, "prompt_mask": mask, "completion_ids": mask}
            common |= {"completion_mask": mask, "advantages": advantages, "num_items_in_batch": mask.sum()}
            old = [found.old[n] for n in members]
            if algorithm == "rloo":
                trainer = trl_trainer(trl.RLOOTrainer, logps)
                inputs = {**common, "old_logps": torch.stack([o.sum() for o in old])}
            else:
                trainer = trl_trainer(
                    trl.GRPOTrainer,
                    logps,
                    loss_type=TRLS[algorithm],
                    beta=config.kl_weight,
                    max_completion_length=TOKENS,
                    importance_sampling_level="token",
                    top_entropy_quantile=1.0,
                    off_policy_mask_threshold=None,
                    use_vllm=False,
                    _entropy_bonus_enabled=False,
                )
                reference = padded([found.reference[n] for n in members])
                inputs = {**common, "old_per_token_logps": padded(old), "ref_per_token_logps": reference}
            trainer.epsilon_low, trainer.epsilon_high = config.clip_low, config.clip_high
            loss = trainer._compute_loss(None, inputs)
            loss.backward()
            row = result.history[number]
            assert row["loss"] == pytest.approx(loss.item(), abs=2e-5, rel=1e-4)
            for name, parameter in model.named_parameters():
                assert torch.allclose(seen.gradients[number][name], parameter.grad, atol=2e-5, rtol=1e-3), name
            for name, values in trainer._metrics["eval"].items():
                if name in row and name.startswith("clip_ratio/"):
                    assert row[name] == pytest.approx(values[0], abs=1e-6), name
    assert result.history[0]["ratio/deviation"] < 1e-4
    assert result.history[1]["ratio/deviation"] > 0.02


def test_ratios_are_those_of_separate_rows(policy: Policy, seen: Seen, tmp_path: Path) -> None:
    """Three passes over the answers: the mean ratio of each update is exp(new − old), computed by rows."""
    config = settings(algorithm="grpo", iterations=1, epochs=3, minibatches=1, kl_weight=0.0, clip_low=0.9, clip_high=9)
    result = train(policy, tmp_path, config)
    found = rollouts(tmp_path)
    for number, row in enumerate(result.history):
        with trainable(policy, config, 1) as model, torch.no_grad():
            model.load_state_dict(seen.weights[number], strict=False)
            model.set_attn_implementation("sdpa")
            advantages_N = grpo(treated_rewards(found, config, 1.0)[1]).flatten()
            learning = advantages_N.nonzero().flatten().tolist()
            logps, mask, _ = oracle(policy, model, found, learning, config)
            ratios = (logps - padded([found.old[n] for n in learning])).exp()[mask.bool()]
        assert row["ratio/mean"] == pytest.approx(ratios.mean().item(), rel=1e-4)
        assert row["ratio/deviation"] == pytest.approx((ratios - 1).abs().mean().item(), abs=1e-5, rel=1e-3)
    assert result.history[0]["ratio/start_deviation"] < 1e-5
    assert result.history[2]["ratio/deviation"] > result.history[1]["ratio/deviation"] > 1e-3


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_equal_answers_count_as_often_as_they_were_given(
    policy: Policy, seen: Seen, tmp_path: Path, algorithm: str
) -> None:
    """They are computed once, and may even score differently: the gradient is that of all rows."""

    def sample(*given: Any) -> list[Completion]:
        found = own_sampler(0)(*given)
        same = [found[n - n % K + (0, 1, 0, 1)[n % K]] for n in range(len(found))]
        return [
            replace(c, token_ids=other.token_ids, logprobs=other.logprobs, finish_reason="stop")
            for c, other in zip(found, same, strict=True)
        ]

    def score(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> dict[str, float]:
        return {c.id: (7 * n % 11) / 11 for n, c in enumerate(completions)}

    config = settings(algorithm=algorithm, iterations=1, minibatches=1, kl_weight=0.0, max_grad_norm=1e6)
    result = train(policy, tmp_path, config, score, sample=sample)
    found = rollouts(tmp_path)
    assert len(set(found.answers)) == 2 * 4
    with trainable(policy, config, 1) as model:
        model.set_attn_implementation("sdpa")
        logps, mask, advantages = oracle(policy, model, found, range(4 * K), config)
        ratios = (logps - logps.detach()).exp() * mask
        if algorithm == "rloo":
            loss = -((logps * mask).sum(1) * advantages).mean()
        else:
            loss = -(ratios.sum(1) / mask.sum(1) * advantages).mean()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert torch.allclose(seen.gradients[0][name], parameter.grad, atol=1e-5), name
    assert result.history[0]["ratio/deviation"] < 1e-4


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_policy_answers_in_training_as_it_does_outside(policy: Policy, tmp_path: Path, method: str) -> None:
    """Iteration 0's answers are those of the untouched policy; later ones come from weights that moved."""
    config = settings(method=method, lora_rank=4)
    given: list[tuple[list[Prompt], int, list[Completion]]] = []

    def sample(now: Policy, prompts: Sequence[Prompt], sampling: Sampling, seed: int, it: int) -> list[Completion]:
        given.append((list(prompts), seed, own_sampler(0)(now, prompts, sampling, seed, it)))
        assert now.lineage.id != policy.lineage.id
        return given[-1][2]

    train(policy, tmp_path, config, sample=sample)
    outside = [
        generate_completions(policy, prompts, Sampling(k=K, max_new_tokens=TOKENS), seed=seed)
        for prompts, seed, _ in given
    ]
    assert [c.token_ids for c in given[0][2]] == [c.token_ids for c in outside[0]]
    for inside, alone in zip(given[0][2], outside[0], strict=True):
        assert inside.logprobs == pytest.approx(alone.logprobs, abs=1e-5)
    assert [c.token_ids for c in given[2][2]] != [c.token_ids for c in outside[2]]
    assert len({seed for _, seed, _ in given}) == 3
    assert len({c.id for _, _, found in given for c in found}) == 3 * 4 * K


def test_figures_of_the_first_update_by_hand(policy: Policy, tmp_path: Path) -> None:
    """At the start the policy is the reference: no KL. Rewards are reported as they were scored."""
    result = train(policy, tmp_path, settings(iterations=2))
    found, first = rollouts(tmp_path), result.history[0]
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert first["reward/mean"] == pytest.approx(found.scores_GK.mean().item())
    assert first["reward/std"] == pytest.approx(found.scores_GK.std(correction=0).item())
    tokens = sum(map(len, found.answers))
    assert first["length/mean"] == pytest.approx(tokens / (4 * K))
    assert first["entropy"] == pytest.approx(-sum(o.sum().item() for o in found.old) / tokens, rel=1e-5)
    assert first["length/ratio"] == 1.0
    ends = end_token_ids(policy.model, policy.tokenizer)
    assert first["truncated"] == sum(len(a) == TOKENS and a[-1] not in ends for a in found.answers) > 0
    assert [row["iteration"] for row in result.history] == [0, 0, 1, 1]
    assert "ratio/start_deviation" in result.history[2]
    later, moved = rollouts(tmp_path, 1), result.history[2]
    assert moved["kl"] == pytest.approx(later.kl_GK.mean().item()) != 0
    assert moved["kl/token"] == pytest.approx(later.kl_GK.sum().item() / sum(map(len, later.answers)))
    assert moved["length/ratio"] == pytest.approx(moved["length/mean"] / first["length/mean"])
    assert result.pairs == 2 * 4 * K
    assert result.dropped == {}


@pytest.mark.parametrize(("algorithm", "kl_weight"), [("rloo", 0.0), ("grpo", 0.0)])
def test_without_a_price_the_kl_is_measured_and_changes_nothing(
    policy: Policy, tmp_path: Path, algorithm: str, kl_weight: float
) -> None:
    found = {}
    for reference in ("initial", "previous"):
        config = settings(algorithm=algorithm, kl_weight=kl_weight, reference=reference)
        found[reference] = train(policy, tmp_path / reference, config)
    assert found["initial"].history == found["previous"].history
    assert found["initial"].history[-1]["kl"] != 0
    assert "kl/k3" not in found["initial"].history[-1]


# --- what has no part ---


def test_unscored_answers_have_no_part_and_are_counted(policy: Policy, seen: Seen, tmp_path: Path) -> None:
    """Absent or not a number: the same gradient as if the sampler's other answers were all there were."""
    config = settings(iterations=1, minibatches=1, kl_weight=0.0, whiten=False)

    def score(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> dict[str, float]:
        found = first_token(prompts, completions)
        found.pop(completions[0].id)
        return {**found, completions[5].id: NAN}

    result = train(policy, tmp_path, config, score)
    found = rollouts(tmp_path)
    assert found.scores_GK.isnan().flatten().nonzero().flatten().tolist() == [0, 5]
    assert result.history[0]["unscored"] == 2
    assert result.dropped == {"answers unscored": 2}
    assert result.pairs == 4 * K - 2
    with trainable(policy, config, 1) as model:
        model.set_attn_implementation("sdpa")
        logps, mask, _ = oracle(policy, model, found, range(4 * K), config)
        advantages = rloo(found.scores_GK).flatten()
        loss = -((logps * mask).sum(1) * advantages).sum() / (4 * K)
        loss.backward()
        for name, parameter in model.named_parameters():
            assert torch.allclose(seen.gradients[0][name], parameter.grad, atol=1e-5), name


def test_a_scorer_that_fails_as_a_whole_is_an_error(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="none of 16 answers was scored"):
        train(policy, tmp_path, settings(), lambda prompts, completions: {})


@pytest.mark.parametrize(("algorithm", "kl_weight"), [("rloo", 0.0), ("rloo", 0.1), ("grpo", 0.1)])
def test_updates_without_any_advantage_are_passed_over_and_counted(
    policy: Policy, tmp_path: Path, algorithm: str, kl_weight: float
) -> None:
    """All answers score alike in the first iteration: its updates change nothing, nor does the rounding of the KL."""
    config = settings(algorithm=algorithm, iterations=2, kl_weight=kl_weight)
    calls = itertools.count()

    def score(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> dict[str, float]:
        return first_token(prompts, completions) if next(calls) else dict.fromkeys((c.id for c in completions), 0.7)

    result = train(policy, tmp_path, config, score)
    assert [row.get("skipped") for row in result.history] == [1.0, 1.0, None, None]
    assert [row["zero_spread"] for row in result.history[:2]] == [4, 4]
    assert result.history[2]["kl"] == pytest.approx(0, abs=1e-5)
    assert result.history[2]["ratio/deviation"] < 1e-4
    assert result.history[3]["ratio/deviation"] > 1e-4
    assert result.dropped == {"updates without gradient": 2}
    assert all(math.isfinite(value) for row in result.history for value in row.values())


def test_updates_in_which_every_answer_is_clipped_are_passed_over(policy: Policy, tmp_path: Path) -> None:
    """A clip so narrow that after one step no ratio is within it: no gradient is left."""
    config = settings(iterations=1, epochs=8, minibatches=1, clip_low=1e-6, clip_high=1e-6, kl_weight=0.0)
    result = train(policy, tmp_path, config)
    assert "grad_norm" in result.history[0]
    assert any("skipped" in row for row in result.history)
    assert result.history[-1]["clip_ratio/region_mean"] > 0


def test_masked_answers_are_counted(policy: Policy, tmp_path: Path) -> None:
    result = train(policy, tmp_path, settings(iterations=1, truncated="mask"))
    cut = int(rollouts(tmp_path).truncated_GK.sum())
    assert 0 < cut < 4 * K
    assert result.history[0]["masked"] == result.history[0]["truncated"] == cut
    assert result.dropped == {"answers cut at the limit": cut}


# --- learning ---


@pytest.mark.parametrize("algorithm", ["rloo", "dapo"])
def test_a_rewarded_token_is_learned(policy: Policy, tmp_path: Path, algorithm: str) -> None:
    """Answers that contain one of ten tokens score 1: chance now and then, the trained policy nearly always."""
    wanted = set(range(1, 300, 32))

    def score(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> dict[str, float]:
        return {c.id: float(not wanted.isdisjoint(c.token_ids)) for c in completions}

    config = settings(
        algorithm=algorithm, iterations=25, prompts=8, k=8, learning_rate=1e-2, schedule="constant", kl_weight=0.0
    )
    result = train(policy, tmp_path, config, score)
    rewards = [row["reward/mean"] for row in result.history]
    assert rewards[0] < 0.3
    assert sum(rewards[-6:]) / 6 > 0.8
    trained = ending(load_policy(tmp_path / "checkpoint", device="cpu"))
    answers = generate_completions(trained, PROMPTS, Sampling(k=8, max_new_tokens=TOKENS), seed=9)
    assert sum(score(PROMPTS, answers).values()) / len(answers) > 0.75


# --- what a run leaves, and resuming ---


def killed(policy: Policy, out: Path, config: PolicyGradientConfig, after: int, **rest: Any) -> None:
    """A run that dies when the figures of update `after` are logged."""

    def log(row: Mapping[str, Any]) -> None:
        if row["step"] == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(policy, out, config, log=log, **rest)


@pytest.mark.parametrize(("method", "after"), [("full", 2), ("lora", 7), ("full", 9)])
def test_a_killed_run_ends_with_the_same_bytes(policy: Policy, tmp_path: Path, method: str, after: int) -> None:
    """Killed within an iteration and at its border; what was sampled is not sampled again."""
    config = settings(method=method, lora_rank=4, iterations=3, epochs=2, minibatches=2, checkpoint_every=3)
    asked: list[int] = []

    def sample(now: Policy, prompts: Sequence[Prompt], sampling: Sampling, seed: int, it: int) -> list[Completion]:
        asked.append(it)
        return own_sampler(0)(now, prompts, sampling, seed, it)

    train(policy, tmp_path / "whole", config)
    killed(policy, tmp_path / "killed", config, after, sample=sample)
    train(policy, tmp_path / "killed", config, sample=sample)
    assert asked == [0, 1, 2]
    assert files(tmp_path / "killed" / "checkpoint") == files(tmp_path / "whole" / "checkpoint")


def test_many_iterations_keep_few_files_and_resume_all_the_same(policy: Policy, tmp_path: Path) -> None:
    config = settings(iterations=9, minibatches=1, checkpoint_every=4, prompts=2)

    def stop(history: Sequence[Mapping[str, float]]) -> str | None:
        return "enough" if history[-1]["iteration"] == 8 else None

    train(policy, tmp_path / "whole", config, stop=stop)
    killed(policy, tmp_path / "killed", config, 8, stop=stop)
    train(policy, tmp_path / "killed", config, stop=stop)
    assert files(tmp_path / "killed" / "checkpoint") == files(tmp_path / "whole" / "checkpoint")
    assert (tmp_path / "whole" / "work" / "rollouts-00000.safetensors").exists()
    assert not (tmp_path / "whole" / "work" / "rollouts-00001.safetensors").exists()


def test_rollouts_of_another_run_are_not_taken_up(policy: Policy, tmp_path: Path) -> None:
    asked: list[str] = []

    def score(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> dict[str, float]:
        asked.append(completions[0].id)
        return first_token(prompts, completions)

    config = settings(checkpoint_every=50)
    killed(policy, tmp_path, config, 1, score=score)
    killed(policy, tmp_path, config, 1, score=score)
    assert len(asked) == 1  # its own are
    killed(policy, tmp_path, settings(checkpoint_every=50, learning_rate=1e-3), 1, score=score)
    assert len(asked) == 2
    killed(policy, tmp_path, settings(checkpoint_every=50, learning_rate=1e-3), 1, score=score, resume=False)
    assert len(asked) == 3


def test_a_state_of_another_run_is_refused_and_lost_rollouts_are_named(policy: Policy, tmp_path: Path) -> None:
    config = settings(epochs=3)
    killed(policy, tmp_path, config, 5)
    assert (tmp_path / "work" / STATE).exists()
    with pytest.raises(StoreError, match="belongs to another training run"):
        train(policy, tmp_path, settings(epochs=3, learning_rate=1e-3))
    path = tmp_path / "work" / "rollouts-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match="damaged"):
        train(policy, tmp_path, config)
    path.unlink()
    with pytest.raises(StoreError, match=r"rollouts-00000.safetensors is missing"):
        train(policy, tmp_path, config)


def test_the_policy_is_as_it_was(policy: Policy, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    for method in ("full", "lora"):
        train(policy, tmp_path / method, settings(iterations=1, method=method, lora_rank=4))
        after = policy.model.state_dict()
        assert before.keys() == after.keys()
        assert all(tensor.equal(after[name]) for name, tensor in before.items())
    assert policy.model.config._attn_implementation == "sdpa"


# --- looks, and reasons to stop ---


def test_looks_stand_in_the_row_of_the_next_update(policy: Policy, tmp_path: Path) -> None:
    """The look sees the policy as it is now: its greedy answers change between iterations."""
    looks: list[tuple[int, list[str]]] = []

    def look(now: Policy, iteration: int) -> dict[str, float]:
        answers = generate_completions(now, PROMPTS[:4], Sampling(greedy=True, max_new_tokens=TOKENS), seed=0)
        looks.append((iteration, [c.text for c in answers]))
        return {"look/accuracy": iteration / 10}

    config = settings(iterations=5, look_every=2, learning_rate=5e-2)
    result = train(policy, tmp_path, config, look=look)
    assert [iteration for iteration, _ in looks] == [0, 2, 4]
    assert looks[0][1] != looks[2][1]
    rows = [(row["step"], row["look/accuracy"]) for row in result.history if "look/accuracy" in row]
    assert rows == [(1, 0.0), (5, 0.2), (9, 0.4)]
    assert train(policy, tmp_path / "unseen", config).history == [
        {name: value for name, value in row.items() if name != "look/accuracy"} for row in result.history
    ]


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_reason_ends_training_with_the_weights_that_were_found_well(policy: Policy, tmp_path: Path, at: int) -> None:
    """The checkpoint answers as the policy did when the iteration before the reason's began."""
    config = settings(iterations=6, learning_rate=2e-2)
    starts: dict[int, dict[str, Tensor]] = {}

    def sample(now: Policy, prompts: Sequence[Prompt], sampling: Sampling, seed: int, it: int) -> list[Completion]:
        starts[it] = {name: tensor.clone() for name, tensor in now.model.state_dict().items()}
        return own_sampler(0)(now, prompts, sampling, seed, it)

    def stop(history: Sequence[Mapping[str, float]]) -> str | None:
        return "the KL exceeds its limit" if history[-1]["iteration"] == at else None

    result = train(policy, tmp_path, config, sample=sample, stop=stop)
    kept = max(0, at - 1)
    assert result.stopped == "the KL exceeds its limit"
    assert result.steps == 2 * at + 1
    assert result.best_step == 2 * kept
    assert list(starts) == list(range(at + 1))
    saved = load_policy(tmp_path / "checkpoint", device="cpu").model.state_dict()
    assert all(tensor.equal(saved[name]) for name, tensor in starts[kept].items())
    written = json.loads((tmp_path / "checkpoint" / "training.json").read_text())
    assert written["stopped"] == result.stopped
    assert written["best_step"] == 2 * kept


def test_a_run_that_goes_through_says_nothing_of_stopping(policy: Policy, tmp_path: Path) -> None:
    result = train(policy, tmp_path, settings(iterations=1), stop=lambda history: None)
    assert result.stopped is None
    assert "stopped" not in json.loads((tmp_path / "checkpoint" / "training.json").read_text())


# --- references and rounds ---


def kl_to(policy: Policy, out: Path, answers: Rollouts, visit: Sequence[int]) -> float:
    """Mean over answers of Σ log π_old − log π_ref, the reference by rows."""
    with torch.no_grad():
        sums = [
            (answers.old[n] - row_logps(policy.model, policy, PROMPTS[visit[n // K]], ids)).sum().item()
            for n, ids in enumerate(answers.answers)
        ]
    return sum(sums) / len(sums)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_reference_stays_while_the_policy_moves(policy: Policy, tmp_path: Path, method: str) -> None:
    config = settings(method=method, lora_rank=4, learning_rate=2e-2)
    result = train(policy, tmp_path, config)
    last, visit = rollouts(tmp_path, 2), Plan.of(len(PROMPTS), config, 1).visits[2]
    assert result.history[-1]["kl"] == pytest.approx(kl_to(policy, tmp_path, last, visit), abs=1e-4)
    assert abs(result.history[-1]["kl"]) > 1e-2


def test_a_further_round_goes_on_with_the_adapter(policy: Policy, folder: Path, tmp_path: Path) -> None:
    """initial: KL to the model without the adapter, not 0 at the start; previous: to the adapter as it was."""
    config = settings(method="lora", lora_rank=4, learning_rate=2e-2)
    train(policy, tmp_path / "one", config)
    carried = ending(load_policy(folder, tmp_path / "one" / "checkpoint", device="cpu"))
    visit = Plan.of(len(PROMPTS), config, 1).visits
    for reference, known in (("initial", policy), ("previous", carried)):
        out = tmp_path / reference
        result = train(carried, out, settings(**{**config.model_dump(), "reference": reference}))
        for number in (0, 2):
            expected = kl_to(known, out, rollouts(out, number), visit[number])
            assert result.history[2 * number]["kl"] == pytest.approx(expected, abs=1e-4)
        assert (abs(result.history[0]["kl"]) < 1e-4) == (reference == "previous")


def test_another_model_as_the_reference(policy: Policy, tmp_path: Path) -> None:
    config = settings(learning_rate=2e-2)
    train(policy, tmp_path / "one", config)
    other = load_policy(tmp_path / "one" / "checkpoint", device="cpu")
    result = train(policy, tmp_path / "two", config, initial=other)
    visit = Plan.of(len(PROMPTS), config, 1).visits[0]
    expected = kl_to(other, tmp_path, rollouts(tmp_path / "two"), visit)
    assert result.history[0]["kl"] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ConfigError, match="no effect with reference: previous"):
        train(policy, tmp_path / "three", settings(reference="previous"), initial=other)


# --- other samplers ---


def test_another_samplers_probabilities_are_checked_and_computed_again(
    policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is off by 0.2 nats a token: π_old comes from the model that trains; by 0.001: it is taken."""

    def shifted(by: float) -> Callable[..., list[Completion]]:
        def sample(*given: Any) -> list[Completion]:
            found = own_sampler(0)(*given)
            return [replace(c, logprobs=tuple(x - by for x in c.logprobs)) for c in reversed(found)]

        return sample

    config = settings(algorithm="grpo", iterations=1)
    said: list[str] = []
    monkeypatch.setattr("prefloop.training.sampled.note", said.append)
    exact = train(policy, tmp_path / "exact", config)
    off = train(policy, tmp_path / "off", config, sample=shifted(0.2))
    assert off.history[0]["ratio/start_deviation"] == pytest.approx(math.expm1(0.2), rel=1e-3)
    assert off.history[0]["ratio/recomputed"] == 1.0
    assert off.history[0]["loss"] == pytest.approx(exact.history[0]["loss"], abs=1e-5)
    assert off.history[0]["ratio/deviation"] < 1e-4
    assert len(said) == 1
    assert "computed again" in said[0]
    near = train(policy, tmp_path / "near", config, sample=shifted(0.001))
    assert near.history[0]["ratio/recomputed"] == 0.0
    assert near.history[0]["ratio/deviation"] == pytest.approx(0.001, rel=0.1)


def test_a_samplers_mistakes_are_named(policy: Policy, tmp_path: Path) -> None:
    def broken(change: Callable[[list[Completion]], list[Completion]]) -> Callable[..., list[Completion]]:
        return lambda *given: change(own_sampler(0)(*given))

    cases: dict[str, Callable[[list[Completion]], list[Completion]]] = {
        "gave 3 answers": lambda found: found[1:],
        "was not asked": lambda found: [*found, replace(found[0], prompt_id="other")],
        "0 log-probabilities": lambda found: [replace(found[0], logprobs=()), *found[1:]],
    }
    for message, change in cases.items():
        with pytest.raises(DataError, match=message):
            train(policy, tmp_path, settings(), sample=broken(change))


# --- prompts ---


def test_prompts_without_room_or_there_twice_are_dropped_and_counted(policy: Policy, tmp_path: Path) -> None:
    long = Prompt.create(({"role": "user", "content": "rebounds " * 90},), "toy", "train")
    result = train(policy, tmp_path, settings(iterations=1), prompts=[*PROMPTS, long, PROMPTS[0]])
    assert result.dropped == {"prompts there twice": 1, "prompts without room": 1}
    with pytest.raises(DataError, match=r"3 prompts, and an iteration takes 4; 1 prompts without room"):
        train(policy, tmp_path / "few", settings(), prompts=[*PROMPTS[:3], long])


def test_several_processes_are_refused(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = training_loop.Engine.of

    def of(*given: Any) -> Any:
        engine = real(*given)
        engine.ranks.world = 2
        return engine

    monkeypatch.setattr(training_loop.Engine, "of", of)
    with pytest.raises(ConfigError, match="in one process"):
        train(policy, tmp_path, settings())


def test_checkpointed_activations_leave_the_sampling_its_cache(policy: Policy, tmp_path: Path) -> None:
    plain = train(policy, tmp_path / "plain", settings(iterations=2))
    found = train(policy, tmp_path / "checkpointed", settings(iterations=2, checkpointing=True))
    for ours, theirs in zip(plain.history, found.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(kept_rollouts).failed == 0


def test_the_documented_training_runs(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's own code, on a small policy and few prompts; of the other example, the imports."""
    page = (Path(__file__).parent.parent / "docs" / "objectives" / "policy-gradient.md").read_text(encoding="utf-8")
    training, engine = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    exec(re.findall(r"^from prefloop.*$", engine, re.MULTILINE)[0], {})
    small = {"PolicyGradientConfig(algorithm=": "settings(iterations=1, algorithm=", '"embedded"': "folder"}
    for long, short in small.items():
        assert long in training
        training = training.replace(long, short)
    monkeypatch.chdir(tmp_path)
    names = {"prompts": PROMPTS, "settings": settings, "folder": policy.name}
    exec(training.replace("seed=1,", f"seed=1, max_new_tokens={TOKENS},"), names)
    assert (tmp_path / "checkpoint" / "training.json").exists()


def test_the_first_answer_is_shown_with_its_score(policy: Policy, tmp_path: Path) -> None:
    shown: list[str] = []
    train(policy, tmp_path, settings(), show=shown.append)
    assert shown[0].startswith("3 iterations of 4 prompts out of 10, 4 answers to each, 2 updates on them; packed")
    assert len(shown) == 2
    assert "answer, " in shown[1]
    assert "\n  scored " in shown[1]
