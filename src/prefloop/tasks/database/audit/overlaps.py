"""What the questions of one set have in common: texts that are asked twice, different queries with one result.

A text is asked once. Of questions with one text and one result the test's stays, else the first; where their results
differ, nobody can say which is right, and none is asked.

A **collision** are questions whose different queries give one result on every database, and the same on all of them:
then nothing shows that the queries mean the same, and the answer to one would pass for the other. They are left out,
unless ``task.yaml`` says ``collisions: keep``. Where the results change from the database to its variant and the
queries still agree, they are one question in other words; that is counted, and no fault.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefloop.sql.canonical import canonical_sql
from prefloop.tasks.database.audit.checks import Checked
from prefloop.tasks.database.model import Question, Task
from prefloop.tasks.nba.text import normalised

REPEATED = "the same text as another question"
CONTRADICTED = "the same text as another question, with another result"
COLLISION = "another question's query gives the same result"


def reject_repeated(task: Task, checked: Sequence[Checked]) -> None:
    """Leave out what was asked already of the same database, and what is answered in two ways."""
    order = sorted(range(len(checked)), key=lambda i: (task.questions[i].split == "train", i))
    asked: dict[tuple[str, str], list[int]] = {}
    for i in order:
        if not checked[i].reason:
            question = task.questions[i]
            asked.setdefault((task.database(question).name, normalised(question.question)), []).append(i)
    for first, *others in asked.values():
        contradicted = len({checked[i].digest for i in (first, *others)}) > 1
        for i in (first, *others) if contradicted else others:
            other = others[0] if i == first else first
            same = _text(task.questions[i]) == _text(task.questions[other])
            checked[i].reason = CONTRADICTED if contradicted else REPEATED
            checked[i].detail = f"line {task.lines[other]}, {'the same' if same else 'another'} query"


def collisions(task: Task, checked: Sequence[Checked]) -> list[list[int]]:
    """Positions of questions whose different queries give one result on all databases, one for each query."""
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for i, (question, found) in enumerate(zip(task.questions, checked, strict=True)):
        if question.sql is not None and not found.reason:
            group = groups.setdefault((task.database(question).name, found.digest), {})
            group.setdefault(_text(question), i)
    return sorted(sorted(group.values()) for group in groups.values() if len(group) > 1)


def reject_collisions(task: Task, checked: Sequence[Checked], groups: Sequence[Sequence[int]]) -> None:
    """Leave out the questions of groups whose result no variant tells from others'."""
    digests = {(task.database(task.questions[i]).name, checked[i].digest): group for group in groups for i in group[:1]}
    for question, found in zip(task.questions, checked, strict=True):
        group = digests.get((task.database(question).name, found.digest))
        if group and not found.reason and (found.constant or not found.compared_twice):
            text = _text(question)
            others = [task.lines[i] for i in group if _text(task.questions[i]) != text]
            found.reason, found.detail = COLLISION, f"line {', '.join(map(str, others))}"


def _text(question: Question) -> str:
    """What equal queries share."""
    return (canonical_sql(question.sql) or " ".join(question.sql.lower().split())) if question.sql else ""
