"""What a recipe may say. Every field has one meaning, one default and one line of explanation.

A recipe is a YAML file; `load_recipe` reads it, applies overrides, and reports all findings at once.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import Field, ValidationError

from prefloop.config.engine import EngineConfig, EngineSection
from prefloop.config.judges import ExecutionConfig, JudgeConfig, with_members
from prefloop.config.loop import PLACES, GuardsConfig, LoopConfig, SelfRewardingConfig
from prefloop.config.sampling import Sampling
from prefloop.config.section import Section, short_form
from prefloop.config.tasks import DatabaseTaskConfig, NbaTaskConfig, TaskConfig
from prefloop.config.training import Idle, TrainingConfig, Tuning
from prefloop.errors import ConfigError
from prefloop.records import content_id

NAMED = ("judge", "task", "engine")
"""Sections that may be written as a name alone."""
RECIPES = Path(__file__).parent.parent / "recipes"
"""Folder of the recipes shipped with the package."""


class PolicyConfig(Section):
    """The model that is tuned."""

    model: str = Field("embedded", description="'embedded', a from_pretrained folder, or a hub id")
    dtype: Literal["float32", "bfloat16", "float16", "nf4"] = Field(
        "float32", description="number type of weights; nf4: 4 bits, for qlora on small GPUs"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="where the model runs; auto takes cuda, then mps, then cpu"
    )


class GenerationConfig(Section):
    """How candidates are sampled."""

    k: int = Field(8, ge=2, description="sampled answers per prompt")
    temperature: float = Field(1.0, gt=0, description="softmax temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus: smallest set of tokens with this probability")
    top_k: int = Field(0, ge=0, description="only the k most probable tokens; 0: all")
    max_new_tokens: int = Field(256, ge=1, description="longest answer in tokens; longer ones are cut")
    others: tuple[str, ...] = Field((), description="further models that answer the same prompts, k answers each")
    engine: Literal["transformers", "vllm", "endpoint"] = Field(
        "transformers", description="what computes the training answers"
    )
    endpoint: str | None = Field(None, description="base URL of an OpenAI-compatible server that has the policy")
    served_model: str | None = Field(None, description="the policy's name there; none: policy.model")
    key_variable: str = Field("OPENAI_API_KEY", description="environment variable that holds the server's key")

    @property
    def sampling(self) -> Sampling:
        """How K candidates are drawn."""
        return Sampling(self.k, self.temperature, self.top_p, self.top_k, max_new_tokens=self.max_new_tokens)

    @property
    def greedy(self) -> Sampling:
        """One answer, the likeliest token at each step."""
        return Sampling(k=1, greedy=True, max_new_tokens=self.max_new_tokens)


class PreferenceConfig(Section):
    """How judged groups become pairs."""

    strategy: Literal["best-worst", "best-random", "best-worst-of-5", "all-pairs"] = Field(
        "best-worst", description="which answers of a group are paired"
    )
    pairs_per_prompt: int = Field(
        1,
        ge=1,
        description="distinct pairs a prompt may give (each weighted 1/k); all-pairs takes every pair",
    )
    min_margin_quantile: float = Field(
        0.0, ge=0, lt=1, description="drop this share of pairs with the smallest margins"
    )
    max_similarity: float = Field(
        1.0, gt=0, le=1, description="drop pairs whose texts are more similar than this (edit similarity)"
    )
    length_tolerance: float | None = Field(
        None,
        ge=0,
        description="best-worst: of answers scored within this of the best the shortest is chosen, of those within "
        "it of the worst the longest rejected (Meta-Rewarding, 2407.19594)",
    )


class EvaluationConfig(Section):
    """How before and after are compared."""

    sampled_questions: int = Field(200, ge=1, description="test questions that are also sampled at T=1")
    samples: int = Field(4, ge=2, description="samples for each of them (sampled accuracy, pass@k)")
    bootstrap: int = Field(10_000, ge=100, description="bootstrap draws, clustered by template")
    shown: int = Field(10, ge=1, description="unseen questions shown side by side")
    judge: JudgeConfig | None = Field(
        None, description="who compares before and after where no execution can; none: the recipe's judge"
    )


class HubConfig(Section):
    """What of a finished run goes to the Hugging Face Hub."""

    dataset: str | None = Field(None, description="data set 'owner/name' for the preferences; none: not pushed")
    model: str | None = Field(None, description="repository 'owner/name' for the checkpoint; none: not pushed")
    public: bool = Field(False, description="publish; else what is created is private")


class Recipe(Section):
    """A whole run."""

    name: str = Field("nba-sql", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run")
    seed: int = Field(1, ge=0, description="seed of sampling, pairing and training")
    threads: int = Field(0, ge=0, description="CPU threads for torch; 0 keeps torch's own choice")
    task: TaskConfig = NbaTaskConfig()
    policy: PolicyConfig = PolicyConfig()
    engine: EngineConfig = EngineSection()
    generation: GenerationConfig = GenerationConfig()
    judge: JudgeConfig = ExecutionConfig()
    preferences: PreferenceConfig = PreferenceConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    hub: HubConfig = HubConfig()
    loop: LoopConfig | None = None
    guards: GuardsConfig = GuardsConfig()

    @property
    def hash(self) -> str:
        """Content id of everything that decides the result."""
        return content_id("recipe", self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """The same as JSON: all but where the work is done and where a finished run goes."""
        return self.model_dump(mode="json", exclude={"engine", "hub"})


def load_recipe(source: str | Path, overrides: dict[str, Any] | None = None, sections: Sequence[str] = ()) -> Recipe:
    """Read a recipe by file or by the name of a shipped one, with dotted overrides on top.

    Args:
        source: path of a YAML file, or a name such as ``nba-sql``.
        overrides: dotted keys to values, e.g. ``{"training.beta": 0.3}``. Where one of them switches to a mode in
            which options of the file are idle, those options are dropped.
        sections: starts of the keys that may be overridden (``training.``); default all.

    Raises:
        ConfigError: all unknown keys, wrong values and options without effect, each with its reason.
    """
    path = _find(source)
    overrides = overrides or {}
    unread = [key for key in overrides if sections and not key.startswith(tuple(sections))]
    if unread:
        raise ConfigError(f"--set {unread[0]} has no effect here: this command reads {', '.join(sections)}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is empty: a recipe is a mapping such as 'task:' and 'training:'")
    for key in NAMED:
        _choose(content, overrides, key)
    for key, value in overrides.items():
        if not (key in NAMED and isinstance(value, str)):
            _set(content, key, value)
    _drop_idle(content, overrides)
    _drop_idle_inside(content, overrides)
    return parse_recipe(content, str(path))


def parse_recipe(content: dict[str, Any], place: str = "recipe") -> Recipe:
    """Validate a nested dictionary; `place` is named in errors.

    Raises:
        ConfigError: every finding, one line each.
    """
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_message(place, [_explain(finding) for finding in error.errors()])) from error
    findings = _without_effect(recipe)
    if findings:
        raise ConfigError(_message(place, findings))
    return recipe


def as_written(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a recipe as a file that can be read again: without the options that have no effect there."""
    content = deepcopy(settings)
    loop = content.get("loop") or {}
    for option in SelfRewardingConfig.made if loop.get("seed_data") else ():
        loop.pop(option, None)
    for finding in _without_effect(Recipe.model_validate(content)):
        *parents, last = finding.partition(":")[0].split(".")
        here = content
        for name in parents:
            here = here[name]
        here.pop(last, None)
    return content


Kind = TypeVar("Kind", bound=Tuning)


def training_section(kind: type[Kind], overrides: dict[str, Any]) -> Kind:
    """A training section by itself: its defaults with ``training.`` overrides on top.

    Raises:
        ConfigError: every unknown key, wrong value and option without effect.
    """
    unread = [key for key in overrides if not key.startswith("training.")]
    if unread:
        raise ConfigError(f"--set {unread[0]} has no effect here: this command reads training.")
    try:
        section = kind.model_validate({key.removeprefix("training."): value for key, value in overrides.items()})
    except ValidationError as error:
        raise ConfigError(
            _message("--set", [_explain(finding, kind, "training.") for finding in error.errors()])
        ) from error
    idle = [
        f"training.{option}: has no effect with training.{switch}={value}"
        for (switch, value), options in kind.idle.items()
        for option in sorted(section.model_fields_set & set(options))
        if getattr(section, switch) == value
    ]
    if idle:
        raise ConfigError(_message("--set", idle))
    return section


def judge_section(judge: str, overrides: dict[str, Any]) -> JudgeConfig:
    """A judge's section by itself: its name or ``module:function``, its defaults, ``judge.`` overrides on top.

    Raises:
        ConfigError: every unknown key, wrong value and option without effect.
    """
    unread = [key for key in overrides if not key.startswith("judge.")]
    if unread:
        raise ConfigError(f"--set {unread[0]} has no effect here: this command reads judge.")
    content: dict[str, Any] = {"judge": short_form(judge)}
    for key, value in overrides.items():
        _set(content, key, value)
    return parse_recipe(content, "--judge").judge


def engine_section(overrides: dict[str, Any]) -> tuple[EngineSection, int, dict[str, Any]]:
    """Where a single stage is computed: a recipe's ``engine`` and ``threads`` among the overrides, and the others.

    Raises:
        ConfigError: every unknown key, wrong value and option without effect.
    """
    ours = {key: value for key, value in overrides.items() if key in ("engine", "threads") or key.startswith("engine.")}
    content: dict[str, Any] = {}
    for key in sorted(ours):  # the name before what belongs to it
        _set(content, key, ours[key])
    recipe = parse_recipe(content, "--set")
    return recipe.engine, recipe.threads, {key: value for key, value in overrides.items() if key not in ours}


def shipped_recipes() -> list[str]:
    """Names of the recipes inside the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if path.is_file():
            return path
        raise ConfigError(f"recipe {path} does not exist; shipped recipes: {', '.join(shipped_recipes())}")
    shipped = RECIPES / f"{source}.yaml"
    if shipped.is_file():
        return shipped
    raise ConfigError(
        f"no recipe called '{source}'; shipped: {', '.join(shipped_recipes())}; or give the path of a YAML file"
    )


def _choose(content: dict[str, Any], overrides: dict[str, Any], key: str) -> None:
    """Where an override names another judge or task, the file's settings of its own one go."""
    chosen = short_form(overrides.get(key)) or {"name": overrides.get(f"{key}.name")}
    own = short_form(content.get(key))
    if isinstance(own, dict) and isinstance(chosen, dict) and chosen.get("name") not in (None, own.get("name")):
        own = {}
    if own is not None:
        content[key] = own
    if isinstance(overrides.get(key), str):
        content[key] = chosen


def _set(content: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    here = content
    for parent in parents:
        here[parent] = short_form(here.get(parent)) if parent in NAMED else here.get(parent)
        if here[parent] is None:
            here[parent] = {}
        here = here[parent]
        if not isinstance(here, dict):
            raise ConfigError(f"--set {dotted}: '{parent}' is not a section")
    here[leaf] = value


def _explain(finding: Any, model: Any = None, prefix: str = "") -> str:
    names, section = _walk(finding["loc"], model or Recipe)
    place = prefix + ".".join(names)
    if finding["type"] == "extra_forbidden":
        close = difflib.get_close_matches(names[-1], list(getattr(section, "model_fields", ())), n=1)
        return f"{place}: unknown key" + (f"; did you mean '{close[0]}'?" if close else "")
    if finding["type"] == "union_tag_invalid":
        known = finding["ctx"]["expected_tags"].replace("'", "")
        return (
            f"{place}: no {names[-1]} is called '{finding['ctx']['tag']}'; there are {known}; or give module:function"
        )
    message = finding["msg"].removeprefix("Value error, ")
    given = "" if isinstance(finding["input"], dict | list) else f", not {finding['input']!r}"
    return f"{place}: {message[0].lower()}{message[1:]}{given}"


def _walk(location: Sequence[str | int], model: Any) -> tuple[list[str], Any]:
    """The place as it stands in the file (without the names that chose a section), and the section it is in."""
    names: list[str] = []
    section, here = model, model
    for part in location:
        kinds = {kind.model_fields["name"].default: kind for kind in _sections(here)}
        if part in kinds:
            section = here = kinds[part]
            continue
        names.append(str(part))
        field = getattr(here, "model_fields", {}).get(part)
        section, here = (here, field.annotation) if field else (section if isinstance(part, int) else here, here)
    return names, section


def _sections(annotation: Any) -> list[Any]:
    """The sections a field may hold."""
    found = [annotation]
    while any(get_args(item) for item in found):
        found = [inner for item in found for inner in (get_args(item) or [item])]
    return [
        item for item in found if isinstance(item, type) and issubclass(item, Section) and "name" in item.model_fields
    ]


IDLE = {
    **{(f"training.{switch}", value): options for (switch, value), options in TrainingConfig.idle.items()},
    ("preferences.strategy", "all-pairs"): ("pairs_per_prompt", "length_tolerance"),
    ("preferences.strategy", "best-random"): ("length_tolerance",),
    ("preferences.strategy", "best-worst-of-5"): ("length_tolerance",),
    ("generation.engine", "transformers"): ("endpoint", "served_model", "key_variable"),
    ("generation.engine", "vllm"): ("endpoint", "served_model", "key_variable"),
    ("engine.name", "local"): ("workers", "gpus"),
}
"""A switch and its value, and the options of the same section that then have no effect."""


EXECUTED = frozenset(str(kind.model_fields["name"].default) for kind in (NbaTaskConfig, DatabaseTaskConfig))
"""Names of the tasks whose answers are run."""


SAMPLED = {"sampled_questions", "samples"}
"""Options of the evaluation by execution alone."""


UNREAD_BY_LOOPS = {"sampled_questions", "shown"}
"""Options of the evaluation that rounds do not read."""


def _drop_idle(content: dict[str, Any], overrides: dict[str, Any]) -> None:
    """The file's own options that an override made idle; what the override sets itself stays, to be refused.

    An objective on the command line also takes its own beta, unless one is given with it: scales differ.
    """
    chosen = content.get("task")
    if (
        isinstance(chosen, dict)
        and {"task", "task.name"} & set(overrides)
        and isinstance(content.get("evaluation"), dict)
    ):
        idle = {"judge"} if chosen.get("name", "nba-sql") in EXECUTED else SAMPLED
        for option in idle - {key.removeprefix("evaluation.") for key in overrides}:
            content["evaluation"].pop(option, None)
    for (switch, value), options in IDLE.items():
        section = content.get(switch.split(".")[0])
        if overrides.get(switch) == value and isinstance(section, dict):
            for option in (*options, *(["beta"] if switch == "training.objective" else [])):
                if f"{switch.split('.')[0]}.{option}" not in overrides:
                    section.pop(option, None)


def _drop_idle_inside(content: dict[str, Any], overrides: dict[str, Any]) -> None:
    """The same for the sections inside a loop's, and for what seed data of one's own takes the place of."""
    for place, kind in PLACES.items():
        section: Any = content
        for name in place.split("."):
            section = section.get(name) if isinstance(section, dict) else None
        for (switch, value), options in kind.idle.items():
            if isinstance(section, dict) and overrides.get(f"{place}.{switch}") == value:
                for option in options:
                    if f"{place}.{option}" not in overrides:
                        section.pop(option, None)
    if overrides.get("loop.seed_data") is not None and isinstance(content.get("loop"), dict):
        for option in SelfRewardingConfig.made:
            if f"loop.{option}" not in overrides:
                content["loop"].pop(option, None)


def _without_effect(recipe: Recipe) -> list[str]:
    """Options that were set although the rest of the recipe makes them idle."""
    findings = []
    for (switch, value), options in IDLE.items():
        name, key = switch.split(".")
        section = getattr(recipe, name)
        if getattr(section, key) == value:
            idle = sorted(section.model_fields_set & set(options))
            findings += [f"{name}.{option}: has no effect with {switch}={value}" for option in idle]
    findings += [finding for name in ("loop", "guards") for finding in _idle(getattr(recipe, name), name)]
    if recipe.loop is None and "guards" in recipe.model_fields_set:
        findings.append("guards: have no effect without a loop section")
    training = recipe.training
    if training.label_scale is not None and training.label_smoothing:
        findings.append("training.label_smoothing: has no effect beside training.label_scale; choose one")
    if recipe.policy.dtype == "nf4":
        if recipe.training.method != "qlora":
            findings.append(f"training.method: policy.dtype=nf4 trains with qlora, not {recipe.training.method}")
        if recipe.generation.engine == "vllm":
            findings.append("policy.dtype: nf4 is not for generation.engine=vllm")
    for place, named in (("judge", recipe.judge), ("evaluation.judge", recipe.evaluation.judge)):
        findings += [f"{place}.{finding}" for each in with_members(named) for finding in each.without_effect()]
    if recipe.generation.engine == "endpoint" and not recipe.generation.endpoint:
        findings.append("generation.endpoint: name the server's base URL, such as http://localhost:8000/v1")
    if recipe.engine.gpus == 0 and recipe.policy.device == "cuda":
        findings.append("engine.gpus: workers without a GPU cannot hold the policy on policy.device=cuda")
    task, judge = recipe.task, recipe.judge
    idle = sorted(recipe.evaluation.model_fields_set & idle_in_evaluation(task))
    findings += [f"evaluation.{option}: has no effect with task.name={task.name}" for option in idle]
    if recipe.loop is not None:
        idle = sorted(recipe.evaluation.model_fields_set & UNREAD_BY_LOOPS)
        findings += [f"evaluation.{option}: has no effect in a loop, which samples guards.watched" for option in idle]
        asked = getattr(task, "test_questions", getattr(task, "test_prompts", None))
        if asked is not None and "watched" in recipe.guards.model_fields_set and recipe.guards.watched >= asked:
            findings.append(f"guards.watched: leaves none of {asked} test prompts for the reported figures")
    if not task.executed:
        for place, named in (("judge", judge), ("evaluation.judge", recipe.evaluation.judge)):
            if any(isinstance(each, ExecutionConfig) for each in with_members(named)):
                findings.append(f"{place}.name: execution runs SQL, which task.name={task.name} does not ask for")
    elif recipe.loop is None and recipe.evaluation.sampled_questions > (getattr(task, "test_questions", 0) or math.inf):
        findings.append("evaluation.sampled_questions: larger than task.test_questions")
    if isinstance(judge, ExecutionConfig) and not any((judge.correct, judge.valid, judge.reasoning, judge.verbosity)):
        findings.append("judge: every weight is 0, so every answer would score the same")
    return findings


def _idle(section: Any, place: str) -> list[str]:
    """Options without effect in a section and those inside it, by the tables that sections carry."""
    if not isinstance(section, Section):
        return []
    table: Idle = getattr(section, "idle", {})
    found = [
        f"{place}.{option}: has no effect with {place}.{switch}={value}"
        for (switch, value), options in table.items()
        if getattr(section, switch) == value
        for option in sorted(section.model_fields_set & set(options))
    ]
    inner = [_idle(getattr(section, name), f"{place}.{name}") for name in type(section).model_fields]
    return [*found, *(finding for findings in inner for finding in findings)]


def idle_in_evaluation(task: TaskConfig) -> set[str]:
    """Options of the evaluation that a task does not read: SQL is examined by execution, all else by a judge."""
    return {"judge"} if task.executed else SAMPLED


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, where YAML's own loader keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.YAMLError(f"'{twice[0]}' stands twice, line {node.start_mark.line + 1} ff.")
        return super().construct_mapping(node, deep)


def _message(place: str, findings: list[str]) -> str:
    if len(findings) == 1:
        return f"{place}: {findings[0]}"
    return f"{place} has {len(findings)} errors: " + " | ".join(findings)
