"""Reward models, instructions, QLoRA and the adapter's variants, float16, held-out choice of weights, alarms."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import World, build_model_folder, build_world, files, row_logp, settings_of
from transformers import AutoModelForSequenceClassification

from prefloop.config.sampling import Sampling
from prefloop.config.training import RewardTrainingConfig, SftTrainingConfig
from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.generation.generate import generate_completions
from prefloop.loop.console import TrainingConsole
from prefloop.loop.trackers import tracked
from prefloop.models.attention import training_attention
from prefloop.models.group import GroupForward, GroupScores
from prefloop.models.load import load_policy, merged, quantised
from prefloop.models.reward import load_reward_model
from prefloop.models.template import encode_completion, encode_prompt
from prefloop.training.alarms import Alarms
from prefloop.training.announce import annotated
from prefloop.training.loop import best_step
from prefloop.training.pairs import prompt_pairs
from prefloop.training.reward import train_reward_model
from prefloop.training.sft import train_instructions
from prefloop.training.trainable import tuned
from prefloop.training.update import TrainingResult


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def world(folder: Path) -> World:
    return build_world(folder)


# --- reward models ---


def reward_settings(**changes: Any) -> RewardTrainingConfig:
    given = {"epochs": 6, "learning_rate": 5e-3, "lora_rank": 4, "batch_prompts": 4, "checkpoint_every": 2}
    return RewardTrainingConfig(**{**given, **changes})


def train_reward(world: World, out: Path, config: RewardTrainingConfig, **rest: Any) -> TrainingResult:
    records = (world.policy, rest.pop("preferences", world.preferences), world.completions, world.prompts)
    return train_reward_model(*records, config, out / "checkpoint", work=out / "work", seed=1, **rest)


def row_score(world: World, model: Any, completion_id: str) -> float:
    """Score of one answer from its own row, by transformers' own reading of the last token."""
    completion = world.completions[completion_id]
    prompt = encode_prompt(world.policy.tokenizer, world.prompts[completion.prompt_id].messages)
    with torch.no_grad():
        return model(
            torch.tensor([[*prompt, *encode_completion(world.policy.tokenizer, completion.text)]])
        ).logits.item()


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("objective", ["bradley-terry", "plackett-luce"])
def test_a_reward_model_prefers_what_it_was_shown(
    world: World, folder: Path, tmp_path: Path, method: str, objective: str
) -> None:
    """Judged as a user would: loaded from its folder, by plain rows; `train_reward_model` itself re-scored it."""
    result = train_reward(world, tmp_path, reward_settings(method=method, objective=objective))
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    out = tmp_path / "checkpoint"
    model = load_reward_model(out) if method == "full" else load_reward_model(folder, out)
    if method == "full":
        model = replace(model, model=AutoModelForSequenceClassification.from_pretrained(out).eval())
    right = [
        row_score(world, model.model, p.chosen) > row_score(world, model.model, p.rejected) for p in world.preferences
    ]
    assert sum(right) >= len(right) - 1


def test_the_first_reward_loss_by_rows(world: World, tmp_path: Path) -> None:
    """Bradley-Terry with centring on scores of separate rows with the head as it was drawn."""
    config = reward_settings(method="full", epochs=1, batch_prompts=100, centring=0.05, learning_rate=1e-9)
    result = train_reward(world, tmp_path, config)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint").eval()
    total, expected = 0.0, 0.0
    for preference in world.preferences:
        better, worse = (row_score(world, model, i) for i in (preference.chosen, preference.rejected))
        loss = math.log1p(math.exp(worse - better)) + 0.05 * (better + worse) ** 2
        expected += preference.weight * loss
        total += preference.weight
    assert result.history[0]["loss"] == pytest.approx(expected / total, rel=1e-5)


def test_a_reward_run_goes_on_with_the_same_bytes(world: World, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 4:
            raise Killed

    train_reward(world, tmp_path / "whole", reward_settings())
    with pytest.raises(Killed):
        train_reward(world, tmp_path / "cut", reward_settings(), log=stop)
    train_reward(world, tmp_path / "cut", reward_settings())
    assert files(tmp_path / "cut" / "checkpoint") == files(tmp_path / "whole" / "checkpoint")


def test_a_reward_model_without_its_head_is_refused(world: World, folder: Path, tmp_path: Path) -> None:
    world.train(tmp_path, settings_of(epochs=1))
    with pytest.raises(ModelError, match="holds no head"):
        load_reward_model(folder, tmp_path / "checkpoint")
    with pytest.raises(ModelError, match="lack 1 tensors, score"):
        load_reward_model(folder)


# --- instructions ---


def examples_of(world: World) -> list[tuple[Any, str]]:
    return [(world.prompts[c.prompt_id].messages, c.text) for c in world.completions.values()]


def sft_settings(**changes: Any) -> SftTrainingConfig:
    given = {"epochs": 2, "learning_rate": 5e-3, "lora_rank": 4, "batch_examples": 6, "checkpoint_every": 2}
    return SftTrainingConfig(**{**given, **changes})


def train_sft(world: World, out: Path, config: SftTrainingConfig, **rest: Any) -> TrainingResult:
    examples = rest.pop("examples", examples_of(world))
    return train_instructions(world.policy, examples, config, out / "checkpoint", work=out / "work", seed=1, **rest)


@pytest.mark.parametrize("method", ["lora", "full", "qlora"])
def test_instructions_are_learned(world: World, tmp_path: Path, method: str) -> None:
    result = train_sft(world, tmp_path, sft_settings(method=method, epochs=8, batch_examples=100))
    if method != "qlora":  # by rows: 4-bit weights say something else
        rows = [row_logp(world, world.policy.model, i) for i in world.completions]
        mean = -sum(logp for logp, _ in rows) / sum(length for _, length in rows)
        assert result.history[0]["loss"] == pytest.approx(mean, rel=1e-5)
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    assert result.trainable == (
        sum(p.numel() for p in world.policy.model.parameters()) if method == "full" else adapter_parameters(4)
    )


def adapter_parameters(rank: int) -> int:
    """Of the toy model by hand: r·(in + out) of q 32→32, k and v 32→16, o 32→32, gate and up 32→48, down 48→32."""
    layer = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]
    return 2 * rank * sum(map(sum, layer))


def test_thinking_is_read_but_not_learned(world: World, tmp_path: Path) -> None:
    """With ``thinking: context`` the loss is that of the tokens behind the section alone."""
    messages = next(iter(world.prompts.values())).messages
    text = "<think>who scored</think>points 1"
    shown: list[str] = []
    result = train_sft(
        world, tmp_path, sft_settings(epochs=1, thinking="context"), examples=[(messages, text)], show=shown.append
    )
    tokenizer = world.policy.tokenizer
    prompt, answer = encode_prompt(tokenizer, messages), encode_completion(tokenizer, text)
    scored = len(encode_completion(tokenizer, "points 1"))
    with torch.no_grad():
        logps = world.policy.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    places = range(len(prompt) + len(answer) - scored, len(prompt) + len(answer))
    tokens = [*prompt, *answer]
    expected = -sum(logps[place - 1, tokens[place]].item() for place in places) / scored
    assert result.history[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert f"answer, {scored} tokens scored after {len(answer) - scored} that are read only" in shown[1], shown
    with pytest.raises(DataError, match="1 nothing but thinking"):
        train_sft(world, tmp_path / "none", sft_settings(thinking="context"), examples=[(messages, "<think></think>")])


# --- ways to train ---


@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_variants_of_the_adapter_load_as_they_were_trained(
    world: World, folder: Path, tmp_path: Path, variant: str
) -> None:
    result = world.train(tmp_path, settings_of(lora_variant=variant, epochs=4))
    assert result.history[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    tuned_policy = load_policy(folder, adapter=tmp_path / "checkpoint", device="cpu")
    preference = world.preferences[0]
    after, before = (
        row_logp(world, model, preference.chosen)[0] - row_logp(world, model, preference.rejected)[0]
        for model in (tuned_policy.model, world.policy.model)
    )
    assert after > before


def test_qlora_gradients_are_right_after_a_pass_without_gradient(world: World) -> None:
    """bitsandbytes repacks weights in such a pass where the processor has bfloat16 units; ours must not."""
    units, _ = prompt_pairs(world.policy, world.preferences, world.completions, world.prompts, "dpo")
    config = settings_of(method="qlora")
    with tuned(quantised(world.policy, "float32"), config, seed=1) as model:
        forward = GroupForward(model)
        batch = forward.pack([unit.group for unit in units])
        found = []
        for _ in range(2):
            model.zero_grad()
            forward(batch).sums.sum().backward()
            found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
            with torch.no_grad():
                forward(batch)
    assert found[0]
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=1e-5, atol=1e-7), name


def test_qlora_prefers_what_it_was_shown(world: World, tmp_path: Path) -> None:
    result = world.train(tmp_path, settings_of(method="qlora", epochs=4))
    assert result.history[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert result.history[-1]["rewards/accuracies"] == 1.0
    assert json.loads((tmp_path / "checkpoint" / "prefloop_lineage.json").read_text())["method"] == "qlora"


def test_a_policy_in_4_bits_samples_and_trains_in_place(world: World, tmp_path: Path) -> None:
    """What fits on a small GPU: one copy of the weights, which is policy, reference and base of the adapter."""
    folder = world.policy.name
    small = replace(world, policy=load_policy(folder, dtype="nf4", device="cpu"))
    assert small.policy.lineage.id != world.policy.lineage.id
    assert small.policy.lineage.base == world.policy.lineage.base
    prompts = list(world.prompts.values())[:2]
    before = generate_completions(small.policy, prompts, Sampling(k=1, greedy=True, max_new_tokens=8), seed=1)
    assert {completion.policy for completion in before} == {small.policy.lineage.id}

    result = small.train(tmp_path, settings_of(method="qlora", epochs=4))
    assert result.history[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert result.history[-1]["rewards/accuracies"] == 1.0
    after = generate_completions(small.policy, prompts, Sampling(k=1, greedy=True, max_new_tokens=8), seed=1)
    assert after == before  # its own model is as it was
    twice = world.train(tmp_path / "copy", settings_of(method="qlora", epochs=4))
    assert twice.history[-1]["loss"] == pytest.approx(result.history[-1]["loss"], rel=1e-5)

    tuned_policy = load_policy(folder, tmp_path / "checkpoint", "nf4", "cpu")
    assert merged(tuned_policy) is tuned_policy
    shown = small.preferences[0]
    gains = [
        row_logp(world, model, shown.chosen)[0] - row_logp(world, model, shown.rejected)[0]
        for model in (tuned_policy.model, small.policy.model)
    ]
    assert gains[0] > gains[1]
    for method in ("lora", "full"):
        with pytest.raises(ModelError, match="4-bit weights: train with qlora"):
            small.train(tmp_path / method, settings_of(method=method))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_activation_checkpointing_changes_nothing_but_memory(world: World, tmp_path: Path, method: str) -> None:
    plain, again = (
        world.train(tmp_path / str(on), settings_of(method=method, checkpointing=on)).history for on in (False, True)
    )
    for before, after in zip(plain, again, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-5)
        assert after["grad_norm"] == pytest.approx(before["grad_norm"], rel=1e-4)
    assert not world.policy.model.is_gradient_checkpointing


def test_float16_stays_close_to_float32_and_goes_on(world: World, tmp_path: Path) -> None:
    """Losses are scaled; the first steps may overflow and are skipped, so compare what is learned."""
    exact = world.train(tmp_path / "32", settings_of(epochs=6)).history
    half = world.train(tmp_path / "16", settings_of(epochs=6, dtype="float16")).history
    assert half[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.01)
    assert half[-1]["rewards/margins"] > 0.5 * exact[-1]["rewards/margins"] > 0
    seen: list[int] = []

    class Killed(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        seen.append(row["step"])
        if row["step"] == 5:
            raise Killed

    with pytest.raises(Killed):
        world.train(tmp_path / "cut", settings_of(epochs=6, dtype="float16"), log=stop)
    world.train(tmp_path / "cut", settings_of(epochs=6, dtype="float16"))
    assert files(tmp_path / "cut" / "checkpoint") == files(tmp_path / "16" / "checkpoint")


def test_answers_of_the_reference_itself_are_not_computed_again(world: World, tmp_path: Path) -> None:
    """Generation recorded their log-probabilities: the store stays empty and training is the same."""
    computed = world.train(tmp_path / "computed", settings_of()).history
    completions = {}
    for completion in world.completions.values():
        prompt = encode_prompt(world.policy.tokenizer, world.prompts[completion.prompt_id].messages)
        ids = encode_completion(world.policy.tokenizer, completion.text)
        with torch.no_grad():
            logps = world.policy.model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        recorded = tuple(logps[len(prompt) + t - 1, token].item() for t, token in enumerate(ids))
        completions[completion.id] = replace(
            completion, token_ids=tuple(ids), logprobs=recorded, policy=world.policy.lineage.id
        )
    generated = replace(world, completions=completions)
    found = generated.train(tmp_path / "recorded", settings_of()).history
    assert not (tmp_path / "recorded" / "work" / "reference.jsonl").exists()
    for ours, theirs in zip(found, computed, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    wrong = {i: replace(c, logprobs=tuple(x - 0.5 for x in c.logprobs)) for i, c in completions.items()}
    again = replace(world, completions=wrong).train(tmp_path / "wrong", settings_of()).history
    assert (tmp_path / "wrong" / "work" / "reference.jsonl").exists()  # not what the weights say: computed
    assert again == computed


def test_another_model_as_the_reference(world: World, folder: Path, tmp_path: Path) -> None:
    """Implicit rewards at step 0 are β times the difference to that model."""
    world.train(tmp_path / "one", settings_of(method="full"))
    start = load_policy(tmp_path / "one" / "checkpoint", device="cpu")
    again = replace(world, policy=start).train(tmp_path / "two", settings_of(), initial=world.policy)
    margins = []
    for p in world.preferences:
        now, then = (
            row_logp(world, model, p.chosen)[0] - row_logp(world, model, p.rejected)[0]
            for model in (start.model, world.policy.model)
        )
        margins.append(p.weight * 0.1 * (now - then))
    first = replace(world, policy=start).train(
        tmp_path / "three", settings_of(batch_pairs=100, epochs=1), initial=world.policy
    )
    total = sum(p.weight for p in world.preferences)
    assert first.history[0]["rewards/margins"] == pytest.approx(sum(margins) / total, rel=1e-4)
    assert again.history[0]["rewards/margins"] > 0.01


# --- held out, best and early stop ---


def test_the_weights_kept_are_those_with_the_lowest_held_out_loss(world: World, folder: Path, tmp_path: Path) -> None:
    """Fifty epochs on a few examples: the held-out loss falls and rises; what is saved scores the lowest."""
    config = sft_settings(held_out=0.3, evaluate_every=2, epochs=30, learning_rate=2e-2, schedule="constant")
    result = train_sft(world, tmp_path, config)
    seen = {row["step"]: row["held_out/loss"] for row in result.history if "held_out/loss" in row}
    assert result.best_step == min(seen, key=lambda step: seen[step])
    assert result.best_step < result.steps
    stopped = train_sft(world, tmp_path / "early", config.model_copy(update={"patience": 3}))
    assert stopped.steps == stopped.best_step + 6 < result.steps
    kept = load_policy(folder, adapter=tmp_path / "checkpoint", device="cpu")
    rows = [row_logp(world, kept.model, i) for i in world.completions]
    assert -sum(lp for lp, _ in rows) / sum(n for _, n in rows) < seen[2]


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.soak)])
def test_a_run_stopped_before_its_best_goes_on_with_the_same_bytes(world: World, tmp_path: Path, stride: int) -> None:
    """Stopped at steps with a look at what is held out and at steps between, before the best one and after it."""

    class Killed(Exception):
        pass

    config = sft_settings(held_out=0.3, evaluate_every=2, epochs=8, learning_rate=2e-2, patience=2)
    whole = train_sft(world, tmp_path / "whole", config)
    for step in range(1, whole.steps + 1, stride):
        out = tmp_path / str(step)

        def stop(row: dict[str, Any], step: int = step) -> None:
            if row["step"] == step:
                raise Killed

        with pytest.raises(Killed):
            train_sft(world, out, config, log=stop)
        train_sft(world, out, config)
        assert files(out / "checkpoint") == files(tmp_path / "whole" / "checkpoint")


def test_best_step() -> None:
    assert best_step([{"step": 1, "loss": 1.0}]) is None
    history = [{"step": s, "held_out/loss": loss} for s, loss in ((1, 0.9), (2, 0.5), (3, 0.5), (4, 0.7))]
    assert best_step(history) == 2  # the first of equals


# --- what the user sees ---


def figures(**changes: float) -> dict[str, float]:
    plain = {"loss": 0.5, "rewards/margins": 1.0, "shift/chosen": 0.0, "length/chosen": 10.0, "length/rejected": 10.0}
    return {**plain, **{name.replace("__", "/"): value for name, value in changes.items()}}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (figures(loss=0.9, rewards__margins=0.0), "still at ln 2"),
        (figures(shift__chosen=-12.0, kl__token=0.1), "lost more than 1 nats per token"),
        (figures(length__chosen=20.0), "length is learned"),
    ],
)
def test_alarms_are_raised_once(row: dict[str, float], words: str) -> None:
    alarms = Alarms()
    assert alarms([row] * 19) == []
    assert alarms([figures()] * 30) == []
    (alarm,) = alarms([figures()] * 10 + [row] * 20)
    assert words in alarm
    assert alarms([row] * 21) == []


def test_the_step_that_went_wrong_is_written_down(world: World, tmp_path: Path) -> None:
    with torch.no_grad():
        world.policy.model.get_input_embeddings().weight.fill_(math.nan)
    with pytest.raises(ModelError, match=r"step 1: the gradient is not finite.*its data: .*bad-step-1\.json"):
        train_sft(world, tmp_path, sft_settings())
    saved = json.loads((tmp_path / "work" / "bad-step-1.json").read_text())
    assert len(saved["units"]) == 6
    assert saved["units"][0]["prompt_ids"]


def test_a_step_that_does_not_fit_is_cut_finer(world: World, tmp_path: Path, monkeypatch: Any) -> None:
    """Passes of more than 80 tokens run out of memory: the step is taken again in smaller ones, to the same end."""
    expected = train_sft(world, tmp_path / "whole", sft_settings()).history
    plain = GroupForward.forward

    def small(self: Any, batch: Any, squares: bool = False) -> Any:
        if batch.input_ids.numel() > 80:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, batch, squares)

    monkeypatch.setattr(GroupForward, "forward", small)
    found = train_sft(world, tmp_path / "small", sft_settings()).history
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    monkeypatch.setattr(GroupForward, "forward", lambda *a, **k: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(ModelError, match=r"out of memory at .* tokens per forward pass: lower"):
        train_sft(world, tmp_path / "none", sft_settings())


def test_the_example_shows_every_token_and_what_is_scored(world: World) -> None:
    units, _ = prompt_pairs(world.policy, world.preferences[:1], world.completions, world.prompts, "dpo")
    text = annotated(world.policy.tokenizer, units[0].group, ["chosen", "rejected"])
    lines = text.splitlines()
    assert lines[1].startswith(f"  prompt, {len(units[0].group.prompt_ids)} tokens, not scored")
    for place, ids in enumerate((units[0].group.prompt_ids, *units[0].group.completions)):
        assert len(lines[2 + 2 * place].split("|")) >= len(ids)
    assert "ends with" in lines[3]


def test_the_console_prints_a_row_every_few_steps(monkeypatch: Any) -> None:
    said: list[str] = []
    monkeypatch.setattr("prefloop.loop.console.note", said.append)
    console = TrainingConsole(every=5)
    for step in range(1, 11):
        console({"step": step, "loss": 1 / step, "grad_norm": 2.0, "tokens_per_second": 1e4})
    assert said[0].split() == ["step", "loss", "grad", "norm", "tokens/s"]
    assert [line.split()[0] for line in said[1:]] == ["1", "5", "10"]


def test_figures_reach_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tracked(["tensorboard"], "run", tmp_path, {"learning_rate": 1e-4, "method": "lora"}) as send:
        for step in (1, 2):
            send({"step": step, "loss": 1.0 / step})
    found = accumulator.EventAccumulator(str(tmp_path / "run")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    with (
        pytest.raises(ConfigError, match=r"no tracker 'nothing': one of .*tensorboard"),
        tracked(["nothing"], "", tmp_path, {}),
    ):
        pass


def test_scores_are_read_at_the_last_token_in_both_layouts(world: World, tmp_path: Path) -> None:
    train_reward(world, tmp_path, reward_settings(method="full", epochs=1))
    model = load_reward_model(tmp_path / "checkpoint").model
    units, _ = prompt_pairs(world.policy, world.preferences, world.completions, world.prompts, "dpo")
    with training_attention(model), torch.no_grad():
        scores = GroupScores(model)
        assert scores.layout == "packed"
        found = scores(scores.pack([units[0].group]))
    expected = [
        model(torch.tensor([[*units[0].group.prompt_ids, *ids]])).logits.item() for ids in units[0].group.completions
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
