"""From a recipe's judge section to a judge. What a judge computes with is imported once it is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefloop.config.judges import (
    ArmoRMConfig,
    CustomConfig,
    EnsembleConfig,
    ExecutionConfig,
    JudgeConfig,
    LLMConfig,
    PairRMConfig,
    PeopleConfig,
    RewardModelConfig,
)
from prefloop.judging.groups import Judge


def open_judge(config: JudgeConfig, databases: Sequence[Path] = (), run: Path | None = None) -> Judge:
    """The judge, not yet entered: use it in a ``with`` statement. What is wrong with its settings shows here.

    Args:
        databases: SQLite files for the execution judge; default the nba-sql task's two leagues.
        run: folder of the run whose answers are judged, where people's judgements are expected.

    Raises:
        ConfigError: settings that do not go together, or a function that cannot be found.
        ModelError: the judge's model is missing or of another kind.
    """
    match config:
        case ExecutionConfig():
            from prefloop.judging.execution import ExecutionJudge
            from prefloop.tasks.nba.task import judge_databases

            return ExecutionJudge(databases or judge_databases(), config)
        case PairRMConfig():
            from prefloop.judging.pairrm import PairRMJudge

            return PairRMJudge(config)
        case ArmoRMConfig():
            from prefloop.judging.armorm import ArmoRMJudge

            return ArmoRMJudge(config)
        case RewardModelConfig():
            from prefloop.judging.reward_model import RewardModelJudge

            return RewardModelJudge(config)
        case LLMConfig():
            from prefloop.judging.llm import LLMJudge

            return LLMJudge(config)
        case PeopleConfig():
            from prefloop.judging.people import PeopleJudge

            return PeopleJudge(config, run)
        case CustomConfig():
            from prefloop.judging.custom import CustomJudge

            return CustomJudge(config)
        case EnsembleConfig():
            from prefloop.judging.ensemble import EnsembleJudge

            return EnsembleJudge(config, lambda member: open_judge(member, databases))
