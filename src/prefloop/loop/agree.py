"""Files of human labels and of judgements to a table of their agreement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.evaluation.agreement import agreement
from prefloop.preferences.people import HumanLabels, read_people
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.files import unused
from prefloop.store.tables import read_records, write_records

BAD_KEPT = 20


def agree_files(people: Path, judgements: Sequence[Path] = (), records: Path | None = None) -> dict[str, Any]:
    """Agreement of the raters in `people`, and of each judge in `judgements` with them.

    Args:
        people: labels (`prefloop.preferences.people`).
        judgements: judgements.parquet files on the records of these labels; each may hold several judges.
        records: folder for prompts.parquet, completions.parquet and judgements.parquet of the labels, for judges
            to be run on.

    Returns:
        As `prefloop.evaluation.agreement.agreement`, with ``bad_rows`` and the first of them in ``bad``.

    Raises:
        DataError: a file cannot be read, or a judge's file is about other answers.
        StoreError: `records` exists already, or cannot be written.
    """
    if records is not None:
        unused(records)
    labels = read_people(people)
    judges: dict[str, list[Judgement]] = {}
    for path in judgements:
        for name, said in _by_judge(path, labels).items():
            judges[name if name not in judges else f"{name} ({path})"] = said
    if records is not None:
        write_records(records / "prompts.parquet", labels.prompts, Prompt)
        write_records(records / "completions.parquet", labels.completions, Completion)
        write_records(records / "judgements.parquet", labels.judgements, Judgement)
    bad = [{"line": row.line, "reason": row.reason} for row in labels.bad]
    found = agreement(labels.judgements, labels.completions, judges)
    return {**found, "bad_rows": len(bad), "bad": bad[:BAD_KEPT]}


def _by_judge(path: Path, labels: HumanLabels) -> dict[str, list[Judgement]]:
    """The judgements of a file by judge, in order of name."""
    known = {completion.id for completion in labels.completions}
    found: dict[str, list[Judgement]] = {}
    for judgement in read_records(path, Judgement):
        if known.issuperset(judgement.completion_ids):
            found.setdefault(judgement.judge, []).append(judgement)
    if not found:
        raise DataError(f"{path} judges none of the labelled answers: run the judge on the files that --records writes")
    return dict(sorted(found.items()))
