"""Preference sets and files of prompts as rows, read and written some at a time: what mixing and cleaning share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from prefloop.errors import ConfigError, DataError
from prefloop.loop.prompt_files import each_prompt, prompt_ids
from prefloop.preferences.diagnostics import Diagnostics
from prefloop.preferences.export import SetWriter, preference_set
from prefloop.records import Completion, Preference, Prompt
from prefloop.store.files import atomic_folder
from prefloop.store.grouped import Grouping, Table
from prefloop.store.tables import ROWS, count_records, records_file


@dataclass(frozen=True)
class Row:
    """A prompt; of a preference set with a preference and the answers that it ranks, best first."""

    prompt: Prompt
    answers: tuple[Completion, ...] = ()
    preference: Preference | None = None

    @property
    def id(self) -> str:
        """Of the preference, or else of the prompt."""
        return self.preference.id if self.preference else self.prompt.id


def set_records(path: Path) -> Path:
    """The folder with the records of a preference set or of a run; a file stands for itself.

    Raises:
        DataError: a folder that holds no preferences.
    """
    if not path.is_dir():
        return path
    records = path / "records" if (path / "records").is_dir() else path
    if not (records / "preferences.parquet").is_file():
        raise DataError(f"{path} is no preference set: give a folder that 'prefloop prefer' or a run wrote")
    return records


def are_sets(paths: Sequence[Path]) -> bool:
    """Whether these are preference sets, and not files of prompts.

    Raises:
        ConfigError: some are, others are not.
    """
    kinds = {path.is_dir() for path in paths}
    if len(kinds) > 1:
        raise ConfigError("give preference sets (folders) or files of prompts, not both: they do not go into one set")
    return kinds == {True}


def count_rows(path: Path) -> int:
    """How many rows `rows_of` gives."""
    if path.is_dir():
        return count_records(set_records(path) / "preferences.parquet", Preference)
    return len(prompt_ids(path))


def rows_of(path: Path, work: Path) -> Iterator[list[Row]]:
    """The rows of a preference set, by prompt, or of a file of prompts, some at a time.

    Args:
        work: folder for parted files.

    Raises:
        DataError: a file is missing or damaged, or a preference ranks an answer that the set does not hold.
    """
    records = set_records(path)
    if not path.is_dir():
        prompts = each_prompt(path)
        while some := list(islice(prompts, ROWS)):
            yield [Row(prompt) for prompt in some]
        return
    tables = [
        Table(records / "completions.parquet", Completion),
        Table(records / "preferences.parquet", Preference),
    ]
    groups = Grouping(prompt_ids(records / "prompts.parquet"), tables, 2 * ROWS)
    if lost := groups.unknown[1]:
        raise DataError(f"{records / 'preferences.parquet'} ranks answers to prompt {lost[0]}, which is not in the set")
    for part in groups.slices(each_prompt(records / "prompts.parquet"), work):
        answers, preferences = part.rows
        by_id = {completion.id: completion for completion in answers}
        asked = {prompt.id: prompt for prompt in part.prompts}
        yield [_row(preference, asked, by_id, records) for preference in preferences]


def _row(
    preference: Preference, prompts: Mapping[str, Prompt], answers: Mapping[str, Completion], records: Path
) -> Row:
    ranked = [answer for tier in preference.ranking for answer in tier]
    if lost := [answer for answer in ranked if answer not in answers]:
        raise DataError(f"{records / 'completions.parquet'} lacks answer {lost[0]}, which {preference.id} ranks")
    return Row(prompts[preference.prompt_id], tuple(answers[answer] for answer in ranked), preference)


@dataclass(frozen=True)
class RowWriter:
    """Writes rows into a folder."""

    folder: Path
    add: Callable[[Sequence[Row]], None]
    finish: Callable[[Mapping[str, Any]], None]
    """Writes the card of a set, with its name, its origin and the counts of ``drops``; once all rows are added."""


@contextmanager
def rows_out(out: Path, sets: bool) -> Iterator[RowWriter]:
    """A folder for rows: a preference set, or ``prompts.parquet``; it appears once the block ends well."""
    if sets:
        with preference_set(out) as writer:
            card = _SetCard(writer)
            yield RowWriter(writer.folder, card.add, card.finish)
    else:
        with atomic_folder(out) as folder, records_file(folder / "prompts.parquet", Prompt) as write:
            yield RowWriter(folder, lambda rows: write(row.prompt for row in rows), lambda card: None)


class _SetCard:
    """What a set's card says, gathered from the rows themselves."""

    def __init__(self, writer: SetWriter) -> None:
        self._writer, self._figures = writer, Diagnostics()
        self._policies: set[str] = set()
        self._sources: set[str] = set()

    def add(self, rows: Sequence[Row]) -> None:
        answers = [answer for row in rows for answer in row.answers]
        preferences = [row.preference for row in rows if row.preference]
        self._writer.add([row.prompt for row in rows], answers, preferences)
        self._figures.add(preferences, answers, [])
        self._policies.update(answer.policy for answer in answers)
        self._sources.update(preference.source for preference in preferences)

    def finish(self, card: Mapping[str, Any]) -> None:
        made = [source.partition("/") for source in sorted(self._sources)]
        self._writer.write_card(
            {
                "policy": ", ".join(sorted(self._policies)),
                "judge": ", ".join(dict.fromkeys(judge or "not known" for _, _, judge in made)),
                "strategy": ", ".join(dict.fromkeys(strategy for strategy, _, _ in made)),
                "recipe": "none",
                "diagnostics": self._figures.figures(),
                **card,
            }
        )
