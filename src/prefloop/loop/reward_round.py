"""The reward model of a round: learned from some raters' verdicts on some prompts, examined on others by others.

Prompts and raters are held out by hashes of their ids and names: no later round trains on a prompt that this one holds
out, nor, as long as the same people judge, on what a rater says who is held out here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prefloop.config.loop import RlhfConfig
from prefloop.config.recipe import Recipe
from prefloop.errors import DataError, JudgeError, ModelError
from prefloop.evaluation.reward_examined import accuracy, against_truth, calibration, rated_pairs, raters_figures
from prefloop.loop.launch import Launch
from prefloop.loop.learned import Learned
from prefloop.loop.run_training import Training
from prefloop.models.attention import training_attention
from prefloop.models.group import Group, GroupStates
from prefloop.models.load import Policy
from prefloop.models.reward import last_token_scores, load_reward_model
from prefloop.models.source import PolicySource
from prefloop.models.template import encode_answer, encode_prompt
from prefloop.preferences.build import build_preferences
from prefloop.records import Completion, Judgement, Prompt, content_id
from prefloop.store.files import read_json
from prefloop.store.run_folder import RunFolder
from prefloop.training.batches import cut

FOLDER, FIGURES = "reward", "reward-model.json"
_HASHED = 16**20


@dataclass(frozen=True)
class Split:
    """Which prompts and which raters teach the reward model nothing."""

    prompts: frozenset[str]
    """Ids."""
    raters: frozenset[str]
    """Names, as judgements are signed."""

    def taught(self, judgement: Judgement) -> bool:
        """Whether the reward model may learn from a judgement."""
        return judgement.prompt_id not in self.prompts and judgement.judge not in self.raters


def split_of(prompts: Sequence[Prompt], judgements: Sequence[Judgement], config: RlhfConfig) -> Split:
    """Each prompt is held out with the configured chance; of the raters so large a share, one at least on either side.

    Raises:
        DataError: there are fewer than two raters.
    """
    raters = sorted({judgement.judge for judgement in judgements}, key=lambda name: content_id("held-out rater", name))
    if len(raters) < 2:
        raise DataError(
            f"{len(raters)} raters judged these answers: a reward model is examined by raters it has not learned from; "
            "let two people or more judge"
        )
    count = min(max(1, round(config.raters.held_out_raters * len(raters))), len(raters) - 1)
    held = (p.id for p in prompts if int(content_id("held-out prompt", p.id), 16) < config.held_out_prompts * _HASHED)
    return Split(frozenset(held), frozenset(raters[:count]))


def train_reward(
    recipe: Recipe,
    folder: RunFolder,
    policy: PolicySource,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    judgements: Sequence[Judgement],
    truth: Mapping[str, float],
    round_: int,
    launch: Launch | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Train and examine the reward model of a round, in ``reward/`` and ``reward-model.json`` of its folder.

    Args:
        folder: the round's.
        policy: whose layers the reward model starts from.
        prompts, completions, judgements: of this and all earlier rounds.
        truth: 1 or 0, right or wrong, by completion id; empty where nothing can tell. It examines, it does not teach.
        launch: processes that train; None: this one.

    Returns:
        The reward model's folder, and figures on the held-out prompts: ``held_out_prompts_and_raters``, accuracy
        against the held-out raters' verdicts, clustered by prompt; ``against_truth``, accuracy on pairs of one right
        and one wrong answer, clustered by template, and ``this_round``, the same on this round's answers alone;
        ``brier`` and ``ece`` against the held-out raters at the ``temperature`` that fits the other raters best;
        ``best_correct`` and ``best_possible``, shares of prompts whose best-scored (whose any) answer is right;
        ``raters``, what all raters' own verdicts there are worth. ``pairs`` are those that were trained on.

    Raises:
        DataError: no verdict is left to train on, or one rater alone judged.
        ModelError: as in `prefloop.training.reward.train_reward_model`.
    """
    config = recipe.loop
    if not isinstance(config, RlhfConfig):
        raise DataError("only a loop with raters has a reward model: set loop.name=rlhf")
    split = split_of(prompts, judgements, config)
    out = folder.root / FOLDER
    if not (out / "training.json").exists():
        with folder.timed(FOLDER):
            _train(recipe, config, folder, policy, prompts, completions, judgements, split, launch)
    figures = folder.document(
        FIGURES,
        lambda: {
            **_examined(out, config, policy, prompts, completions, judgements, truth, split, round_),
            "pairs": read_json(out / "training.json")["pairs"],
        },
    )
    return out, figures


def _train(
    recipe: Recipe,
    config: RlhfConfig,
    folder: RunFolder,
    policy: PolicySource,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    judgements: Sequence[Judgement],
    split: Split,
    launch: Launch | None,
) -> None:
    taught = [judgement for judgement in judgements if split.taught(judgement)]
    shown = [prompt for prompt in prompts if prompt.id not in split.prompts]
    built = build_preferences(shown, completions, taught, recipe.preferences, recipe.seed)
    if not built.preferences:
        raise DataError(f"no verdict to train a reward model on ({built.drops}): have more answers judged")
    data = Learned(list(built.preferences), {c.id: c for c in completions}, {p.id: p for p in prompts})
    training = Training(policy, config.reward, recipe.seed, threads=recipe.threads, out=FOLDER, work=FOLDER)
    training.run(folder, data, launch)


def _examined(
    model: Path,
    config: RlhfConfig,
    policy: PolicySource,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    judgements: Sequence[Judgement],
    truth: Mapping[str, float],
    split: Split,
    round_: int,
) -> dict[str, Any]:
    held = [prompt for prompt in prompts if prompt.id in split.prompts]
    answers = [c for c in completions if c.prompt_id in split.prompts and c.index >= 0]
    with Scorer(model, policy.model, tokens_per_batch=config.reward.tokens_per_batch) as scorer:
        scores = scorer.score(held, answers)
    clusters = {prompt.id: str(prompt.meta.get("template") or prompt.id) for prompt in held}
    pairs = rated_pairs(judgement for judgement in judgements if judgement.prompt_id in split.prompts)
    theirs = [pair for pair in pairs if pair.judge in split.raters]
    others = [pair for pair in pairs if pair.judge not in split.raters]
    gap = against_truth(scores, truth, answers, clusters)
    now = against_truth(scores, truth, [c for c in answers if c.round == round_], clusters)
    return {
        "held_out_prompts_and_raters": accuracy(theirs, scores),
        "against_truth": gap["accuracy"],
        "this_round": now["accuracy"],
        "best_correct": gap["best_correct"],
        "best_possible": gap["best_possible"],
        **calibration(others, theirs, scores),
        "raters": raters_figures(pairs, truth, clusters),
        "held_out": {
            "prompts": len(held),
            "raters": sorted(split.raters),
            "rated_pairs": len(theirs),
            "truth": gap["n"],
        },
    }


class Scorer:
    """Scores answers with a reward model that stays loaded; a context manager.

    Answers are read by the token ids that a policy generated, as in training: encoding their text may give others.
    """

    def __init__(
        self,
        model: Path,
        base: str | None = None,
        *,
        dtype: str = "float32",
        device: str = "auto",
        tokens_per_batch: int = 8192,
    ) -> None:
        """
        Args:
            model: as `train_reward` gives it: a whole model's folder, or an adapter's.
            base: the adapter's base, where it is another than the adapter names.
            dtype: of the layers; the head is float32.
        """
        self._model, self._base, self._dtype, self._device = model, base, dtype, device
        self._budget = tokens_per_batch
        self._open = ExitStack()
        self._loaded: Policy | None = None
        self._prompts: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> Scorer:
        """Loads the model.

        Raises:
            ModelError: it is no reward model, or damaged.
        """
        adapter = self._model / "adapter_config.json"
        if adapter.is_file():
            base = self._base or str(read_json(adapter).get("base_model_name_or_path"))
            self._loaded = load_reward_model(base, self._model, self._dtype, self._device)
        else:
            self._loaded = load_reward_model(self._model, None, self._dtype, self._device)
        self._open.enter_context(training_attention(self._loaded.model))
        self._states = GroupStates(self._loaded.model)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()
        self._loaded = None
        self._prompts.clear()

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> dict[str, float]:
        """By completion id; only differences within a prompt mean something.

        Answers to other prompts, that are empty or longer than the model's context, or that score no finite number,
        are left out.

        Raises:
            JudgeError: not entered.
        """
        if self._loaded is None:
            raise JudgeError(f"{self._model} is not open: use the scorer in a with statement")
        asked = {prompt.id: prompt for prompt in prompts}
        by_prompt: dict[str, dict[tuple[int, ...], list[str]]] = {}
        for completion in completions:
            ids = self._answer(asked, completion)
            if ids:
                by_prompt.setdefault(completion.prompt_id, {}).setdefault(ids, []).append(completion.id)
        groups = [Group(self._prompt(asked[name]), tuple(answers)) for name, answers in by_prompt.items()]
        named = [list(answers.values()) for answers in by_prompt.values()]
        found: dict[str, float] = {}
        for members in cut([group.tokens for group in groups], self._budget) if groups else ():
            values = self._pass([groups[i] for i in members])
            for place in members:
                for same, value in zip(named[place], values, strict=False):  # the next group takes what is left
                    found |= dict.fromkeys(same, value)
        return {i: value for i, value in found.items() if math.isfinite(value)}

    def _pass(self, groups: list[Group]) -> Iterator[float]:
        with torch.no_grad():
            batch = self._states.pack(groups)
            yield from last_token_scores(self._states, batch).tolist()

    def _prompt(self, prompt: Prompt) -> tuple[int, ...]:
        assert self._loaded is not None
        if prompt.id not in self._prompts:
            self._prompts[prompt.id] = tuple(encode_prompt(self._loaded.tokenizer, prompt.messages))
        return self._prompts[prompt.id]

    def _answer(self, asked: Mapping[str, Prompt], completion: Completion) -> tuple[int, ...]:
        """Token ids of an answer that can be scored; none of another."""
        assert self._loaded is not None
        prompt = asked.get(completion.prompt_id)
        if prompt is None:
            return ()
        ids = completion.token_ids
        if not ids:
            try:
                ids = tuple(encode_answer(self._loaded.tokenizer, prompt.messages, completion.text)[0])
            except ModelError:
                return ()
        limit = getattr(self._loaded.model.config.get_text_config(), "max_position_embeddings", None)
        fits = limit is None or len(self._prompt(prompt)) + len(ids) <= limit
        return ids if fits else ()
