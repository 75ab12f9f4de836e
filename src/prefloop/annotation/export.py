"""A project as files: the log of verdicts, records, preferences, ambiguous questions, and a card (README.md).

The same database gives the same bytes. What each file holds is in docs/annotation-export.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.export_corrections import execute_corrections, told
from prefloop.annotation.export_records import ADJUDICATION, Exported, Row, read_exported
from prefloop.annotation.protocol import AMBIGUOUS
from prefloop.config.annotation import AnnotationConfig
from prefloop.config.recipe import PreferenceConfig
from prefloop.judging.people import ITEM, JUDGEMENTS, PROJECT
from prefloop.preferences.build import PreferenceSet, build_preferences, diagnostics
from prefloop.preferences.export import write_preference_set
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.files import unused, write_json, write_jsonl, write_text
from prefloop.store.tables import write_records

CARD = """# Annotation project `{name}`

{items:,} items for {raters:,} people; {judgements:,} verdicts stand, of {revisions:,} that were sent. People are named
by pseudonyms alone. `judgements.jsonl` is the whole log and `items.jsonl` what was asked. `prompts.parquet`,
`completions.parquet` and `judgements.parquet` are the records that `prefloop prefer` reads, and `preferences/` is the
training set made of them. `ambiguous.jsonl` holds the questions that most people find ambiguous, which are not in it.
`docs/annotation-export.md` says what each column holds.

| protocol | |
|---|---|
{protocol}

| items | count |
|---|---|
{by_status}

| verdicts that stand | count |
|---|---|
{by_status_of_verdict}

| not trained on | count |
|---|---|
{left_out}

| corrected answers, executed | count |
|---|---|
{corrections}

| verdicts that count, by item | items |
|---|---|
{overlap}

| preferences | count |
|---|---|
{drops}

Source of the items: {source}
"""
_EMPTY = "| none | 0 |"


def export_project(
    connection: sa.Connection,
    out: Path,
    *,
    include_surplus: bool = False,
    overwrite: bool = False,
    sql: Path | None = None,
) -> dict[str, Any]:
    """Write a project into the folder `out`; returns what ``project.json`` says: its state and counts.

    Not for the server's own process: writing Parquet imports pandas.

    Args:
        connection: that reads, and has not begun a transaction: all is of one moment.
        include_surplus: train on verdicts beyond an item's target, too.
        overwrite: `out` may hold an earlier export, whose files are replaced one by one.
        sql: SQLite file on which corrected answers are run, where it is another than the project's.

    Raises:
        StoreError: `out` holds something, or cannot be written.
        DataError: `sql` is missing, or no SQLite file.
        JudgeError: the sandbox for corrected answers cannot be started.
    """
    out = Path(out)
    if not overwrite:
        unused(out)
    found = read_exported(connection, include_surplus)
    found = replace(found, executed=execute_corrections(found, sql))
    write_jsonl(out / "judgements.jsonl", found.log)
    write_jsonl(out / "items.jsonl", [_item_row(found, row) for row in found.items.values()])
    write_jsonl(out / "ambiguous.jsonl", [_ambiguous_row(found, item_id) for item_id in sorted(found.ambiguous)])
    write_records(out / "prompts.parquet", found.prompts, Prompt)
    write_records(out / "completions.parquet", found.completions, Completion)
    built = _write_preferences(found, out / "preferences")
    counts = _counts(found)
    write_text(out / "README.md", _card(found, counts, built))
    summary = {
        "schema": 1,
        "name": found.config.name,
        "state": found.state,
        "open_items": counts["items"].get("open", 0),
        "raters": len(_raters(found)),
        "revisions": len(found.log),
        "judgements": len(found.current),
        "pairs": len(built.preferences),
        "include_surplus": include_surplus,
        "settings": _settings(found.config),
        "counts": counts,
        "corrections": told(found.judgements, found.executed),
        "preferences": built.drops,
    }
    write_json(out / PROJECT, summary)
    write_records(out / JUDGEMENTS, found.judgements, Judgement)
    return summary


def _item_row(found: Exported, row: Row) -> Row:
    """An item as it was asked, its answers by id and what their queries return beside them."""
    names = ("id", "position", "role", "status", "prompt_id", "context", "known", "expected")
    numbers = ("stratum", "probability", "target", "done", "skipped")
    answers = found.answers[row["id"]].values()
    return {
        **{name: row[name] for name in (*names, *numbers)},
        "completion_ids": [answer["completion_id"] for answer in answers],
        "results": [answer["result"] for answer in answers],
    }


def _ambiguous_row(found: Exported, item_id: str) -> Row:
    """A question of which more than half say that it is ambiguous, and the readings that they would choose."""
    of, answers, said = found.items[item_id], found.answers[item_id].values(), found.ambiguous[item_id]
    calling = [row for row in said if row["reason"] == AMBIGUOUS]
    return {
        "item_id": item_id,
        "prompt_id": of["prompt_id"],
        "prompt": of["messages"],
        "completion_ids": [answer["completion_id"] for answer in answers],
        "answers": [answer["text"] for answer in answers],
        "status": of["status"],
        "readings": {row["rater"]: row["comment"] for row in calling},
        "counts": {
            "ambiguous": len(calling),
            "other skips": sum(row["kind"] == "skip" for row in said) - len(calling),
            "verdicts": sum(row["kind"] != "skip" for row in said),
        },
    }


def _settings(config: AnnotationConfig) -> dict[str, Any]:
    """The project's settings; of a file its name alone, since folders tell who made the export."""
    return config.model_dump(mode="json") | {"sql": config.sql.name if config.sql else None}


def _write_preferences(found: Exported, out: Path) -> PreferenceSet:
    asked = {row["prompt_id"] for row in found.items.values() if row["role"] == ITEM}
    prompts = [prompt for prompt in found.prompts if prompt.id in asked]
    built = build_preferences(prompts, found.completions, found.judgements, PreferenceConfig(), found.config.seed)
    card = {
        "name": _line(found.config.name),
        "policy": ", ".join(
            sorted({row["policy"] for by_index in found.answers.values() for row in by_index.values()})
        ),
        "judge": f"{len(_raters(found)):,} people",
        "strategy": built.strategy,
        "recipe": "none",
        "origin": f"What people said of: {_line(found.source)}. The terms of what they were shown hold.",
        "diagnostics": diagnostics(built.preferences, found.completions, found.judgements),
        "drops": built.drops,
    }
    write_preference_set(out, prompts, found.completions, built.preferences, card)
    return built


def _counts(found: Exported) -> dict[str, Any]:
    """Items by status, verdicts by what they say, what is left out and why, and how often items were judged."""
    asked = {row["id"]: row["status"] for row in found.items.values() if row["role"] == ITEM}
    judged = Counter(row["item_id"] for row in found.current if row["counted"])
    said = Counter(str(judgement.raw["status"]) for judgement in found.judgements)
    left_out = Counter(why for row in found.current if (why := found.left_out(row)))
    roles = Counter(row["role"] for row in found.items.values())
    return {
        "items": dict(sorted(Counter(asked.values()).items())),
        "roles": dict(sorted(roles.items())),
        "verdicts": dict(sorted(said.items())),
        "adjudications": sum(row["kind"] == ADJUDICATION for row in found.current),
        "left_out": dict(sorted(left_out.items())),
        "ambiguous": len(found.ambiguous),
        "overlap": {str(n): count for n, count in sorted(Counter(judged[item_id] for item_id in asked).items())},
    }


def _card(found: Exported, counts: Mapping[str, Any], built: PreferenceSet) -> str:
    return CARD.format(
        name=_line(found.config.name),
        items=counts["roles"].get(ITEM, 0),
        raters=len(_raters(found)),
        judgements=len(found.current),
        revisions=len(found.log),
        protocol=_table(_protocol(found.config)),
        by_status=_table({**counts["items"], **{f"role: {role}": n for role, n in counts["roles"].items()}}),
        by_status_of_verdict=_table(counts["verdicts"]),
        left_out=_table(counts["left_out"]),
        overlap=_table(counts["overlap"]),
        drops=_table(built.drops),
        corrections=_table(told(found.judgements, found.executed)["outcomes"]),
        source=_line(found.source),
    )


def _protocol(config: AnnotationConfig) -> dict[str, Any]:
    """What people were asked, and how."""
    steps = "much better, better, about equal, better, much better, or both bad"
    return {
        "verdict": f"of two answers: {steps}" if config.kind == "pairwise" else "a ranking, ties and top-k allowed",
        "blind": "yes; sides are random for every item and person, and kept",
        "people for an item": _people(config),
        "more where they disagree": config.extra_raters,
        "hidden gold": f"{config.gold_share:.0%} of the stream",
        "repeats, sides swapped": f"{config.repeat_share:.0%} of the stream",
        "calibration to pass": f"{config.qualification:.0%} right" if config.qualification else "none",
        "objectives": ", ".join(_line(name) for name in config.objectives) or "none",
        "corrected answers": "asked for" if config.edits else "no",
    }


def _people(config: AnnotationConfig) -> str:
    if not config.overlap_sample:
        return str(config.overlap)
    return f"{config.overlap}, and {config.overlap_target} for {config.overlap_sample:.0%} of the items"


def _raters(found: Exported) -> set[str]:
    return {row["rater"] for row in found.log}


def _line(text: str) -> str:
    """Text of people's making as one line of Markdown."""
    return " ".join(text.replace("|", "/").replace("`", "'").split())


def _table(figures: Mapping[str, Any]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in figures.items()) or _EMPTY
