"""What a training on preferences reads: pairs, with their answers and prompts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from prefloop.errors import DataError
from prefloop.records import Completion, Preference, Prompt, content_id
from prefloop.store.tables import find_records, read_records, write_records

REFERENCE_ANSWERS = "reference-answers.parquet"
"""Answers of a round that no policy wrote."""


@dataclass(frozen=True)
class Learned:
    """Pairs, and the answers and prompts that they name, by id."""

    preferences: list[Preference]
    completions: dict[str, Completion]
    prompts: dict[str, Prompt]

    @property
    def records(self) -> tuple[list[Preference], dict[str, Completion], dict[str, Prompt]]:
        """As trainings take them."""
        return self.preferences, self.completions, self.prompts

    def beside(self, other: Learned, share: float, seed: int) -> Learned:
        """These, and a share of another round's."""
        chosen = random.Random(content_id("earlier", seed)).sample(
            other.preferences, round(share * len(other.preferences))
        )
        ids = {preference.id for preference in chosen}
        kept = [preference for preference in other.preferences if preference.id in ids]
        return Learned([*self.preferences, *kept], other.completions | self.completions, other.prompts | self.prompts)

    def write(self, folder: Path) -> None:
        """As `read_learned` reads it."""
        write_records(folder / "prompts.parquet", list(self.prompts.values()), Prompt)
        write_records(folder / "completions.parquet", list(self.completions.values()), Completion)
        write_records(folder / "preferences.parquet", self.preferences, Preference)


def read_learned(folder: Path) -> Learned:
    """The pairs of a preference set (`prefloop prefer`), of a run, or of a round without those of earlier ones.

    Of the answers beside them only those that they rank.

    Raises:
        DataError: the folder holds none.
    """
    folder = Path(folder)
    records = folder / "records" if (folder / "records").is_dir() else folder
    if not (records / "preferences.parquet").is_file():
        raise DataError(f"{folder} is no preference set: give a folder that 'prefloop prefer' or a run wrote")
    preferences = read_records(records / "preferences.parquet", Preference)
    ranked = {answer for preference in preferences for tier in preference.ranking for answer in tier}
    answers = find_records(records / "completions.parquet", Completion, "id", ranked)
    if (records / REFERENCE_ANSWERS).exists():
        answers += find_records(records / REFERENCE_ANSWERS, Completion, "id", ranked)
    return Learned(
        preferences,
        {answer.id: answer for answer in answers},
        {prompt.id: prompt for prompt in read_records(records / "prompts.parquet", Prompt)},
    )
