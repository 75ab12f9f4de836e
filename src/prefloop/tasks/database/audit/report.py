"""``audit.md``: the audit in words, for the person who has to decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SHOWN = 15
"""Questions listed under one heading; ``audit.json`` has them all."""


def audit_report(name: str, found: Mapping[str, Any]) -> str:
    """The page as Markdown; texts of the data stand in code spans."""
    accepted = found["accepted"]
    kept, refused = sum(accepted.values()), found["unanswerable"]
    parts = [
        f"# Audit of {_code(name)}",
        f"{kept:,} of {found['questions']:,} questions can be asked: {accepted['train']:,} for training, "
        f"{accepted['test']:,} for the evaluation. {refused['train']:,} and {refused['test']:,} of them no query can "
        "answer: the right answer says so.",
        *_made(found["made"]),
        *_questions(found, kept),
        "## Databases",
        *(_database(name, row) for name, row in found["databases"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def summary(found: Mapping[str, Any], folder: Path) -> str:
    """What the terminal shows: counts, the first findings, and what comes next."""
    accepted, rejected, doubts = found["accepted"], found["rejected"], found["doubts"]
    lines = [f"{accepted['train']:,} training and {accepted['test']:,} test questions in {folder}"]
    for split, called in (("train", "training"), ("test", "test")):
        if not accepted[split]:
            lines.append(
                f"no {called} questions: a run needs both; set the split of some in {folder / 'questions.jsonl'}"
            )
    if bad := found["made"].get("bad"):
        lines.append(f"{len(bad):,} rows not read, the first: {bad[0]['place']}: {bad[0]['reason']}")
    if rejected:
        first = rejected[0]
        lines.append(f"{len(rejected):,} left out, the first: line {first['line']}: {why(first)}")
    if doubts:
        lines.append(f"{len(doubts):,} to be looked at, the first: line {doubts[0]['line']}: {doubts[0]['doubt']}")
    for row in found["databases"].values():
        for table, again in row["repeated_rows"].items():
            lines.append(f"{table} holds {again['rows']:,} rows twice: counts, sums and averages are off")
    lines.append(f"read {folder / 'audit.md'}, edit {folder / 'task.yaml'}, then: prefloop task audit {folder}")
    return "\n".join(_printable(line) for line in lines)


def why(row: Mapping[str, Any]) -> str:
    """Why a rejected question was left out, with the detail if there is one."""
    return row["reason"] + (f" ({row['detail']})" if row["detail"] else "")


def _made(made: Mapping[str, Any]) -> Iterable[str]:
    """What was left out before the questions were written."""
    if rows := made.get("bad"):
        yield f"## Not read: {len(rows):,} rows"
        yield _listed(f"{row['place']}: {_code(row['reason'])}" for row in rows)
    for title, key in (("Drawn and left out", "left_out"), ("How answers are compared", "rules")):
        if counts := made.get(key):
            yield f"## {title}"
            yield _table(("", "questions"), sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _questions(found: Mapping[str, Any], kept: int) -> Iterable[str]:
    rejected = found["rejected"]
    if rejected:
        yield f"## Left out: {len(rejected):,} questions"
        counts = Counter(row["reason"] for row in rejected)
        yield _table(("reason", "questions"), sorted(counts.items(), key=lambda item: (-item[1], item[0])))
        yield _listed(
            f"line {row['line']}, {_code(row['question'])}: {row['reason']}"
            + (f" ({_code(row['detail'])})" if row["detail"] else "")
            for row in rejected
        )
    if found["doubts"]:
        yield f"## To be looked at: {len(found['doubts']):,}"
        yield _listed(f"line {r['line']}, {_code(r['question'])}: {_code(r['doubt'])}" for r in found["doubts"])
    yield "## How much a right result proves"
    alone = len(found["on_one_database"])
    yield _listed(
        [
            f"{found['small_integers']:,} of {kept:,} golds give a single integer from 0 to 10",
            _collided(found["collisions"]),
            f"{found['same_on_variant']:,} golds give the same on the variant: their result written as a query passes",
            f"{alone:,} golds say nothing on the variant: their answers are compared on the database alone",
        ]
    )
    templates, test = found["templates"], found["accepted"]["test"]
    yield "## Templates and families"
    yield (
        f"{templates['train']:,} templates in training, {templates['test']:,} in the test; "
        f"{templates['unseen_questions']:,} of {test:,} test questions are of templates that training does not hold."
    )
    yield _table(("family", "questions"), found["families"].items())


def _collided(found: Mapping[str, Any]) -> str:
    said = f"{found['pairs']:,} pairs of different queries give the same result on every database"
    if not found["pairs"]:
        return said
    told = "all of them are asked"
    if left_out := found["left_out"]:
        told = f"{left_out:,} questions of them are left out, since no variant tells their results apart"
        told += " (`collisions: keep` in task.yaml keeps them)"
    return f"{said}; {told}; the first: lines {', '.join(map(str, found['groups'][0]))}"


def _database(name: str, row: Mapping[str, Any]) -> str:
    lines = [
        f"{_code(name)}, {row['engine']}, " + ("with a variant" if row["variant"] else "without a variant"),
        *(f"- {_code(table)}: {count:,} rows" for table, count in row["tables"].items()),
        *(
            f"- **{_code(table)} holds {again['rows']:,} rows twice**, such as {_code(', '.join(again['example']))}: "
            "counts, sums and averages are off"
            for table, again in row["repeated_rows"].items()
        ),
        *(
            f"- {_code(column)} holds numbers as text"
            + (f", and others among them ({_code(', '.join(others))}) of which a cast makes 0" if others else "")
            for column, others in row["numbers_in_text"].items()
        ),
        *(f"- {_code(key)}: a key guessed by name, confirmed by the values" for key in row["guessed_keys"]),
    ]
    return "\n".join([lines[0], "", *lines[1:]])


def _table(head: tuple[str, str], rows: Iterable[tuple[str, int]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {count:,} |" for name, count in rows)]
    return "\n".join(lines)


def _listed(items: Iterable[str]) -> str:
    every = [f"- {item}" for item in items]
    more = [f"- and {len(every) - SHOWN:,} more in `audit.json`"] if len(every) > SHOWN else []
    return "\n".join([*every[:SHOWN], *more])


def _code(text: str) -> str:
    """A text of the data as one code span."""
    return f"`{_printable(text).replace('`', chr(39))}`"


def _printable(text: str) -> str:
    """One line without control characters, which a terminal or a page would follow."""
    return "".join(c if c.isprintable() else "�" for c in " ".join(str(text).split()))
