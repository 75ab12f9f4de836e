"""The judges a recipe can name, and what each reads. ``judge: {name: pairrm}``, or ``judge: module:function``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from prefloop.config.section import Section, kind_of, short_form

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["float32", "bfloat16", "float16"]


class JudgeSection(Section):
    """What the judges' sections share."""

    def without_effect(self) -> list[str]:
        """Options that were set although others make them idle."""
        return []


class ExecutionConfig(JudgeSection):
    """Runs the SQL. Scores are the weighted mean of the objectives; every objective is kept."""

    name: Literal["execution"] = Field("execution", description="execution runs the SQL and compares results")
    correct: float = Field(1.0, ge=0, description="weight: the result equals the gold's on both leagues")
    valid: float = Field(0.2, ge=0, description="weight: the SQL runs (or the refusal is well formed)")
    reasoning: float = Field(0.1, ge=0, description="weight: the plan's claims agree with the SQL")
    verbosity: float = Field(0.1, ge=0, description="weight: the answer does not ramble")
    workers: int = Field(0, ge=0, description="SQL worker processes; 0 means one per core")
    opcodes: int = Field(50_000_000, ge=10_000, description="SQLite opcodes a query may spend; decides time-outs")


class PairRMConfig(JudgeSection):
    """PairRM (2306.02561): compares answers two by two; an answer's score is its mean advantage over the others."""

    name: Literal["pairrm"] = Field("pairrm", description="PairRM compares every two answers of a prompt")
    model: str = Field("llm-blender/PairRM", description="folder or hub id, in either published layout")
    device: Device = Field("auto", description="where it runs")
    dtype: Dtype = Field("float32", description="number type of the encoder; the head is float32")
    tokens_per_batch: int = Field(16_384, ge=1, description="tokens of one forward pass, padding included")


class ArmoRMConfig(JudgeSection):
    """ArmoRM (2406.12845): 19 objectives, weighted by a gate that reads the prompt."""

    name: Literal["armorm"] = Field("armorm", description="ArmoRM scores 19 objectives of each answer")
    model: str = Field("RLHFlow/ArmoRM-Llama3-8B-v0.1", description="folder or hub id")
    device: Device = Field("auto", description="where it runs")
    dtype: Dtype = Field("bfloat16", description="number type of the backbone; the heads are float32")
    tokens_per_batch: int = Field(8_192, ge=1, description="tokens of one forward pass, padding included")


class RewardModelConfig(JudgeSection):
    """Any sequence classifier with one output, or a reward model trained here."""

    name: Literal["reward-model"] = Field("reward-model", description="a sequence classifier scores each answer")
    model: str = Field("Skywork/Skywork-Reward-V2-Qwen3-0.6B", description="folder, hub id, or 'embedded'")
    adapter: Path | None = Field(None, description="adapter with the head, as 'prefloop train reward' writes it")
    device: Device = Field("auto", description="where it runs")
    dtype: Dtype = Field("float32", description="number type of the layers; the head is float32")
    tokens_per_batch: int = Field(8_192, ge=1, description="tokens of one forward pass, padding included")
    max_tokens: int = Field(16_384, ge=1, description="longest conversation; longer ones stay unscored, never cut")
    system: bool = Field(True, description="show the prompt's system message (Skywork was trained without)")


class LLMConfig(JudgeSection):
    """A language model as the judge, local or behind an OpenAI-compatible endpoint."""

    name: Literal["llm"] = Field("llm", description="a language model judges")
    mode: Literal["pairwise", "rubric", "reasoning", "objectives"] = Field(
        "rubric",
        description="pairwise: every two answers in both orders; rubric: an additive 0-5 score; reasoning: the same "
        "for its steps alone; objectives: four ratings of 1-5",
    )
    model: str = Field("embedded", description="folder or hub id, or the endpoint's name of the model")
    endpoint: str | None = Field(None, description="base URL of an OpenAI-compatible server; none: a local model")
    key_variable: str = Field("OPENAI_API_KEY", description="environment variable that holds the endpoint's key")
    prompt: Path | None = Field(None, description="text file in place of the mode's own prompt")
    samples: int = Field(1, ge=1, description="verdicts per question, averaged")
    temperature: float = Field(0.0, ge=0, description="of the judge; above 0 where samples are averaged")
    max_new_tokens: int = Field(512, ge=1, description="longest verdict in tokens")
    concurrency: int = Field(16, ge=1, description="requests under way at once (endpoint)")
    requests_per_minute: int | None = Field(None, ge=1, description="most requests started per minute (endpoint)")
    timeout: float = Field(120.0, gt=0, description="seconds a request may take (endpoint)")
    retries: int = Field(6, ge=0, description="times a failed request is tried again, with back-off (endpoint)")
    cache: bool = Field(True, description="keep the endpoint's replies for later runs, under $PREFLOOP_CACHE")
    price_in: float = Field(0.0, ge=0, description="price of a million tokens read, for the count of costs")
    price_out: float = Field(0.0, ge=0, description="price of a million tokens written")
    device: Device = Field("auto", description="where a local model runs")
    dtype: Dtype = Field("float32", description="number type of a local model")

    def without_effect(self) -> list[str]:
        """Options of an endpoint with a local model, and of a local model with an endpoint."""
        local, remote = (
            {"device", "dtype"},
            {"key_variable", "concurrency", "requests_per_minute", "timeout", "retries", "cache"},
        )
        idle = local if self.endpoint else remote | {"price_in", "price_out"}
        why = "with judge.endpoint" if self.endpoint else "without judge.endpoint"
        return [f"{option}: has no effect {why}" for option in sorted(self.model_fields_set & idle)]


class PeopleConfig(JudgeSection):
    """People compare or rank the answers, in the annotation app."""

    name: Literal["people"] = Field("people", description="people judge, by 'prefloop annotate'")
    path: Path | None = Field(
        None, description="what the app exported: judgements.parquet, or its folder; none: the run's own, RUN/people"
    )
    minimum: float | None = Field(
        None, gt=0, le=1, description="share of the prompts that must be judged; none: every item must be closed"
    )


class CustomConfig(JudgeSection):
    """Your own judge."""

    name: Literal["custom"] = Field("custom", description="a function of your own")
    function: str = Field(
        min_length=1, description="'module:function', or the name of an entry point in the group prefloop.judges"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments it is called with")


class EnsembleConfig(JudgeSection):
    """Several judges on the same answers; each counts by rank within the prompt, times its weight."""

    name: Literal["ensemble"] = Field("ensemble", description="several judges, weighted")
    members: tuple[JudgeConfig, ...] = Field(min_length=2, description="the judges")
    weights: tuple[float, ...] = Field((), description="one per member; none: all count the same")

    def without_effect(self) -> list[str]:
        """Members that give no scores."""
        if not any(isinstance(member, PeopleConfig) for member in self.members):
            return []
        return ["members: people compare answers, and an ensemble takes scores: let them be the only judge"]


JudgeConfig = Annotated[
    Annotated[ExecutionConfig, Tag("execution")]
    | Annotated[PairRMConfig, Tag("pairrm")]
    | Annotated[ArmoRMConfig, Tag("armorm")]
    | Annotated[RewardModelConfig, Tag("reward-model")]
    | Annotated[LLMConfig, Tag("llm")]
    | Annotated[PeopleConfig, Tag("people")]
    | Annotated[CustomConfig, Tag("custom")]
    | Annotated[EnsembleConfig, Tag("ensemble")],
    Discriminator(kind_of("execution")),
    BeforeValidator(short_form),
]
"""Any judge's section; without a name, execution's."""
EnsembleConfig.model_rebuild()


def with_members(judge: JudgeConfig | None) -> list[JudgeConfig]:
    """The judge, and those of an ensemble."""
    if judge is None:
        return []
    return [judge, *(inner for member in getattr(judge, "members", ()) for inner in with_members(member))]
