"""Single stages over files: what the commands beside `prefloop run` and Python users call, one function each.

What computes is imported inside the functions, once their inputs are read: it takes seconds, a mistake should not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefloop.config.judges import ExecutionConfig, JudgeConfig
from prefloop.config.recipe import PreferenceConfig, Recipe
from prefloop.config.sampling import Sampling
from prefloop.config.tasks import NbaTaskConfig
from prefloop.errors import ConfigError, DataError, StoreError
from prefloop.judging.groups import altered, require_scored
from prefloop.judging.open import open_judge
from prefloop.loop.software import versions
from prefloop.loop.tasks import with_system
from prefloop.preferences.build import build_preferences, diagnostics
from prefloop.preferences.export import write_preference_set as _write_set
from prefloop.preferences.importers import import_preferences
from prefloop.progress import note
from prefloop.records import Completion, Judgement, Message, Prompt, content_id
from prefloop.sql.snapshot import snapshot
from prefloop.store.files import cache_folder, file_hash, unused
from prefloop.store.journal import FileJournal
from prefloop.store.run_folder import RunFolder
from prefloop.store.tables import read_records, write_records
from prefloop.tasks.nba.task import NAME, ORIGIN, judge_databases, test_prompts

META = {"gold_sql": str, "compare_sql": str, "comparison": dict, "gold_length": int}
"""What the execution judge reads of a prompt's meta, and its types."""


def generate_file(
    prompts: Path,
    out: Path,
    *,
    model: str = "embedded",
    adapter: Path | None = None,
    sampling: Sampling | None = None,
    split: str | None = None,
    system: str | None = None,
    endpoint: str | None = None,
    key_variable: str = "OPENAI_API_KEY",
    dtype: str = "float32",
    device: str = "auto",
    seed: int = 1,
    resume: bool = False,
) -> dict[str, Any]:
    """Answers to the prompts of a file, written to `out`; returns counts.

    Args:
        system: message in front of prompts that have none; it is part of the prompt, and of its id.
        endpoint: base URL of an OpenAI-compatible server, where `model` is the model's name.
        key_variable: environment variable with the server's key.

    Raises:
        DataError: no prompt, or a server that gave no answer at all.
    """
    prompts, out = map(Path, (prompts, out))
    asked = [prompt for prompt in read_prompts(prompts) if split in (None, prompt.split)]
    if not asked:
        raise DataError(f"{prompts} has no prompt" + (f" of split '{split}'" if split else ""))
    unused(out)
    asked = [with_system(prompt, system) for prompt in asked]
    sampling = sampling or Sampling()
    decides = [[p.id for p in asked], sampling.settings, sampling.k, seed]
    if endpoint:
        from prefloop.generation.endpoint import Endpoint, EndpointClient
        from prefloop.generation.remote import generate_from_endpoint

        client = EndpointClient(Endpoint(endpoint, model, key_variable=key_variable))
        journal = _stage_journal(out, resume, [*decides, endpoint, model])
        completions = generate_from_endpoint(client, asked, sampling, seed=seed, journal=journal)
    else:
        from prefloop.generation.generate import generate_completions
        from prefloop.models.load import load_policy

        policy = load_policy(model, adapter, dtype, device)
        journal = _stage_journal(out, resume, [*decides, policy.lineage.id, dtype])
        completions = generate_completions(policy, asked, sampling, seed=seed, journal=journal)
    if not completions:
        raise DataError(f"{endpoint} gave no answer that could be used: see the reasons above")
    write_records(out, completions, Completion)
    if system:
        write_records(out.with_name(f"{out.stem}-prompts.parquet"), asked, Prompt)
        note(f"the prompts with their system message are in {out.stem}-prompts.parquet")
    journal.remove()
    known = all(completion.token_ids for completion in completions)
    return {
        "prompts": len(asked),
        "completions": len(completions),
        "distinct": len({(c.prompt_id, c.text.strip()) for c in completions}) / len(completions),
        "finished": sum(c.finish_reason == "stop" for c in completions) / len(completions),
        "mean_length": _mean([len(c.token_ids) if known else len(c.text.split()) for c in completions]),
        "unit": "tokens" if known else "words",
    }


def judge_file(
    prompts: Path,
    completions: Path,
    out: Path,
    config: JudgeConfig,
    *,
    databases: Sequence[Path] = (),
    resume: bool = False,
) -> dict[str, Any]:
    """Judgements of the completions of a file, written to `out`; returns counts and mean objectives.

    Args:
        databases: SQLite files on which gold and answer must agree, copied first; default the task's two leagues.
            For the execution judge alone.
    """
    prompts, completions, out = map(Path, (prompts, completions, out))
    asked = read_prompts(prompts)
    answers = read_records(completions, Completion)
    unknown = sorted({c.prompt_id for c in answers} - {p.id for p in asked})
    if unknown:
        raise DataError(f"{completions} answers prompt {unknown[0]}, which {prompts} does not hold")
    if databases and not isinstance(config, ExecutionConfig):
        raise ConfigError(f"--database has no effect with judge.name={config.name}: only execution runs SQL")
    unused(out)
    copies = [snapshot(database, cache_folder() / "databases") for database in databases]
    inputs = [[asdict(prompt) for prompt in asked], [[answer.id, answer.text] for answer in answers]]
    journal = _stage_journal(out, resume, [inputs, [copy.stem for copy in copies], config.model_dump(mode="json")])
    with open_judge(config, copies) as judge:
        judgements = judge.judge(asked, answers, journal=journal)
        name = judge.name
    require_scored(judgements)
    write_records(out, judgements, Judgement)
    journal.remove()
    scored = [j for j in judgements if j.value is not None and j.kind == "score"]
    names = sorted({name for j in scored for name in j.objectives})
    return {
        "judge": name,
        "judgements": len(judgements),
        "unscored": sum(j.value is None for j in judgements),
        "altered": altered(judgements),
        "why": dict(Counter(_why(j) for j in judgements if j.value is None).most_common()),
        "mean_score": sum(j.value or 0.0 for j in scored) / len(scored) if scored else None,
        "objectives": {name: _mean([j.objectives[name] for j in scored if name in j.objectives]) for name in names},
        "statuses": dict(Counter(j.raw["status"] for j in judgements if "status" in j.raw).most_common()),
    }


def _why(judgement: Judgement) -> str:
    return str(judgement.raw.get("error") or judgement.raw.get("status") or "no score")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def prefer_files(
    prompts: Path, completions: Path, judgements: Path, out: Path, config: PreferenceConfig, seed: int = 1
) -> dict[str, Any]:
    """Preferences of judged answers, as records and in TRL's format in folder `out`; returns counts."""
    prompts, completions, judgements, out = map(Path, (prompts, completions, judgements, out))
    unused(out)
    asked = read_prompts(prompts)
    answers = read_records(completions, Completion)
    judged = read_records(judgements, Judgement)
    built = build_preferences(asked, answers, judged, config, seed)
    figures = diagnostics(built.preferences, answers, judged)
    card = {
        "name": out.name,
        "policy": ", ".join(sorted({c.policy for c in answers})),
        "judge": ", ".join(sorted({j.judge for j in judged})),
        "strategy": built.strategy,
        "recipe": "none",
        "origin": ORIGIN if {p.task for p in asked} == {NAME} else "The prompts are the user's own.",
        "diagnostics": figures,
        "drops": built.drops,
    }
    _write_set(out, asked, answers, list(built.preferences), card)
    return {"pairs": len(built.preferences), "drops": built.drops, "diagnostics": figures}


def import_file(path: Path, out: Path) -> dict[str, Any]:
    """Somebody else's preference file as a set that `train_folder` reads; every bad row is returned with its reason."""
    path, out = map(Path, (path, out))
    unused(out)
    found = import_preferences(path)
    bad = [asdict(row) for row in found.bad]
    drops = {"rows read": len(found.preferences), "rows not read": len(bad)}
    card = {
        "name": path.stem,
        "policy": "imported",
        "judge": "imported",
        "strategy": "imported",
        "recipe": "none",
        "origin": f"Imported from `{path.name}` (SHA-256 `{file_hash(path)}`); its own licence and terms hold.",
        "diagnostics": {},
        "drops": drops,
    }
    _write_set(out, list(found.prompts), list(found.completions), list(found.preferences), card)
    return {"pairs": len(found.preferences), "drops": drops, "bad": bad}


def evaluate_models(
    recipe: Recipe,
    out: Path,
    *,
    before: str,
    after: str,
    adapter: Path | None = None,
    prompts: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Compare two checkpoints on the same questions; answers, judgements and ``evaluation.json`` go to `out`."""
    if prompts:
        test = [prompt for prompt in read_prompts(prompts) if prompt.split == "test"]
        lacking = {"gold_sql", "template", "seen"} - set.intersection(*(set(p.meta) for p in test)) if test else set()
        if not test or lacking:
            reason = f"lacks meta.{sorted(lacking)[0]} in some" if lacking else "has no prompt of split 'test'"
            raise DataError(f"{prompts} {reason}: give prompts.parquet of a run")
    else:
        if not isinstance(recipe.task, NbaTaskConfig):
            raise ConfigError("evaluation by execution asks nba-sql questions: for other tasks use 'prefloop compare'")
        test = list(test_prompts(recipe.task, judge_databases(), 0).prompts)
    from prefloop.evaluation.compare import evaluate
    from prefloop.loop.policies import Policies
    from prefloop.loop.run import compared_answers, execution_judge
    from prefloop.models.load import load_policy

    settings = recipe.policy
    policies = Policies(
        {
            "before": lambda: load_policy(before, dtype=settings.dtype, device=settings.device),
            "after": lambda: load_policy(after, adapter, settings.dtype, settings.device),
        }
    )
    identity = {  # both are loaded once: what is wrong with one is said before anything is computed
        "recipe": recipe.settings,
        "after": policies["after"].lineage.id,
        "before": policies["before"].lineage.id,
        "prompts": content_id([asdict(prompt) for prompt in test]),
    }
    with (
        RunFolder.open(out, identity, resume) as folder,
        execution_judge(recipe) as judge,
    ):
        answers = compared_answers(recipe, folder, judge, policies, test)
        found = folder.document(
            "evaluation.json",
            lambda: evaluate(
                test,
                answers["before"],
                answers["after"],
                [],
                seed=recipe.seed,
                draws=recipe.evaluation.bootstrap,
                beta=recipe.training.strength,
            ),
        )
        folder.finish({"schema": 1, **identity, "versions": versions()})
        return found


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a records file, or of JSON lines with ``prompt`` (text or messages) in each.

    Raises:
        DataError: the file is missing or empty, or a line is malformed; names the line.
    """
    if path.suffix == ".parquet":
        return read_records(path, Prompt)
    if not path.is_file():
        raise DataError(f"{path} does not exist: give prompts.parquet or a .jsonl file")
    found: dict[str, Prompt] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            prompt = _prompt_line(path, number, line)
            if prompt.id in found:
                raise DataError(f"{path}, line {number}: the same prompt as in line {lines[prompt.id]}; remove one")
            found[prompt.id], lines[prompt.id] = prompt, number
    if not found:
        raise DataError(f"{path} is empty: put one JSON object with a 'prompt' on each line")
    return list(found.values())


def _prompt_line(path: Path, number: int, line: bytes) -> Prompt:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not valid JSON ({error})") from error
    messages = messages_of(row.get("prompt") if isinstance(row, dict) else None, f"{path}, line {number}")
    meta = row.get("meta") or {}
    for key, kinds in META.items():
        if not isinstance(meta, dict) or not isinstance(meta.get(key), kinds | None):
            raise DataError(f"{path}, line {number}: meta.{key} must be {kinds.__name__}, and meta an object")
    return Prompt.create(messages, str(row.get("task", "custom")), str(row.get("split", "train")), meta)


def messages_of(prompt: Any, place: str) -> tuple[Message, ...]:
    """A prompt that is text or a list of messages, as messages.

    Raises:
        DataError: it is neither; names the place.
    """
    if isinstance(prompt, str) and prompt.strip():
        prompt = [{"role": "user", "content": prompt}]
    valid = (
        isinstance(prompt, list)
        and prompt
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in prompt
        )
    )
    if not valid or not _unicode(prompt):
        raise DataError(f"{place}: 'prompt' must be Unicode text or a list of messages with role and content")
    return tuple({"role": m["role"], "content": m["content"]} for m in prompt)


def _unicode(messages: Sequence[Mapping[str, str]]) -> bool:
    """Whether UTF-8 can hold the texts: JSON can spell half a character."""
    try:
        "".join(message["content"] for message in messages).encode()
    except UnicodeEncodeError:
        return False
    return True


def _stage_journal(out: Path, resume: bool, identity: Any) -> FileJournal:
    """The journal of a single stage beside its output, tied to what is being computed.

    Raises:
        StoreError: the output exists, or `resume` meets interrupted work with other inputs.
    """
    unused(out)
    path = out.with_name(f".{out.name}.{content_id(identity)}.journal")
    others = [p for p in out.parent.glob(f".{out.name}.*.journal") if p != path] if out.parent.is_dir() else []
    if others and resume:
        raise StoreError(
            f"the interrupted work for {out} had other inputs or settings: run without --resume to start over"
        )
    if not resume:
        for stale in [*others, path]:
            stale.unlink(missing_ok=True)
    return FileJournal(path)
