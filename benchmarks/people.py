"""Reward models that learn from people's labels alone, held against the labels of prompts they never saw.

    python benchmarks/people.py PEOPLE_FILE [--folds 5] [--seed 1] [--limit PROMPTS] [--json FILE]

Cross-fitted: the prompts are dealt into folds, each with all its pairs. The pairs that most raters decided in the
other folds train a Bradley-Terry model, which scores this fold's answers; the scores of all folds are one judge. It
starts from random weights (`scratch`, its tokenizer trained on the same other folds) or from the embedded policy's.
The learning rate and the step that is kept are those with the lowest loss on a fifth of the training prompts.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from prefloop.config.judges import RewardModelConfig
from prefloop.config.training import RewardTrainingConfig
from prefloop.errors import DataError
from prefloop.evaluation.agreement import LENGTH, agreement, length_judge
from prefloop.evaluation.agreement_text import agreement_text
from prefloop.evaluation.opinions import judge_opinions, labelled_pairs, rater_verdicts
from prefloop.judging.reward_model import RewardModelJudge
from prefloop.maths.agreement import decided_hits, plurality
from prefloop.maths.resampling import kept_clusters
from prefloop.maths.statistics import SHARE, Interval, paired_bootstrap
from prefloop.models.load import Policy, load_policy, quiet_transformers
from prefloop.models.tokenizer import train_tokenizer
from prefloop.preferences.people import HumanLabels, read_people
from prefloop.records import Completion, Judgement, Preference, Prompt
from prefloop.training.reward import train_reward_model

RATES = {"scratch": (1e-4, 3e-4, 1e-3), "embedded": (1e-4, 3e-4)}
"""Where a training starts, and the learning rates tried from there, in every fold anew."""
CONTEXT = 1_024
"""Tokens of the longest conversation that is scored; the embedded policy reads 2,048 and gets no more than this."""
VOCABULARY = 2_048
LAYERS, WIDTH, FEED_FORWARD, HEADS, KV_HEADS = 4, 192, 512, 3, 1
SETTINGS = RewardTrainingConfig(
    method="full", epochs=3, batch_prompts=8, held_out=0.2, evaluate_every=7, patience=2, checkpoint_every=1_000
)
"""A look at what is held out comes about twice an epoch; the training ends after two that are no better."""


@dataclass(frozen=True)
class Part:
    """Some prompts, with the answers to them and the pairs of answers that people decided."""

    prompts: Mapping[str, Prompt]
    completions: Mapping[str, Completion]
    preferences: Sequence[Preference]

    def of(self, wanted: set[str]) -> Part:
        """What belongs to these prompts."""
        return Part(
            {i: prompt for i, prompt in self.prompts.items() if i in wanted},
            {i: answer for i, answer in self.completions.items() if answer.prompt_id in wanted},
            [preference for preference in self.preferences if preference.prompt_id in wanted],
        )

    def texts(self) -> list[str]:
        """Everything that is written in it."""
        asked = [message["content"] for prompt in self.prompts.values() for message in prompt.messages]
        return asked + [answer.text for answer in self.completions.values()]


@dataclass(frozen=True)
class Attempt:
    """One training: the learning rate, and how the best of its steps does on the prompts kept from it."""

    rate: float
    loss: float
    accuracy: float
    step: int
    pairs: int
    dropped: Mapping[str, int]
    """Pairs that could not be trained on, by reason."""


Fit = Callable[[Part, Path], Path]
"""Of the training folds and an empty folder, the folder of a reward model."""


def decided(labels: HumanLabels) -> tuple[Part, int]:
    """The pairs that most raters decided, as preferences, and how many pairs are tied and left out."""
    pairs = labelled_pairs(labels.judgements)
    verdicts = plurality(rater_verdicts(labels.judgements, pairs)[1])
    sides = [
        (pair.prompt_id, *((pair.first, pair.second) if verdict == 1.0 else (pair.second, pair.first)))
        for pair, verdict in zip(pairs, verdicts, strict=True)
        if verdict != 0.5
    ]
    preferences = [Preference.pair(*side, 1.0, 0.0, "people") for side in sides]
    prompts, completions = ({record.id: record for record in kind} for kind in (labels.prompts, labels.completions))
    return Part(prompts, completions, preferences), len(pairs) - len(sides)


def folds_of(prompts: Sequence[str], count: int, seed: int) -> list[set[str]]:
    """The prompts dealt at random into `count` folds whose sizes differ by one at most."""
    order = np.random.default_rng(seed).permutation(sorted(prompts)).tolist()
    return [set(order[start::count]) for start in range(count)]


def out_of_fold(whole: Part, folds: Sequence[set[str]], name: str, fit: Fit) -> list[Judgement]:
    """Scores of all answers, each by the model that was fitted to the other folds, signed by one judge."""
    found: list[Judgement] = []
    for held in folds:
        with tempfile.TemporaryDirectory() as folder:
            model = fit(whole.of(set(whole.prompts) - held), Path(folder))
            config = RewardModelConfig(model=str(model), max_tokens=CONTEXT, device="cpu")
            part = whole.of(held)
            with RewardModelJudge(config) as judge:
                said = judge.judge(list(part.prompts.values()), list(part.completions.values()))
        found += [Judgement.create(j.prompt_id, j.completion_ids, name, j.kind, j.value, raw=j.raw) for j in said]
    return found


def random_policy(part: Part, folder: Path, seed: int) -> Policy:
    """A Llama of 2 million random weights, with a tokenizer trained on `part`."""
    tokenizer = train_tokenizer(part.texts(), VOCABULARY, CONTEXT)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    with quiet_transformers():
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_policy(folder, device="cpu")


def fitted(start: str, part: Part, folder: Path, seed: int, tried: list[list[Attempt]]) -> Path:
    """The reward model of the learning rate with the lowest held-out loss; `tried` gets a row with all of them."""
    policy = random_policy(part, folder / start, seed) if start == "scratch" else load_policy(start, device="cpu")
    attempts = []
    for rate in RATES[start]:
        config = SETTINGS.model_copy(update={"learning_rate": rate})
        out, work = folder / f"{rate:g}", folder / f"{rate:g}.work"
        data = (part.preferences, part.completions, part.prompts)
        result = train_reward_model(policy, *data, config, out, work=work, seed=seed)
        figures = [result.kept[f"held_out/{name}"] for name in ("loss", "scores/accuracies")]
        attempts.append(Attempt(rate, *figures, result.best_step or 0, result.pairs, result.dropped))
    tried.append(attempts)
    return folder / f"{min(attempts, key=lambda attempt: attempt.loss).rate:g}"


def beyond_length(labels: HumanLabels, said: Sequence[Judgement]) -> tuple[Interval, int]:
    """A judge's accuracy minus that of the longer answer, on the pairs that it judged and people decided."""
    pairs = labelled_pairs(labels.judgements)
    people = plurality(rater_verdicts(labels.judgements, pairs)[1])
    both = (length_judge(pairs, labels.completions), said)
    length, judge = (decided_hits(judge_opinions(one, pairs).verdict_N, people) for one in both)
    known = ~(np.isnan(length) | np.isnan(judge))
    clusters = kept_clusters([pair.prompt_id for pair in pairs], known)
    return paired_bootstrap(length[known], judge[known], clusters, draws=1_000, bounds=SHARE), int(known.sum())


def first_prompts(labels: HumanLabels, count: int | None) -> HumanLabels:
    """The labels of the first `count` prompts; all without a count."""
    prompts = labels.prompts[:count]
    kept = {prompt.id for prompt in prompts}
    completions = tuple(answer for answer in labels.completions if answer.prompt_id in kept)
    judgements = tuple(label for label in labels.judgements if label.prompt_id in kept)
    return HumanLabels(prompts, completions, judgements, labels.bad)


def measure(labels: HumanLabels, folds: int, seed: int) -> dict[str, Any]:
    """Agreement of both reward models with people, what each gains on length, and what was tried."""
    whole, tied = decided(labels)
    dealt = folds_of(list(whole.prompts), folds, seed)
    judges: dict[str, list[Judgement]] = {}
    tried: dict[str, list[list[Attempt]]] = {start: [] for start in RATES}
    for start, rows in tried.items():
        name = f"reward-model/{start}"
        judges[name] = out_of_fold(whole, dealt, name, partial(fitted, start, seed=seed, tried=rows))
    gains = {name: beyond_length(labels, said) for name, said in judges.items()}
    return {
        "agreement": agreement(labels.judgements, labels.completions, judges),
        "tied_left_out": tied,
        "beyond_length": {name: {**asdict(found), "n": n} for name, (found, n) in gains.items()},
        "tried": {start: [[asdict(one) for one in row] for row in rows] for start, rows in tried.items()},
    }


def text(found: Mapping[str, Any]) -> str:
    """The table of agreement, and below it what each reward model gains on length and what was tried."""
    lines = [agreement_text(found["agreement"]), "", f"{found['tied_left_out']:,} tied pairs were not trained on.", ""]
    for name, gain in found["beyond_length"].items():
        bounds = f"[{gain['low']:+.3f}, {gain['high']:+.3f}]"
        lines.append(f"{name}: accuracy minus that of {LENGTH} {gain['estimate']:+.3f} {bounds}, n {gain['n']:,}")
    lines += ["", "| start | fold | held-out loss (accuracy, step) by learning rate | pairs | dropped |"]
    lines.append("|---|---|---|---|---|")
    for start, rows in found["tried"].items():
        for fold, row in enumerate(rows, 1):
            losses = (f"{a['rate']:g}: {a['loss']:.3f} ({a['accuracy']:.2f}, {a['step']})" for a in row)
            pairs, dropped = row[0]["pairs"], sum(row[0]["dropped"].values())
            lines.append(f"| {start} | {fold} | {'; '.join(losses)} | {pairs:,} | {dropped:,} |")
    return "\n".join(lines)


def main() -> None:
    """Read the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("people", type=Path, metavar="PEOPLE_FILE", help="labels, as 'prefloop agree' reads them")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of the folds, the weights and the order of training")
    parser.add_argument("--limit", type=int, help="the first prompts alone")
    parser.add_argument("--json", type=Path, help="write everything there, too")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    started = time.perf_counter()
    try:
        labels = first_prompts(read_people(options.people), options.limit)
    except DataError as error:
        parser.error(str(error))
    if not 2 <= options.folds <= len(labels.prompts) // 3:
        parser.error(f"--folds must be 2 or more, and a third of the {len(labels.prompts)} prompts at most")
    found = measure(labels, options.folds, options.seed)
    print(text(found))
    print(f"\n{len(labels.bad):,} labels or rows could not be read and are left out.")
    print(f"{time.perf_counter() - started:.0f} s, {torch.get_num_threads()} threads")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
