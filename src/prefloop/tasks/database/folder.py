"""The task folder: ``task.yaml``, schemas, ``questions.jsonl``, databases. Read strictly, written whole.

A person edits its files; so what is wrong in them is said with file and line, all of it at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from prefloop.errors import DataError
from prefloop.store.files import unused, write_jsonl, write_text, writing
from prefloop.tasks.database.model import Question, Task, TaskFile

TASK, QUESTIONS, AUDIT = "task.yaml", "questions.jsonl", "audit.json"
SHOWN = 10
"""Findings of one file that are told at once."""


def read_task(folder: Path) -> Task:
    """Read and check a task folder.

    Raises:
        DataError: a file is missing or says something that cannot be; names file and line.
    """
    file = _task_file(folder / TASK)
    for entry in file.databases:
        for path in (entry.file, entry.variant, entry.shown):
            if path and not (folder / path).is_file():
                raise DataError(f"{folder / TASK}: database {entry.name}: {folder / path} does not exist")
    names = {entry.name for entry in file.databases}
    questions, lines, wrong = [], [], []
    for number, found in _lines(folder / QUESTIONS):
        if isinstance(found, str):
            wrong.append(f"line {number}: {found}")
        elif found.database not in names and not (found.database == "" and len(names) == 1):
            wrong.append(f"line {number}: database {found.database!r} is none of {', '.join(sorted(names))}")
        else:
            questions.append(found)
            lines.append(number)
    if wrong:
        more = f" | and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise DataError(f"{folder / QUESTIONS}: {' | '.join(wrong[:SHOWN])}{more}")
    if not questions:
        raise DataError(f"{folder / QUESTIONS} is empty: put one JSON object with question, sql and split on each line")
    return Task(folder, file, tuple(questions), tuple(lines))


def only_copy(folder: Path) -> Path | None:
    """The SQLite copy of a task that has one database, and that as a file; None of any other, or where none is.

    Raises:
        DataError: ``task.yaml`` cannot be read.
    """
    if not (folder / TASK).is_file():
        return None
    databases = _task_file(folder / TASK).databases
    return folder / databases[0].file if len(databases) == 1 and databases[0].file else None


def _task_file(path: Path) -> TaskFile:
    if not path.is_file():
        raise DataError(f"{path} does not exist: make a task folder with prefloop task from-database or task import")
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    try:
        return TaskFile.model_validate(content)
    except ValidationError as error:
        found = [f"line {_line(tree, e['loc'])}: {_place(e['loc'])}{_reason(e)}" for e in error.errors()]
        raise DataError(f"{path}: {' | '.join(found)}") from error


def _line(tree: yaml.Node | None, location: Sequence[str | int]) -> int:
    """Line of the deepest part of a place that stands in the file."""
    line = 1
    for part in location:
        if isinstance(tree, yaml.MappingNode):
            found = next(((key, value) for key, value in tree.value if key.value == part), None)
            if found is None:
                return line
            line, tree = found[0].start_mark.line + 1, found[1]
        elif isinstance(tree, yaml.SequenceNode) and isinstance(part, int) and part < len(tree.value):
            tree = tree.value[part]
            line = tree.start_mark.line + 1
    return line


def _lines(path: Path) -> list[tuple[int, Question | str]]:
    """Every line that holds anything: its number, and the question or what is wrong with it."""
    if not path.is_file():
        raise DataError(f"{path} does not exist: it holds the questions, one JSON object on each line")
    found: list[tuple[int, Question | str]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found.append((number, Question.model_validate(json.loads(line))))
        except ValidationError as error:
            found.append((number, "; ".join(f"{_place(e['loc'])}{_reason(e)}" for e in error.errors())))
        except ValueError as error:
            found.append((number, f"not valid JSON ({error})"))
    return found


def _place(location: Sequence[str | int]) -> str:
    return f"{'.'.join(map(str, location))}: " if location else ""


def _reason(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    return "unknown key" if error["type"] == "extra_forbidden" else f"{message[0].lower()}{message[1:]}"


HEAD = """\
# A text-to-SQL task. What you change here, in the schemas or in questions.jsonl is checked by
#
#   prefloop task audit {folder}
#
# and run by
#
#   prefloop run database-sql --set task.folder={folder}
#
# policies stand in every prompt: they decide what a question leaves open. The ones below are a start. Change them to
# what holds in your house, and the gold queries with them.
"""


@contextmanager
def making(out: Path) -> Iterator[Path]:
    """The folder in which a task is made: it becomes `out` once it is whole, and is gone if it never is.

    Raises:
        StoreError: `out` holds something, or cannot be written.
    """
    unused(out)
    place = out.resolve()  # "." has no name
    partial = place.with_name(f".{place.name}.partial")
    with writing(out):
        shutil.rmtree(partial, ignore_errors=True)  # of work that was cut
        try:
            partial.mkdir(parents=True)
            yield partial
            _put(partial, place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _put(partial: Path, place: Path) -> None:
    """Move what was made to its place; into a folder that stands, since somebody may be working in it."""
    if not place.is_dir():
        partial.replace(place)
        return
    for path in sorted(partial.iterdir(), key=lambda path: path.name == TASK):  # what makes it a task comes last
        path.replace(place / path.name)


def write_task(folder: Path, file: TaskFile, questions: Sequence[Question]) -> None:
    """Write ``task.yaml`` and ``questions.jsonl``; the databases and schemas they name are there already."""
    content = file.model_dump(mode="json", exclude_none=True)
    write_text(folder / TASK, HEAD.format(folder=file.name) + yaml.dump(content, Dumper=_Dumper, sort_keys=False))
    write_jsonl(folder / QUESTIONS, [question.row() for question in questions])


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that they can be edited."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
