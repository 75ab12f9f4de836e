"""TRL's trainers on token ids, with a clock: the peer in `benchmarks/training.py`.

The trainers are TRL's own from `train()` down. Replaced is only where their data come from: token ids instead of
text (`_prepare_dataset`), in the order given (the sampler), and for GRPO given answers instead of generated ones.
TRL is a dependency of the benchmarks and tests alone.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from _flops import Pass
from peft import LoraConfig
from tokenizers import Tokenizer, models
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import SequentialSampler

PAD, END = 0, 1
"""Token ids that no text of the benchmark has."""

VERSION = trl.__version__
DEFAULT_MICRO_BATCH = 8
"""``per_device_train_batch_size`` of transformers, which TRL keeps."""


@dataclass(frozen=True)
class Setting:
    """How TRL trains: at its best on one device, or with `defaults` as its configurations come."""

    kind: str
    """``dpo``, ``reward`` or ``grpo``."""
    micro_batch: int
    """Examples of one forward pass: pairs, or for ``grpo`` answers."""
    per_step: int
    """Examples of one optimizer step."""
    rate: float
    beta: float = 0.1
    answers: int = 8
    """Answers per prompt (``grpo``)."""
    clip: float = 0.2
    rank: int = 16
    alpha: int = 32
    half: bool = False
    """bf16 autocast."""
    defaults: bool = False
    """Activation checkpointing on, reference computed in every step."""


class Clock(transformers.TrainerCallback):
    """Seconds of rounds of optimizer steps; between rounds it hands over to the other side.

    A step runs from fetching its data to its update, so collating and bookkeeping count, as they do for a user.
    """

    def __init__(self, warm: int, steps: int, between: Callable[[int], None] = lambda steps: None) -> None:
        self.warm, self.steps, self.between = warm, steps, between
        self.seconds: list[float] = []
        self.started = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Without warm-up steps the first round starts here."""
        self.started = now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The end of the warm-up, or of a round."""
        done = state.global_step - self.warm
        if done < 0 or done % self.steps:
            return
        if done:
            self.seconds.append(now() - self.started)
        self.between(self.steps if done else self.warm)
        self.started = now()


class OnIds:
    """What all trainers here share; stands before TRL's class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.losses: list[Tensor] = []
        self.passes: list[tuple[tuple[int, int], Tensor]] = []
        super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset if dataset is None else dataset)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """TRL's, whose loss is kept; it comes divided so that the sum over a step is the step's."""
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss)
        return loss

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """TRL's; the shape of the pass is kept."""
        masks = [inputs[name] for name in ("attention_mask", "prompt_mask", "completion_mask") if name in inputs]
        masks = masks[:1] if "attention_mask" in inputs else masks
        shape = (len(masks[0]), sum(mask.shape[1] for mask in masks))
        self.passes.append((shape, torch.stack([mask.sum() for mask in masks]).sum()))
        return super().compute_loss(model, inputs, *args, **kwargs)


class Preference(OnIds, trl.DPOTrainer):
    """DPO on ids; rows that bring their reference log-probabilities keep them."""

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        given = "ref_chosen_logps" in dataset.column_names
        return dataset if given else super()._precompute_ref_logps(dataset, name, batch_size)


class Reward(OnIds, trl.RewardTrainer):
    """Reward model on ids."""


class Policy(OnIds, trl.GRPOTrainer):
    """GRPO on given answers with their advantages and the log-probabilities they were sampled with."""

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return trl.GRPOTrainer._get_train_sampler(self, dataset)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """What TRL makes of its samples: prompts padded on the left, answers on the right, over the whole step."""
        prompts = inputs[:: self.num_generations]
        answers = [torch.tensor(ids) for row in prompts for ids in row["completions"]]
        asked = [torch.tensor(row["prompt_ids"]) for row in prompts for _ in row["completions"]]
        old = [torch.tensor(logps) for row in prompts for logps in row["old_logps"]]

        def padded(rows: list[Tensor], side: str) -> Tensor:
            return pad_sequence(rows, batch_first=True, padding_value=PAD, padding_side=side)

        def masks(rows: list[Tensor], side: str) -> Tensor:
            return padded([torch.ones_like(row) for row in rows], side)

        found = {
            "prompt_ids": padded(asked, "left"),
            "prompt_mask": masks(asked, "left"),
            "completion_ids": padded(answers, "right"),
            "completion_mask": masks(answers, "right"),
            "advantages": torch.tensor([value for row in prompts for value in row["advantages"]]),
            "num_items_in_batch": torch.tensor(sum(map(len, answers))),
            "old_per_token_logps": padded(old, "right"),
        }
        return {name: tensor.to(self.accelerator.device) for name, tensor in found.items()}


TRAINERS: dict[str, tuple[type, type]] = {
    "dpo": (Preference, trl.DPOConfig),
    "reward": (Reward, trl.RewardConfig),
    "grpo": (Policy, trl.GRPOConfig),
}


def tokenizer(vocabulary: int) -> Any:
    """A tokenizer that TRL asks for its padding token and nothing else."""
    words = {"<pad>": PAD, "<end>": END, **{f"w{i}": i for i in range(2, vocabulary)}}
    raw = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<end>")


def trainer(
    model: Any,
    rows: Sequence[dict[str, Any]],
    setting: Setting,
    steps: int,
    clock: Clock,
    start: Mapping[str, Tensor],
    folder: Path,
) -> Any:
    """TRL's trainer, ready to `train()` for `steps` updates.

    Args:
        model: the base model; TRL puts the adapter on it.
        rows: examples in training order, as ids.
        start: what is trained, by name, as both sides start.
    """
    kind, config = TRAINERS[setting.kind]
    _quiet()
    lora = LoraConfig(
        r=setting.rank,
        lora_alpha=setting.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="SEQ_CLS" if setting.kind == "reward" else "CAUSAL_LM",
    )
    made = kind(
        model=model,
        args=config(**_arguments(setting, steps, model.device.type, folder), **_own_arguments(setting, rows)),
        train_dataset=datasets.Dataset.from_list(list(rows)),
        processing_class=tokenizer(model.config.vocab_size),
        peft_config=lora,
        callbacks=[clock],
        **({"reward_funcs": [_unused]} if setting.kind == "grpo" else {}),
    )
    made.remove_callback(transformers.trainer_callback.PrinterCallback)
    _start_from(made.model, start)
    return made


def step_losses(made: Any, steps: int) -> list[float]:
    """The loss of each optimizer step."""
    per_step = len(made.losses) // steps
    return [torch.stack(made.losses[i : i + per_step]).sum().item() for i in range(0, len(made.losses), per_step)]


def passes(made: Any) -> list[Pass]:
    """Shapes of all forward passes with gradient, in order."""
    return [Pass(rows, width, int(real)) for (rows, width), real in made.passes]


def now() -> float:
    """Seconds, once everything asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _arguments(setting: Setting, steps: int, device: str, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": setting.micro_batch,
        "gradient_accumulation_steps": setting.per_step // setting.micro_batch,
        "max_steps": steps,
        "learning_rate": setting.rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": setting.defaults,
        "bf16": setting.half,
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device != "cpu",
        "remove_unused_columns": setting.kind != "grpo",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _own_arguments(setting: Setting, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if setting.kind == "dpo":
        return {"beta": setting.beta, "max_length": None, "precompute_ref_log_probs": not setting.defaults}
    if setting.kind == "reward":
        return {"max_length": None}
    longest = max(len(ids) for row in rows for ids in row["completions"])
    return {
        "num_generations": setting.answers,
        "max_completion_length": longest,
        "loss_type": "dapo",
        "epsilon": setting.clip,
        "beta": 0.0,
        "shuffle_dataset": False,
    }


def _unused(*args: Any, **kwargs: Any) -> list[float]:
    raise AssertionError("rewards are given")


def _start_from(model: Any, start: Mapping[str, Tensor]) -> None:
    """Copy what the other side trains; every trained parameter must be among it."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if set(trained) != set(start):
        raise AssertionError(f"the sides train different parameters: {sorted(set(trained) ^ set(start))[:4]}")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(start[name])


def _quiet() -> None:
    """Without TRL's and transformers' remarks between the lines of the table."""
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    for name in ("trl", "accelerate", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)
