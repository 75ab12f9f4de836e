"""What the drop-in of the NBA simulator calls for tuning with people's preferences (rec_176): one method for each step.

All four steps report one loop (`prefloop.loop.rounds`): the first runs it, or goes on with it. Offline it is the recipe
rlhf-nba cut down, with simulated raters; their verdicts are called simulated in every file. Results are as in
`prefloop.loop.dropins`.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.config.recipe import Recipe, load_recipe
from prefloop.loop.dropins import Step, step
from prefloop.store.files import read_json

if TYPE_CHECKING:
    from prefloop.loop.rlhf import Collect

RECIPE = "rlhf-nba"
OFFLINE_LOOP = {
    "task.train_questions": 48,
    "task.test_questions": 80,
    "judge.workers": 2,
    "evaluation.bootstrap": 2000,
    "guards.watched": 20,
    "loop.rounds": 2,
    "loop.held_out_prompts": 0.3,
    "loop.rl.iterations": 3,
    "loop.rl.prompts": 16,
    "loop.rl.k": 4,
    "loop.rl.look_every": 3,
}
"""Two short rounds on two CPU cores; 60 questions are reported, 20 more are watched by the guards."""


class FeedbackLoop:
    """rec_176 in `folder`: the loop of a recipe (a shipped name or a path), or the offline default.

    Args:
        collect: has simulated raters rank a round's answers; the annotation app's, which the caller gives.
    """

    def __init__(self, folder: Path, recipe: str | None, collect: Collect) -> None:
        self.folder, self._collect = Path(folder) / "loop", collect
        self.recipe: Recipe = load_recipe(recipe) if recipe else load_recipe(RECIPE, OFFLINE_LOOP)

    @cached_property
    def _rounds(self) -> list[dict[str, Any]]:
        """What the loop found, round 0 (the start) first."""
        from prefloop.loop.rounds import run_loop

        return list(run_loop(self.recipe, self.folder, collect=self._collect, resume=True)["rounds"])

    def _files(self, name: str) -> list[Path]:
        """The file of this name in every round's folder that has one."""
        paths = [self.folder / "rounds" / str(row["round"]) / name for row in self._rounds[1:]]
        return [path for path in paths if path.is_file()]

    def collect_preferences(self) -> Step:
        """Step 1: raters rank the answers of every round."""
        rows = [{"round": row["round"], "data": row["data"], "raters": row["judge"]} for row in self._rounds[1:]]
        return step({"rounds": rows}, *self._files("judgements.parquet"))

    def train_reward_model(self) -> Step:
        """Step 2: the reward model of every round, examined on prompts and raters that it never saw."""
        rows = [{"round": row["round"], "reward_model": row["reward_model"]} for row in self._rounds[1:]]
        return step({"rounds": rows}, *self._files("reward-model.json"))

    def fine_tune(self) -> Step:
        """Step 3: the policy is tuned against the reward model; proxy reward and true accuracy on the way."""
        rows = [{"round": r["round"], "training": r["training"], "curve": r.get("curve", [])} for r in self._rounds[1:]]
        return step({"rounds": rows}, *self._files("checkpoint/training.json"))

    def reiterate(self) -> Step:
        """Step 4: accuracy by execution after every round, beside the start; what the guards said of each."""
        keys = ("round", "accuracy", "gain_start", "gain_previous", "promoted", "guards")
        found = read_json(self.folder / "rounds.json") if self._rounds else {}
        rows = [{key: row.get(key) for key in keys} for row in self._rounds]  # the start has no gains
        return step({"rounds": rows, "best": found["best"], "stopped": found["stopped"]}, self.folder / "rounds.json")
