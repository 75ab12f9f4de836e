"""What a project is made of: answers of a run, of files, of a data set of the Hub, or of another tool's export.

Answers to one prompt that are the same text, but for white space around it, are merged into the first of them; the ids
and models of the others are kept in its ``sampling["duplicates"]``, and so with the answer's details. A prompt with
fewer than two different answers gives nothing to compare and is counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from prefloop.annotation.items import NewItem
from prefloop.annotation.selection import Group, select_items
from prefloop.annotation.selection_design import read_features
from prefloop.annotation.sources_files import FILES, Gathered, numbered_rows, read_file
from prefloop.annotation.sources_tools import exported_by, read_argilla, read_label_studio
from prefloop.config.annotation import AnnotationConfig
from prefloop.errors import ConfigError, DataError
from prefloop.preferences.people import PEOPLE
from prefloop.records import CORRECTED, LEFT_OUT, Completion, Judgement, Preference, Prompt, content_id
from prefloop.store.rows import BadRow
from prefloop.store.tables import read_records

SPLITS = ("train", "test")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?::.+)?")
TRAIN = ("judgements.parquet", "stages/execution-judgements.parquet")
"""Judgements of a run's training answers."""
SIDES = (("a", "before"), ("b", "after"))
"""The policies that a run's test prompts were answered by, and the letter that `prefloop.loop.judged` puts first."""


@dataclass(frozen=True)
class Sourced:
    """Items in the order of the queue, and all that did not become one."""

    items: list[NewItem]
    bad: list[BadRow]
    """Rows that could not be read."""
    described: str
    """One line: what was read, and what of it was left out."""
    labels: list[Judgement] = field(default_factory=list)
    """What people have said already: ``choice`` and ``ranking`` judgements of ``people/<rater>``. Both bad is a ½ with
    ``raw["choice"] == "both bad"``."""
    left_out: dict[str, int] = field(default_factory=dict)
    candidates: int = 0
    """Pairs, or rankings, that the answers allow; the items were chosen from these."""


def read_items(
    source: str | Path,
    config: AnnotationConfig,
    *,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    features: Path | None = None,
) -> Sourced:
    """Items of a project.

    Args:
        source: a run folder; a folder that `prefloop prefer` wrote; a ``.csv``, ``.jsonl``, ``.json`` or ``.parquet``
            file, also one exported by Argilla or Label Studio; or a data set of the Hub, ``owner/name[:file]``.
        split: of a run: ``train``, the answers that were candidates of training; or ``test``, the answers before and
            after it.
        columns: the file's names of what `prefloop.annotation.sources_files.COLUMNS` lists.
        features: for the strategy d-optimal (`prefloop.annotation.selection_design.read_features`).

    Raises:
        ConfigError: an option that cannot mean anything here.
        DataError: it cannot be read, or there is nothing to compare; the first reasons are named.
    """
    found = _gather(str(source), split, dict(columns or {}))
    groups, same = distinct(found)
    if not groups:
        reasons = [f"line {row.line}: {row.reason}" for row in found.bad[:3]]
        reasons += [f"{count:,} {what}" for what, count in found.left_out.items()]
        raise DataError(f"{source} gives nothing to compare: {'; '.join(reasons) or 'it is empty'}")
    vectors = read_features(features) if features else None
    chosen = select_items(groups, _of_kept(found.judgements, same), config, vectors, same)
    labels = _labels(found, same)
    figures = f"{len(chosen.items):,} items of {len(groups):,} prompts"
    said = f", {len(labels):,} labels of people" if labels else ""
    left = "".join(f"; {count:,} {what}" for what, count in found.left_out.items())
    bad = f"; {len(found.bad):,} rows not read" if found.bad else ""
    return Sourced(
        items=chosen.items,
        bad=found.bad,
        described=f"{found.described}: {figures}{said}{left}{bad}",
        labels=labels,
        left_out=found.left_out,
        candidates=chosen.candidates,
    )


def _of_kept(judgements: list[Judgement], same: Mapping[str, str]) -> list[Judgement]:
    """Judges' judgements of the answers kept; what was said of a merged one comes before what was said of its twin."""
    renamed = [(_renamed(judgement, same), judgement) for judgement in judgements]
    ordered = sorted(renamed, key=lambda pair: pair[0] is pair[1])
    return [judgement for judgement, _ in ordered if judgement]


def _labels(found: Gathered, same: Mapping[str, str]) -> list[Judgement]:
    """What people said of the answers kept, one judgement of each rater on the same answers."""
    kept: dict[str, Judgement] = {}
    for original in found.labels:
        label = _renamed(original, same)
        if label is None:
            found.count("labels between answers that are the same")
        elif label.id in kept:
            found.count("further labels of a rater on the same answers")
        else:
            kept[label.id] = label
    return list(kept.values())


def distinct(found: Gathered) -> tuple[list[Group], dict[str, str]]:
    """Prompts with two or more different answers, and the id of the one kept by the id of each that was merged."""
    answers: dict[str, dict[str, Completion]] = {identity: {} for identity in found.prompts}
    same: dict[str, str] = {}
    for completion in found.completions.values():
        if completion.prompt_id not in answers:
            found.count("answers to prompts that are not there")
            continue
        texts = answers[completion.prompt_id]
        kept = texts.setdefault(completion.text.strip(), completion)
        if kept.id != completion.id:
            same[completion.id] = kept.id
            others = {**kept.sampling.get("duplicates", {}), completion.id: completion.policy}
            texts[completion.text.strip()] = replace(kept, sampling={**kept.sampling, "duplicates": others})
    groups = [
        Group(prompt, tuple(answers[prompt.id].values()))
        for prompt in found.prompts.values()
        if len(answers[prompt.id]) > 1
    ]
    if same:
        found.count("answers merged with the same text", len(same))
    if few := len(found.prompts) - len(groups):
        found.count("prompts with fewer than two different answers", few)
    return groups, same


def _gather(source: str, split: str, columns: dict[str, str]) -> Gathered:
    path = Path(source).expanduser()
    if split not in SPLITS:
        raise ConfigError(f"split {split!r} is unknown: give {' or '.join(SPLITS)}")
    if path.is_dir():
        if columns:
            raise ConfigError(f"{path} is a folder of records: columns are named for files alone")
        return _folder(path, split)
    if path.exists():
        if split != "train":
            raise ConfigError(f"{path} is a file, of which all rows are read: split={split} belongs to a run")
        return _files([path], path.name, columns)
    named = path.suffix.lower() in FILES and ":" not in source
    if named or not _HUB.fullmatch(source) or (path.parent.is_dir() and path.parent.name):
        wanted = ", ".join(FILES)
        raise DataError(f"{source} does not exist: give a run folder, a {wanted} file or a Hub data set owner/name")
    from prefloop.tasks.instructions.sources import open_source

    opened = open_source(source)
    files = opened.files.get(split) or opened.files["train"]
    return _files(list(files), f"Hub data set {source}", columns)


def _files(paths: list[Path], described: str, columns: dict[str, str]) -> Gathered:
    found = Gathered(described=described)
    for path in paths:
        numbered = numbered_rows(path)
        head = list(_first(numbered))
        tool = exported_by(head[0][1], path.name) if head else None
        if tool == "Argilla":
            read_argilla(chain(head, numbered), path.name, columns, found)
        elif tool == "Label Studio":
            read_label_studio(chain(head, numbered), path.name, columns, found)
        else:
            read_file(path, columns, found)
        if tool:
            found.described = f"{described} ({tool})"
    return found


def _first(numbered: Iterable[tuple[int, Any]]) -> Iterable[tuple[int, Any]]:
    for entry in numbered:
        yield entry
        return


def _folder(path: Path, split: str) -> Gathered:
    if (path / "records" / "preferences.parquet").is_file():
        return _preference_set(path)
    if not (path / "prompts.parquet").is_file():
        raise DataError(
            f"{path} is neither a run nor a preference set: it has no prompts.parquet and no records folder; "
            "give a folder that 'prefloop run' or 'prefloop prefer' wrote"
        )
    found = Gathered(described=f"run {path.name}, {split} answers")
    prompts = read_records(path / "prompts.parquet", Prompt)
    found.prompts = {prompt.id: prompt for prompt in prompts if prompt.split == split}
    if split == "test":
        _test_answers(path / "evaluation", found)
        return found
    completions = read_records(path / "completions.parquet", Completion)
    found.completions = {completion.id: completion for completion in completions}
    for name in TRAIN:
        if (path / name).is_file():
            found.judgements += read_records(path / name, Judgement)
    # A folder that `prefloop collect` wrote: people's verdicts come back as they were.
    people = [j for j in found.judgements if j.judge.startswith(PEOPLE)]
    found.labels = [j for j in people if LEFT_OUT not in j.raw and j.raw.get("status") != CORRECTED]
    found.judgements = [j for j in found.judgements if not j.judge.startswith(PEOPLE)]
    return found


def _test_answers(folder: Path, found: Gathered) -> None:
    """Greedy answers before and after training; a judged run compared them under ids of their own."""
    compared = (folder / "judgements.parquet").is_file()
    for letter, side in SIDES:
        answers = read_records(folder / f"{side}-greedy-completions.parquet", Completion)
        if compared:
            answers = [replace(answer, id=content_id(letter, answer.id)) for answer in answers]
        found.completions |= {answer.id: answer for answer in answers}
        judged = folder / f"{side}-greedy-judgements.parquet"
        if not compared and judged.is_file():
            found.judgements += read_records(judged, Judgement)
    if compared:
        found.judgements += read_records(folder / "judgements.parquet", Judgement)


def _preference_set(path: Path) -> Gathered:
    records = path / "records"
    found = Gathered(described=f"preference set {path.name}")
    found.prompts = {prompt.id: prompt for prompt in read_records(records / "prompts.parquet", Prompt)}
    completions = read_records(records / "completions.parquet", Completion)
    found.completions = {completion.id: completion for completion in completions}
    found.judgements = [
        Judgement.create(p.prompt_id, (p.chosen, p.rejected), p.source, "choice", p.soft_label)
        for p in read_records(records / "preferences.parquet", Preference)
    ]
    return found


def _renamed(judgement: Judgement, same: Mapping[str, str]) -> Judgement | None:
    """A judgement of the answers that were kept; None where too few of them are left to compare."""
    ids = tuple(dict.fromkeys(same.get(identity, identity) for identity in judgement.completion_ids))
    if ids == judgement.completion_ids:
        return judgement
    if len(ids) < 2 and judgement.kind != "score":
        return None
    seen: set[str] = set()
    tiers = []
    for tier in judgement.ranking:
        fresh = dict.fromkeys(same.get(identity, identity) for identity in tier)
        tiers.append(tuple(identity for identity in fresh if identity not in seen))
        seen |= fresh.keys()
    ranking = tuple(tier for tier in tiers if tier)
    return Judgement.create(
        judgement.prompt_id,
        ids,
        judgement.judge,
        judgement.kind,
        judgement.value,
        judgement.objectives,
        ranking,
        judgement.raw,
    )
