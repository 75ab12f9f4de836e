"""Items with a known answer: calibration written by hand, and gold that execution has decided.

A file of them has the layouts of `prefloop.annotation.sources_files` with all answers in one row, and ``best``: the
number of the best answer from 0 (or a list of several that will do), ``tie`` or ``both bad``. ``explanation`` is shown
after the verdict. With ``chosen`` and ``rejected``, ``best`` may be left out.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop.annotation.items import NewItem
from prefloop.annotation.selection_judges import Opinions
from prefloop.annotation.sources import Sourced
from prefloop.annotation.sources_files import UNREADABLE, Gathered, checked, numbered_rows, read_row, why
from prefloop.errors import ConfigError, DataError
from prefloop.judging.execution import NAME as EXECUTION
from prefloop.preferences.importers import IMPORTED
from prefloop.preferences.rows import BadRowError
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.rows import BadRow
from prefloop.tasks.instructions.layouts import check_text

ROLES = ("training", "gold")
WORDS = ("tie", "both bad")
PLAUSIBLE = ("ok", "not_refused")
"""What the execution judge says of a wrong answer that is worth asking about: its query runs, or it should not."""
DIFFERENCES = {
    "values": "it returns other values",
    "shape": "its result has another number of rows or columns",
    "order": "it returns the right rows in another order",
    "rounded": "its numbers are only right after rounding",
    "empty": "it returns no rows",
    "undecided": "its columns cannot be matched with those asked for",
}
_CELLS, _CELL = 6, 40


def known_items(path: Path, role: str = "training", columns: Mapping[str, str] | None = None) -> Sourced:
    """Items of a file with known answers, in its order.

    Args:
        role: ``training`` (explained after the verdict) or ``gold`` (hidden in the stream).

    Raises:
        ConfigError: another role.
        DataError: the file cannot be read, or has no usable row; the first reasons are named.
    """
    if role not in ROLES:
        raise ConfigError(f"role {role!r} is unknown: give {' or '.join(ROLES)}")
    items: dict[str, NewItem] = {}
    bad: list[BadRow] = []
    for line, row in numbered_rows(path):
        try:
            found = _known(checked(row), role, columns or {})
            if found.id in items:
                raise BadRowError("the same prompt and answers as in an earlier row")
            items[found.id] = found
        except UNREADABLE as error:
            bad.append(BadRow(path.name, line, why(error)))
    if not items:
        reasons = "; ".join(f"line {row.line}: {row.reason}" for row in bad[:3]) or "it is empty"
        raise DataError(f"{path} holds no item with a known answer: {reasons}")
    return Sourced(list(items.values()), bad, f"{path.name}: {len(items):,} {role} items; {len(bad):,} rows not read")


def gold_from_execution(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    judgements: Sequence[Judgement],
    count: int,
    seed: int,
) -> list[NewItem]:
    """Gold pairs: one answer is right by execution, the other wrong though its query runs; one pair of a prompt.

    Prompts and answers are drawn by `seed`; where there are fewer such prompts than `count`, that many. The answers
    stand in the order of `completions`, so the same pair chosen as an ordinary item has the same id.
    """
    judged = {j.completion_ids[0]: j for j in judgements if j.judge == EXECUTION and j.value is not None}
    answers: dict[str, dict[str, Completion]] = {}
    for completion in completions:  # of the same texts the first, as `prefloop.annotation.sources` keeps it
        answers.setdefault(completion.prompt_id, {}).setdefault(completion.text.strip(), completion)
    rng = random.Random(seed)
    found: list[NewItem] = []
    for prompt in rng.sample(list(prompts), len(prompts)):
        group = [answer for answer in answers.get(prompt.id, {}).values() if answer.id in judged]
        right = [c for c in group if judged[c.id].objectives.get("correct") == 1]
        wrong = [c for c in group if _plausibly_wrong(judged[c.id])]
        if right and wrong and len(found) < count:
            found.append(_gold(prompt, group, rng.choice(right), rng.choice(wrong), judged))
    return found


def _known(row: Mapping[str, Any], role: str, columns: Mapping[str, str]) -> NewItem:
    asked = read_row(dict(row), columns)
    if len({text.strip() for text, _ in asked.answers}) < len(asked.answers) or len(asked.answers) < 2:
        raise BadRowError("needs two or more answers that differ, in one row")
    explanation = row.get("explanation")
    if explanation is not None and not isinstance(explanation, str):
        raise BadRowError("explanation is not text")
    texts = (explanation or "", *(m["content"] for m in asked.messages), *(text for text, _ in asked.answers))
    for text in texts:
        check_text(text)
    gathered = Gathered()
    prompt = Prompt.create(asked.messages, IMPORTED, "train")
    ids = gathered.add(prompt, asked.answers)
    best = row.get("best")
    known = _best(0 if best in (None, "") and asked.ranked else best, len(ids))
    return NewItem(
        prompt,
        tuple(gathered.completions[i] for i in ids),
        role=role,
        known={"best": known, "explanation": explanation or ""},
        stratum="known",
    )


def _best(value: Any, answers: int) -> list[int | str]:
    """Answers that will do, or a word."""
    if isinstance(value, str) and value.strip().lower().replace("_", " ") in WORDS:
        return [value.strip().lower().replace("_", " ")]
    found: list[int | str] = []
    for entry in value if isinstance(value, list) and value else [value]:
        text = str(entry).strip()
        if isinstance(entry, bool) or not text.isascii() or not text.isdigit() or int(text) >= answers:
            words = ", ".join(WORDS)
            raise BadRowError(f"best is {text[:40]!r}: give the number of an answer, 0 to {answers - 1}, or {words}")
        found.append(int(text))
    return found


def _plausibly_wrong(judgement: Judgement) -> bool:
    return judgement.objectives.get("correct") == 0 and judgement.raw.get("status") in PLAUSIBLE


def _gold(
    prompt: Prompt, group: Sequence[Completion], right: Completion, wrong: Completion, judged: Mapping[str, Judgement]
) -> NewItem:
    pair = tuple(completion for completion in group if completion.id in (right.id, wrong.id))
    ids = tuple(completion.id for completion in pair)
    known = {"best": [ids.index(right.id)], "explanation": _explained(judged[right.id].raw, judged[wrong.id].raw)}
    expected = Opinions([judged[i] for i in ids]).expected(ids)
    return NewItem(prompt, pair, role="gold", known=known, expected=expected, stratum="known")


def _explained(right: Mapping[str, Any], wrong: Mapping[str, Any]) -> str:
    """The judge's reasons in words; results as they came, cut."""
    if wrong.get("status") == "not_refused":
        return "The database cannot answer this question. The better answer says so, the other one gives a query."
    reason = DIFFERENCES.get(str(wrong.get("kind")), "it returns something else")
    rows = [_row(raw.get("rows") or []) for raw in (right, wrong)]
    shown = f" First rows: {rows[0]}; of the other: {rows[1]}." if all(rows) and rows[0] != rows[1] else ""
    return f"The better answer's query returns what was asked for. The other's runs, but {reason}.{shown}"


def _row(result: Sequence[Sequence[Any]]) -> str:
    """The first row, or nothing."""
    if not result:
        return ""
    cells = ["NULL" if cell is None else str(cell)[:_CELL] for cell in result[0][:_CELLS]]
    return " | ".join(cells) + (" | …" if len(result[0]) > _CELLS else "")
