"""The tasks a recipe can name: what is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from prefloop.config.section import Section, kind_of, short_form


class NbaTaskConfig(Section):
    """Questions of an NBA league, to be answered by SQL."""

    executed: ClassVar[bool] = True
    """Answers are SQL, so before and after are compared by execution."""

    name: Literal["nba-sql"] = Field("nba-sql", description="nba-sql asks questions of an NBA league")
    schema_in_prompt: Literal["none", "names", "ddl"] = Field(
        "none",
        description="what the prompt says of the schema: none (the policy knows it), table and column names,"
        " or full DDL (general models)",
    )
    database: str | None = Field(
        None,
        min_length=1,
        description="SQLite file of real games in the league's schema ('prefloop league import'); none: the simulated"
        " league",
    )
    train_questions: int = Field(640, ge=1, description="questions whose answers are judged for training")
    test_questions: int = Field(800, ge=1, description="unseen questions for the evaluation")


class DatabaseTaskConfig(Section):
    """Questions of the user's own database, to be answered by SQL."""

    executed: ClassVar[bool] = True

    name: Literal["database"] = Field("database", description="database asks the questions of a task folder")
    folder: Path = Field(description="task folder, made by prefloop task from-database or prefloop task import")
    schema_in_prompt: Literal["none", "names", "ddl"] = Field(
        "ddl",
        description="what the prompt says of the schema: none (the policy knows it), table and column names,"
        " or full DDL (general models)",
    )
    train_questions: int | None = Field(
        None, ge=1, description="questions whose answers are judged for training; none: all the folder has"
    )
    test_questions: int | None = Field(None, ge=1, description="unseen questions for the evaluation; none: all")


class InstructionsConfig(Section):
    """Instructions of a known set, or of a file."""

    executed: ClassVar[bool] = False

    name: Literal["instructions"] = Field("instructions", description="instructions that people wrote")
    source: str = Field(
        "lima",
        description="lima, ultrafeedback, snorkel, a .jsonl, .json or .parquet file, or a Hub data set owner/name:file",
    )
    train_prompts: int = Field(50, ge=1, description="instructions whose answers are judged for training")
    test_prompts: int = Field(10, ge=1, description="unseen instructions for the evaluation")
    turns: Literal["first", "all"] = Field(
        "first", description="of a conversation: its first turn, or all up to the last question"
    )
    system: str | None = Field(None, description="system message in front of every prompt that has none")


class CustomTaskConfig(Section):
    """Your own task."""

    executed: ClassVar[bool] = False

    name: Literal["custom"] = Field("custom", description="a function of your own")
    function: str = Field(
        min_length=1, description="'module:function', or the name of an entry point in the group prefloop.tasks"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments it is called with")


TaskConfig = Annotated[
    Annotated[NbaTaskConfig, Tag("nba-sql")]
    | Annotated[DatabaseTaskConfig, Tag("database")]
    | Annotated[InstructionsConfig, Tag("instructions")]
    | Annotated[CustomTaskConfig, Tag("custom")],
    Discriminator(kind_of("nba-sql")),
    BeforeValidator(short_form),
]
"""Any task's section; without a name, nba-sql's."""
