"""`prefloop compare`: any two of checkpoints, runs and files of answers, on the same prompts, before a judge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prefloop.config.judges import ExecutionConfig, JudgeConfig
from prefloop.config.sampling import Sampling
from prefloop.errors import ConfigError, DataError
from prefloop.judging.open import open_judge
from prefloop.loop.prompt_files import messages_of, read_prompts
from prefloop.progress import note
from prefloop.records import Completion, Prompt, canonical_json, content_id
from prefloop.store.files import file_hash, read_json
from prefloop.store.journal import Journal
from prefloop.store.run_folder import RunFolder
from prefloop.store.tables import read_records

ANSWER_KEYS = ("answer", "output", "completion", "response")
"""What a line of a file of answers may call the answer."""
ANSWERED = "evaluation/after-greedy-completions.parquet"


@dataclass(frozen=True)
class Side:
    """One of the two that are compared."""

    name: str
    identity: str
    """Hash of what decides its answers."""
    path: Path | None
    """File of answers; None: a model writes them."""
    model: str = ""
    adapter: Path | None = None


@dataclass(frozen=True)
class Writing:
    """How a model that is a side writes its answers."""

    max_new_tokens: int = 512
    dtype: str = "float32"
    device: str = "auto"


def compare_sides(
    a: str,
    b: str,
    out: Path,
    judge: JudgeConfig,
    *,
    prompts: Path | None = None,
    writing: Writing | None = None,
    draws: int = 10_000,
    seed: int = 1,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Compare the answers of `b` with those of `a`; figures, verdicts and a page to read go to folder `out`.

    Args:
        a, b: a run folder (its tuned policy's answers), a model folder or hub id, an adapter folder, or a file of
            answers (.parquet of completions, or .jsonl with ``prompt`` and ``answer`` in each line).
        prompts: what is asked; not needed where a side is a run or a .jsonl file, which know their prompts.
        overwrite: remove an earlier comparison in `out` first.

    Raises:
        ConfigError: no prompts, or a side that is nothing known.
        DataError: the sides answered no prompt in common.
    """
    sides = _side(a), _side(b)
    asked = _asked(prompts, sides)
    settings = writing or Writing()
    identity = {
        "compare": [side.identity for side in sides],
        "recipe": {"judge": judge.model_dump(mode="json"), "writing": asdict(settings), "seed": seed, "draws": draws},
        "prompts": content_id([asdict(prompt) for prompt in asked]),
    }
    _check_judge(judge, asked)
    from prefloop.evaluation.judged import judged_figures
    from prefloop.loop.judged import compared, write_reading_page

    with RunFolder.open(out, identity, resume, overwrite) as folder:
        answers = [
            _answers(folder, side, letter, asked, settings, seed) for letter, side in zip("ab", sides, strict=True)
        ]
        common = {p.id for p in asked} & {c.prompt_id for c in answers[0]} & {c.prompt_id for c in answers[1]}
        if not common:
            raise DataError(
                f"{a} and {b} answered no prompt in common, of those asked: give answers to the same prompts"
            )
        if len(common) < len(asked):
            note(f"{len(common):,} of {len(asked):,} prompts were answered by both sides; the others are left out")
        kept = [prompt for prompt in asked if prompt.id in common]
        chosen = tuple([c for c in side if c.prompt_id in common] for side in answers)
        found, judgements = compared(folder, kept, (chosen[0], chosen[1]), judge)
        figures: dict[str, Any] = folder.document(
            "evaluation.json", lambda: judged_figures(found, judgements, seed=seed, draws=draws, one_tokenizer=False)
        )
        write_reading_page(folder.path("report.html"), found, figures, (sides[0].name, sides[1].name), f"{a} and {b}")
        folder.finish({"schema": 1, **identity})
        return figures


def _check_judge(judge: JudgeConfig, prompts: Sequence[Prompt]) -> None:
    """Find a mistake before a folder is made or an answer written."""
    open_judge(judge)
    if isinstance(judge, ExecutionConfig) and any("gold_sql" not in prompt.meta for prompt in prompts):
        raise DataError("some prompts have no meta.gold_sql, with whose result --judge execution compares")


def _side(source: str) -> Side:
    path = Path(source).expanduser()
    if path.is_file():
        return Side(path.stem, file_hash(path), path)
    if (path / ANSWERED).is_file():
        return Side(path.name, file_hash(path / ANSWERED), path / ANSWERED)
    if (path / "adapter_config.json").is_file():
        base = read_json(path / "adapter_config.json").get("base_model_name_or_path")
        if not base:
            raise ConfigError(f"{path} does not name its base: export it first (prefloop export)")
        return Side(path.name, _weights(str(base), path), None, str(base), path)
    return Side(source.rstrip("/").split("/")[-1], _weights(source, None), None, source)


def _weights(model: str, adapter: Path | None) -> str:
    from prefloop.models.lineage import hash_folder
    from prefloop.models.load import base_lineage

    return content_id(base_lineage(model).id, hash_folder(adapter) if adapter else None)


def _asked(prompts: Path | None, sides: Sequence[Side]) -> list[Prompt]:
    """The prompts given, or those that a side knows."""
    if prompts is not None:
        found = read_prompts(Path(prompts))
        return [prompt for prompt in found if prompt.split == "test"] or found
    for side in sides:
        if side.path is not None and side.path.name == Path(ANSWERED).name:
            asked = read_records(side.path.parent.parent / "prompts.parquet", Prompt)
            return [prompt for prompt in asked if prompt.split == "test"]
        if side.path is not None and side.path.suffix == ".jsonl":
            return [prompt for prompt, _ in _lines(side.path)]
    raise ConfigError(
        "what was asked is not known: give --prompts (prompts.parquet, or .jsonl with a 'prompt' per line)"
    )


def _answers(
    folder: RunFolder, side: Side, letter: str, prompts: Sequence[Prompt], writing: Writing, seed: int
) -> list[Completion]:
    def compute(journal: Journal) -> list[Completion]:
        if side.path is None:
            return _written(side, prompts, writing, seed, journal)
        if side.path.suffix == ".jsonl":
            known = {
                canonical_json(list(prompt.messages)): prompt.id for prompt in prompts
            }  # whatever task they are of
            found = [(canonical_json(list(prompt.messages)), completion) for prompt, completion in _lines(side.path)]
            return [replace(completion, prompt_id=known[said]) for said, completion in found if said in known]
        return _first_of_each(read_records(side.path, Completion))

    return folder.records(f"{letter}-completions.parquet", Completion, compute)


def _written(side: Side, prompts: Sequence[Prompt], writing: Writing, seed: int, journal: Journal) -> list[Completion]:
    from prefloop.generation.generate import generate_completions
    from prefloop.models.lineage import LINEAGE_FILE
    from prefloop.models.load import load_policy

    recorded = side.adapter / LINEAGE_FILE if side.adapter else None
    if recorded and recorded.is_file() and read_json(recorded).get("method") == "qlora" and writing.dtype != "nf4":
        note(f"{side.name} learned on 4-bit weights: --dtype nf4 shows it as it was trained")
    policy = load_policy(side.model, side.adapter, writing.dtype, writing.device)
    greedy = Sampling(k=1, greedy=True, max_new_tokens=writing.max_new_tokens)
    return generate_completions(policy, prompts, greedy, seed=seed, journal=journal, label=f"generate {side.name}")


def _first_of_each(completions: Sequence[Completion]) -> list[Completion]:
    """The greedy answer of each prompt, or else its first sample."""
    found: dict[str, Completion] = {}
    for completion in sorted(completions, key=lambda c: (c.round, c.index)):
        found.setdefault(completion.prompt_id, completion)
    return list(found.values())


def _lines(path: Path) -> list[tuple[Prompt, Completion]]:
    """Prompts and answers of a file of lines; ``instruction`` and ``output`` are understood, too.

    Raises:
        DataError: a line is malformed; names it.
    """
    found: dict[str, tuple[Prompt, Completion]] = {}
    policy = content_id("answers", file_hash(path))
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error})") from error
        asked = row.get("prompt", row.get("instruction")) if isinstance(row, dict) else None
        text = next((row[key] for key in ANSWER_KEYS if isinstance(row.get(key), str)), None) if asked else None
        if text is None:
            raise DataError(f"{path}, line {number}: give 'prompt' (text or messages) and 'answer' (text)")
        messages = messages_of(asked, f"{path}, line {number}")
        if text != text.encode(errors="replace").decode():
            raise DataError(f"{path}, line {number}: the answer is no Unicode text: it holds half a character")
        prompt = Prompt.create(messages, "custom", "test", {"category": str(row.get("category") or "")})
        if prompt.id in found:
            raise DataError(f"{path}, line {number}: this prompt was answered before in the file; remove one")
        identity = content_id("answer", policy, prompt.id)
        found[prompt.id] = prompt, Completion(identity, prompt.id, -1, 0, text, (), (), "stop", policy, {}, 0)
    if not found:
        raise DataError(f"{path} is empty: put one JSON object with 'prompt' and 'answer' on each line")
    return list(found.values())
