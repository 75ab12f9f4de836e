"""Single stages over files: what the commands beside `prefloop run` and Python users call, one function each.

What computes is imported inside the functions, once their inputs are read: it takes seconds, a mistake should not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from glob import escape
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from prefloop.config.engine import LOCAL, EngineSection
from prefloop.config.judges import ExecutionConfig, JudgeConfig, PeopleConfig, with_members
from prefloop.config.recipe import PreferenceConfig, Recipe
from prefloop.config.sampling import Sampling
from prefloop.config.tasks import DatabaseTaskConfig, NbaTaskConfig
from prefloop.errors import ConfigError, DataError, JudgeError, StoreError
from prefloop.judging.open import open_judge
from prefloop.loop.judge_stage import ANSWERS, JudgementTally, judged_slices
from prefloop.loop.prefer_stage import paired_files
from prefloop.loop.software import set_threads, versions
from prefloop.loop.tasks import ask, made_from, with_system
from prefloop.preferences.export import write_preference_set as _write_set
from prefloop.preferences.importers import import_preferences
from prefloop.progress import note
from prefloop.records import Completion, Judgement, Message, Prompt, content_id
from prefloop.sql.databases import frozen
from prefloop.sql.databases import identity as identity_of
from prefloop.sql.postgres import is_postgres
from prefloop.store.files import cache_folder, file_hash, held, unused
from prefloop.store.grouped import Grouping, Table
from prefloop.store.journal import FileJournal
from prefloop.store.objects import fetched
from prefloop.store.run_folder import RunFolder
from prefloop.store.tables import read_batches, read_column, records_file, write_records
from prefloop.tasks.database.task import NAME as DATABASE
from prefloop.tasks.nba.task import judge_databases, test_prompts

META = {
    "gold_sql": str,
    "compare_sql": str,
    "comparison": dict,
    "gold_length": int,
    "alternatives": list,
    "tables": list,
    "dialect": str,
}
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
    engine: EngineSection = LOCAL,
    threads: int = 0,
) -> dict[str, Any]:
    """Answers to the prompts of a file, written to `out`; returns counts.

    Args:
        system: message in front of prompts that have none; it is part of the prompt, and of its id.
        endpoint: base URL of an OpenAI-compatible server, where `model` is the model's name.
        key_variable: environment variable with the server's key.
        engine: this process, or Ray's workers; interrupted work of one is taken up by the other.
        threads: of this process or of each worker; 0: torch's choice, or the cluster's cores shared out.

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
        identity = [*decides, endpoint, model]
        write = partial(generate_from_endpoint, client, asked, sampling, seed=seed)
    else:
        from prefloop.generation.generate import generate_completions
        from prefloop.loop.policies import written_by
        from prefloop.models.source import PolicySource

        if threads:
            set_threads(threads)
        policy = written_by(PolicySource(model, adapter, dtype, device), engine, threads)
        identity = [*decides, policy.lineage.id, dtype]
        write = partial(generate_completions, policy, asked, sampling, seed=seed)
    with _stage(out, resume, identity) as journal:
        completions = write(journal=journal)
        if not completions:
            raise DataError(f"{endpoint} gave no answer that could be used: see the reasons above")
        write_records(out, completions, Completion)
        if system:
            write_records(out.with_name(f"{out.stem}-prompts.parquet"), asked, Prompt)
            note(f"the prompts with their system message are in {out.stem}-prompts.parquet")
    known = all(completion.token_ids for completion in completions)
    return {
        "prompts": len(asked),
        "completions": len(completions),
        "distinct": len({(c.prompt_id, c.text.strip()) for c in completions}) / len(completions),
        "finished": sum(c.finish_reason == "stop" for c in completions) / len(completions),
        "mean_length": fmean(len(c.token_ids) if known else len(c.text.split()) for c in completions),
        "unit": "tokens" if known else "words",
    }


def judge_file(
    prompts: Path,
    completions: Path,
    out: Path,
    config: JudgeConfig,
    *,
    databases: Sequence[Path | str] = (),
    resume: bool = False,
    engine: EngineSection = LOCAL,
    threads: int = 0,
) -> dict[str, Any]:
    """Judgements of the completions of a file, written to `out`; returns counts and mean objectives.

    Args:
        databases: SQLite files on which gold and answer must agree, copied first, or PostgreSQL URLs, which stay as
            they are; default the task's two leagues. For the execution judge alone.
        engine: this process, or Ray's workers; interrupted work of one is taken up by the other.
        threads: of this process or of each worker; 0: torch's choice, or the cluster's cores shared out.

    Raises:
        JudgeError: a PostgreSQL database changed meanwhile; no judgement is kept.
    """
    prompts, completions, out = fetched(Path(prompts)), fetched(Path(completions)), Path(out)
    if databases and not isinstance(config, ExecutionConfig):
        raise ConfigError(f"--database has no effect with judge.name={config.name}: only execution runs SQL")
    if databases and all(map(is_postgres, databases)) and "opcodes" in config.model_fields_set:
        raise ConfigError(
            "judge.opcodes has no effect on PostgreSQL: the role's statement_timeout limits a query there"
        )
    if isinstance(config, ExecutionConfig):
        _require_league(each_prompt(prompts), databases, "--database")
    members = with_members(config)
    whole = any(isinstance(member, PeopleConfig) for member in members)  # who say of all prompts whether they are done
    answers = Table(completions, Completion, without=("token_ids", "logprobs"))  # judges read text
    groups = Grouping(prompt_ids(prompts), [answers], None if whole else ANSWERS)
    if unknown := groups.unknown[0]:
        raise DataError(f"{completions} answers prompt {unknown[0]}, which {prompts} does not hold")
    unused(out)
    opened = frozen(databases, cache_folder() / "databases")
    names = [identity_of(database) for database in opened]
    inputs = [file_hash(prompts), file_hash(completions), names]
    if threads:
        set_threads(threads)
    tally, work = JudgementTally(), out.with_name(f".{out.name}.parts")
    with (
        _stage(out, resume, [inputs, config.model_dump(mode="json")]) as journal,
        open_judge(config, opened, engine=engine, threads=threads) as judge,
        records_file(out, Judgement) as write,
    ):
        for some in judged_slices(judge, members, groups, each_prompt(prompts), journal, work):
            tally.add(some)
            write(some)
        name = judge.name
        tally.require_scored(name)
        if names != [identity_of(database) for database in opened]:
            journal.remove()
            raise JudgeError(
                "a database changed while it was judged: judge again when nobody writes to it, or a copy of it"
            )
    return {"judge": name, **tally.summary()}


def prefer_files(
    prompts: Path, completions: Path, judgements: Path, out: Path, config: PreferenceConfig, seed: int = 1
) -> dict[str, Any]:
    """Preferences of judged answers, as records and in TRL's format in folder `out`; returns counts."""
    prompts, completions, judgements = (fetched(Path(path)) for path in (prompts, completions, judgements))
    out = Path(out)
    with held(out.with_name(f".{out.name}.lock"), out):
        unused(out)
        asked = partial(each_prompt, prompts)
        return paired_files(prompt_ids(prompts), asked, completions, judgements, out, config, seed)


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
        if any(p.task == DATABASE for p in test) and not isinstance(recipe.task, DatabaseTaskConfig):
            raise ConfigError(
                f"{prompts} asks a database of its own: --set task.name=database --set task.folder=FOLDER, its task"
            )
        if not test or lacking:
            reason = f"lacks meta.{sorted(lacking)[0]} in some" if lacking else "has no prompt of split 'test'"
            raise DataError(f"{prompts} {reason}: give prompts.parquet of a run")
        _require_league(test, getattr(recipe.task, "database", None), "--database")
    else:
        if not recipe.task.executed:
            raise ConfigError(f"evaluation by execution: task {recipe.task.name} asks for no SQL; use prefloop compare")
        test = _test_prompts(recipe)
    from prefloop.evaluation.compare import evaluate
    from prefloop.loop.policies import policies_of
    from prefloop.loop.run import compared_answers, execution_judge
    from prefloop.models.source import PolicySource

    settings = recipe.policy
    policies = policies_of(
        recipe,
        {
            "before": lambda: PolicySource(before, None, settings.dtype, settings.device),
            "after": lambda: PolicySource(after, adapter, settings.dtype, settings.device),
        },
    )
    identity = {  # both are loaded once: what is wrong with one is said before anything is computed
        **made_from(recipe),
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


def _require_league(prompts: Iterable[Prompt], given: object, option: str) -> None:
    """Refuse to put questions about a real league to the simulated ones, on which they run and mean nothing."""
    named = next((prompt.meta["league"] for prompt in prompts if "league" in prompt.meta), None)
    if named and not given:
        raise ConfigError(f"the questions are about {named}, not about the simulated leagues: give it by {option}")


def _test_prompts(recipe: Recipe) -> list[Prompt]:
    if isinstance(recipe.task, NbaTaskConfig):  # without the training questions, which take their time
        return list(test_prompts(recipe.task, judge_databases(recipe.task.database), 0).prompts)
    return [prompt for prompt in ask(recipe).prompts if prompt.split == "test"]


def read_prompts(path: Path) -> list[Prompt]:
    """All prompts of a file; see `each_prompt`."""
    return list(each_prompt(path))


def each_prompt(path: Path) -> Iterator[Prompt]:
    """Prompts of a records file, or of JSON lines with ``prompt`` (text or messages) in each, one at a time.

    Raises:
        DataError: the file is missing or empty, or a line is malformed; names the line.
    """
    path = fetched(path)
    if path.suffix == ".parquet":
        yield from (prompt for batch in read_batches(path, Prompt) for prompt in batch)
        return
    if not path.is_file():
        raise DataError(f"{path} does not exist: give prompts.parquet or a .jsonl file")
    lines: dict[str, int] = {}
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip():
                prompt = _prompt_line(path, number, line)
                if prompt.id in lines:
                    raise DataError(f"{path}, line {number}: the same prompt as in line {lines[prompt.id]}; remove one")
                lines[prompt.id] = number
                yield prompt
    if not lines:
        raise DataError(f"{path} is empty: put one JSON object with a 'prompt' on each line")


def prompt_ids(path: Path) -> pa.Array:
    """The ids of a file's prompts, in its order; raises as `each_prompt` does."""
    path = fetched(path)
    if path.suffix == ".parquet":
        return read_column(path, Prompt, "id").combine_chunks()
    return pa.array((prompt.id for prompt in each_prompt(path)), pa.string())


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


@contextmanager
def _stage(out: Path, resume: bool, identity: Any) -> Iterator[FileJournal]:
    """The journal of a single stage beside its output, tied to what is being computed; it goes once that is written.

    Raises:
        StoreError: the output exists, another process is writing it, or `resume` meets interrupted work with other
            inputs.
    """
    with held(out.with_name(f".{out.name}.lock"), out):
        unused(out)
        path = out.with_name(f".{out.name}.{content_id(identity)}.journal")
        others = [p for p in out.parent.glob(f".{escape(out.name)}.*.journal") if p != path]
        if others and resume:
            raise StoreError(
                f"the interrupted work for {out} had other inputs or settings: run without --resume to start over"
            )
        if not resume:
            for stale in [*others, path]:
                stale.unlink(missing_ok=True)
        journal = FileJournal(path)
        yield journal
        journal.remove()
