"""prefloop closes the preference loop for language models.

Everything the command line does is one function here: `run`, and by stage `generate`, `judge`, `prefer`, `mix`,
`decontaminate`, `train`, `evaluate`, `compare`, `report`, `push_dataset`, `pull`, with the settings they take. They are
imported when first used: ``import prefloop`` loads no torch.

>>> import prefloop
>>> recipe = prefloop.load_recipe("nba-sql", {"training.beta": 0.2})
>>> evaluation = prefloop.run(recipe, Path("runs/beta-02"))  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_API = {
    "load_recipe": ("prefloop.config.recipe", "load_recipe"),
    "run": ("prefloop.loop.main", "run_recipe"),
    "generate": ("prefloop.loop.generate_stage", "generate_file"),
    "judge": ("prefloop.loop.judge_stage", "judge_file"),
    "prefer": ("prefloop.loop.prefer_stage", "prefer_files"),
    "mix": ("prefloop.loop.mixing", "mix_sources"),
    "decontaminate": ("prefloop.loop.cleaning", "decontaminate"),
    "import_preferences": ("prefloop.loop.import_stage", "import_file"),
    "train": ("prefloop.loop.training", "preference_folder"),
    "train_reward": ("prefloop.loop.training", "reward_folder"),
    "train_sft": ("prefloop.loop.training", "instruction_file"),
    "compare_methods": ("prefloop.loop.compare", "compare_methods"),
    "sweep": ("prefloop.loop.sweep", "sweep"),
    "export": ("prefloop.models.export", "export_model"),
    "evaluate": ("prefloop.loop.evaluate_stage", "evaluate_models"),
    "compare": ("prefloop.loop.versus", "compare_sides"),
    "answers_frame": ("prefloop.loop.show", "answers_frame"),
    "summary": ("prefloop.loop.judged", "summary"),
    "plan": ("prefloop.loop.plan", "plan"),
    "push_dataset": ("prefloop.loop.publish", "push_dataset"),
    "push_model": ("prefloop.loop.publish", "push_model"),
    "pull": ("prefloop.loop.publish", "pull"),
    "report": ("prefloop.loop.reporting", "report_run"),
    "ArmoRMConfig": ("prefloop.config.judges", "ArmoRMConfig"),
    "CustomConfig": ("prefloop.config.judges", "CustomConfig"),
    "EnsembleConfig": ("prefloop.config.judges", "EnsembleConfig"),
    "ExecutionConfig": ("prefloop.config.judges", "ExecutionConfig"),
    "LLMConfig": ("prefloop.config.judges", "LLMConfig"),
    "PairRMConfig": ("prefloop.config.judges", "PairRMConfig"),
    "RewardModelConfig": ("prefloop.config.judges", "RewardModelConfig"),
    "PreferenceConfig": ("prefloop.config.recipe", "PreferenceConfig"),
    "RewardTrainingConfig": ("prefloop.config.training", "RewardTrainingConfig"),
    "Recipe": ("prefloop.config.recipe", "Recipe"),
    "Sampling": ("prefloop.config.sampling", "Sampling"),
    "SftTrainingConfig": ("prefloop.config.training", "SftTrainingConfig"),
    "Start": ("prefloop.loop.training", "Start"),
    "TrainingConfig": ("prefloop.config.training", "TrainingConfig"),
}

__all__ = sorted(_API)


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module 'prefloop' has no attribute '{name}'")
    module, attribute = _API[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
