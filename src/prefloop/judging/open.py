"""From a recipe's judge section to a judge. What a judge computes with is imported once it is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from prefloop.config.engine import LOCAL, EngineSection
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
from prefloop.judging.groups import ChunkedJudge, Databases, Judge


def open_judge(
    config: JudgeConfig,
    databases: Databases = (),
    run: Path | None = None,
    engine: EngineSection = LOCAL,
    threads: int = 0,
) -> Judge:
    """The judge, not yet entered: use it in a ``with`` statement. What is wrong with its settings shows here.

    Args:
        databases: SQLite files or PostgreSQL URLs for the execution judge, or sets of them by name; default the
            nba-sql task's two leagues.
        run: folder of the run whose answers are judged, where people's judgements are expected.
        engine: what the judge's model, function or SQL runs by. People and endpoints are asked from this process.
        threads: of each of the engine's workers; 0: its cores shared out.

    Raises:
        ConfigError: settings that do not go together, or a function that cannot be found.
        ModelError: the judge's model is missing or of another kind.
    """
    spread = engine.name == "ray"
    match config:
        case ExecutionConfig() | PairRMConfig() | ArmoRMConfig() | RewardModelConfig() | CustomConfig() if spread:
            from prefloop.judging.ray import RayJudge

            judge = cast(ChunkedJudge, open_judge(config, databases))
            own = databases if isinstance(config, ExecutionConfig) and not _simulated(databases) else ()
            return RayJudge(judge, config, engine, threads, own)
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

            if not spread:
                return LLMJudge(config)
            from prefloop.generation.ray_policies import RayPolicy
            from prefloop.models.source import PolicySource

            source = PolicySource(config.model, dtype=config.dtype, device=config.device)
            return LLMJudge(config, load=lambda: RayPolicy(source, engine, threads))
        case PeopleConfig():
            from prefloop.judging.people import PeopleJudge

            return PeopleJudge(config, run)
        case CustomConfig():
            from prefloop.judging.custom import CustomJudge

            return CustomJudge(config)
        case EnsembleConfig():
            from prefloop.judging.ensemble import EnsembleJudge

            return EnsembleJudge(config, lambda member: open_judge(member, databases, run, engine, threads))


def _simulated(databases: Databases) -> bool:
    """Whether these are the leagues that every machine builds for itself."""
    from prefloop.tasks.nba.task import judge_databases

    return bool(databases) and databases == judge_databases()
