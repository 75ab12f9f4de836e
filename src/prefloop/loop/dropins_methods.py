"""What the drop-in of the NBA simulator calls to compare three ways to fine-tune (rec_036): one method for each step.

Results are as in `prefloop.loop.dropins`.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from prefloop.config.sampling import Sampling
from prefloop.config.training import SftTrainingConfig, TrainingConfig
from prefloop.errors import PrefloopError
from prefloop.generation.generate import generate_completions
from prefloop.loop.compare import compare_methods
from prefloop.loop.dropins import Step, step
from prefloop.loop.dropins_instructions import nba_recipe, splits
from prefloop.loop.policies import initial_policy, load_checkpoint
from prefloop.loop.run import execution_judge
from prefloop.maths.statistics import SHARE, clustered_mean_interval, paired_bootstrap
from prefloop.models.load import Policy
from prefloop.preferences.instructions import read_instructions
from prefloop.records import Prompt
from prefloop.store.files import write_json, write_jsonl
from prefloop.tasks.nba.answers import render_answer
from prefloop.training.sft import train_instructions

METHODS = ("full", "lora", "qlora")


class MethodComparison:
    """rec_036: the same policy and examples by full fine-tuning, LoRA and QLoRA.

    Offline all three train in this process. With a recipe each has a process of its own, so that peaks of memory can
    be told apart (`prefloop.loop.compare`).
    """

    def __init__(self, folder: Path, recipe: str | None = None) -> None:
        self.folder, self._real = Path(folder), recipe is not None
        self.recipe = nba_recipe(
            recipe, task__train_questions=128, task__test_questions=60, evaluation__sampled_questions=50
        )
        self.not_run: dict[str, str] = {}

    @cached_property
    def _prompts(self) -> tuple[list[Prompt], list[Prompt]]:
        return splits(self.recipe)

    @cached_property
    def _data(self) -> Path:
        """Right answers to the training questions, in Alpaca's format."""
        path = self.folder / "instructions.jsonl"
        asked = [(p.meta["question"], render_answer(p.meta["gold_plan"], p.meta["gold_sql"])) for p in self._prompts[0]]
        write_jsonl(path, [{"instruction": question, "input": "", "output": answer} for question, answer in asked])
        return path

    @cached_property
    def _settings(self) -> dict[str, Any]:
        if self._real:
            return {"training.epochs": 1, "training.tokens_per_batch": self.recipe.training.tokens_per_batch}
        return {
            "training.epochs": 1,
            "training.learning_rate": 3e-4,
            "training.batch_examples": 8,
            "training.dtype": "bfloat16",
        }

    def full(self) -> Step:
        """Step 1: all weights."""
        return self._trained("full")

    def lora(self) -> Step:
        """Step 2: an adapter."""
        return self._trained("lora")

    def qlora(self) -> Step:
        """Step 3: an adapter on 4-bit weights; where they are not installed, the reason stands in the figures."""
        return self._trained("qlora")

    def _trained(self, method: str) -> Step:
        try:
            figures = self._in_its_process(method) if self._real else self._here(method)
        except PrefloopError as error:
            if method != "qlora" or self._real:
                raise
            self.not_run[method] = str(error)
            return step({"method": method, "not_run": str(error)})
        return step(figures, *sorted((self.folder / "methods" / method).glob("training.json")))

    def _in_its_process(self, method: str) -> dict[str, Any]:
        return self._compared((method,), 0)["methods"][0]

    def _compared(self, methods: tuple[str, ...], questions: int) -> dict[str, Any]:
        return compare_methods(
            self._data,
            self.folder / "methods",
            self._settings,
            model=self.recipe.policy.model,
            methods=methods,
            questions=questions,
            seed=self.recipe.seed,
            device=self.recipe.policy.device,
            resume=True,
        )

    @cached_property
    def _start(self) -> Policy:
        return initial_policy(self.recipe)

    def _here(self, method: str) -> dict[str, Any]:
        settings = {key.removeprefix("training."): value for key, value in self._settings.items()}
        config = SftTrainingConfig(method=method, held_out=0.1, **settings)
        out, began = self.folder / "methods" / method, time.monotonic()
        work = self.folder / "work" / method
        result = train_instructions(
            self._start, read_instructions(self._data).examples, config, out, work=work, seed=self.recipe.seed
        )
        return {
            "method": method,
            "examples": result.pairs,
            "steps": result.steps,
            "trainable_parameters": result.trainable,
            "seconds": time.monotonic() - began,
            "megabytes": sum(path.stat().st_size for path in out.glob("*.safetensors")) / 1e6,
            "held_out_loss": result.kept["held_out/loss"],
        }

    def compare(self) -> Step:
        """Step 4: all that were trained answer the same unseen questions, and their SQL is run."""
        if self._real:
            found = self._compared(METHODS, len(self._prompts[1]))
            return step({"questions": len(self._prompts[1]), **found}, self.folder / "methods" / "comparison.json")
        right = self._right(self._start)
        test = self._prompts[1]
        clusters = [prompt.meta["template"] for prompt in test]
        found = {"questions": len(test), "before": _share(right, clusters), "not_run": self.not_run}
        for method in METHODS:
            if method not in self.not_run:
                after = self._right(self._tuned(method))
                gain = paired_bootstrap(right, after, clusters, bounds=SHARE)
                found[method] = {"accuracy": _share(after, clusters), "gain": list(asdict(gain).values())[:3]}
        out = self.folder / "comparison.json"
        write_json(out, found)
        return step(found, out)

    def _tuned(self, method: str) -> Policy:
        training = TrainingConfig(method=method)
        recipe = self.recipe.model_copy(update={"training": training})
        return load_checkpoint(recipe, self.folder / "methods" / method)

    def _right(self, policy: Policy) -> list[float]:
        test = self._prompts[1]
        answers = generate_completions(policy, test, Sampling(1, greedy=True), seed=self.recipe.seed)
        with execution_judge(self.recipe) as judge:
            return [judged.objectives["correct"] for judged in judge.judge(test, answers)]


def _share(values: list[float], clusters: list[str]) -> list[float]:
    """Mean with its 95% interval."""
    found = clustered_mean_interval(values, clusters, bounds=SHARE)
    return [found.estimate, found.low, found.high]
