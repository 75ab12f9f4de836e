"""Preference sets as TRL reads them: JSON lines, Parquet, and a dataset card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefloop.errors import DataError
from prefloop.records import Completion, Preference, Prompt, canonical_json
from prefloop.store.files import atomic_folder, atomic_path, write_text
from prefloop.store.tables import records_file, rows_file

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TRL_SCHEMA = pa.schema(
    [
        ("prompt", _MESSAGES),
        ("chosen", _MESSAGES),
        ("rejected", _MESSAGES),
        ("score_chosen", pa.float64()),
        ("score_rejected", pa.float64()),
        ("prompt_id", pa.string()),
        ("chosen_id", pa.string()),
        ("rejected_id", pa.string()),
        ("weight", pa.float64()),
        ("soft_label", pa.float64()),
        ("margin", pa.float64()),
        ("ranking", pa.list_(pa.list_(pa.string()))),
    ]
)
"""TRL's conversational preference format (explicit prompt), with scores, labels and lineage beside it."""

CARD = """---
task_categories: [text-generation]
tags: [preference, dpo, prefloop]
configs:
- config_name: default
  data_files: [{{split: train, path: preferences.parquet}}]
---
# Preferences of run `{name}`

{pairs:,} pairs for {prompts:,} prompts in TRL's conversational preference format: `prompt`, `chosen` and `rejected`
are message lists, `score_chosen` and `score_rejected` the judge's scores, `weight` is 1/k for the k pairs of a
prompt; the `*_id` columns name the rows of `prompts.parquet` and `completions.parquet` that a pair came from. The pair
is the hard label; `soft_label` is the probability that the chosen answer is better (1 where one judge decided),
`margin` by how much, and `ranking` the ids of all answers that were ranked together, in tiers, best first.

| how it was made | |
|---|---|
| policy that wrote the answers | `{policy}` |
| judge | {judge} |
| strategy | {strategy} |
| recipe hash | `{recipe}` |

| diagnostics | |
|---|---|
{diagnostics}

| dropped or kept | count |
|---|---|
{drops}

```python
from datasets import load_dataset
pairs = load_dataset("parquet", data_files="preferences.parquet", split="train")
```

{origin}
"""


def trl_rows(
    preferences: Sequence[Preference], prompts: Mapping[str, Prompt], completions: Mapping[str, Completion]
) -> list[dict[str, Any]]:
    """One row per preference, best against last."""
    return [
        {
            "prompt": list(prompts[preference.prompt_id].messages),
            "chosen": _answer(completions[preference.chosen]),
            "rejected": _answer(completions[preference.rejected]),
            "score_chosen": preference.scores[0],
            "score_rejected": preference.scores[-1],
            "prompt_id": preference.prompt_id,
            "chosen_id": preference.chosen,
            "rejected_id": preference.rejected,
            "weight": preference.weight,
            "soft_label": preference.soft_label,
            "margin": preference.margin,
            "ranking": [list(tier) for tier in preference.ranking],
        }
        for preference in preferences
    ]


@contextmanager
def trl_files(folder: Path) -> Iterator[Callable[[Iterable[dict[str, Any]]], None]]:
    """Write rows, as they come, to ``preferences.jsonl`` and ``preferences.parquet`` of `folder`."""
    with (
        atomic_path(folder / "preferences.jsonl") as temporary,
        rows_file(folder / "preferences.parquet", TRL_SCHEMA) as to_parquet,
        temporary.open("w", encoding="utf-8") as lines,
    ):

        def write(rows: Iterable[dict[str, Any]]) -> None:
            for row in rows:
                lines.write(canonical_json(row) + "\n")
                to_parquet([row])

        yield write


def export_trl(folder: Path, rows: Sequence[dict[str, Any]], card: Mapping[str, Any]) -> None:
    """Write ``preferences.jsonl``, ``preferences.parquet`` and the card ``README.md`` into `folder`.

    Args:
        card: name, policy, judge, strategy, recipe, origin (what the data are, and whose), diagnostics (name to
            figure) and drops (reason to count).
    """
    with trl_files(folder) as write:
        write(rows)
    write_card(folder, card, len(rows), len({row["prompt_id"] for row in rows}))


def write_card(folder: Path, card: Mapping[str, Any], pairs: int, prompts: int) -> None:
    """The dataset card of a set of so many pairs; `card` as in `export_trl`."""
    tables = {key: _table(card[key]) for key in ("diagnostics", "drops")}
    write_text(folder / "README.md", CARD.format(**{**card, **tables}, pairs=pairs, prompts=prompts))


class SetWriter:
    """Takes preferences with the prompts and answers that they name, of which each is written once."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        records = folder / "records"
        self.folder = folder
        self.pairs = 0
        self._prompts: set[int] = set()
        """Hashes of ids, as are the keys of the answers: the ids themselves would keep much else in memory."""
        self._answers: dict[int, int] = {}
        self._write_rows = stack.enter_context(trl_files(folder))
        self._write_prompts = stack.enter_context(records_file(records / "prompts.parquet", Prompt))
        self._write_answers = stack.enter_context(records_file(records / "completions.parquet", Completion))
        self._write_preferences = stack.enter_context(records_file(records / "preferences.parquet", Preference))

    def add(
        self, prompts: Iterable[Prompt], completions: Iterable[Completion], preferences: Sequence[Preference]
    ) -> None:
        """Write some preferences; of prompts and completions those that they name.

        Raises:
            DataError: two answers with one id have different texts: they come from runs that cannot be told apart.
        """
        asked = {preference.prompt_id for preference in preferences}
        named = {answer for preference in preferences for tier in preference.ranking for answer in tier}
        by_prompt = {prompt.id: prompt for prompt in prompts if prompt.id in asked}
        by_answer = {completion.id: completion for completion in completions if completion.id in named}
        self._write_rows(trl_rows(preferences, by_prompt, by_answer))
        self._write_prompts(prompt for prompt in by_prompt.values() if hash(prompt.id) not in self._prompts)
        self._write_answers(completion for completion in by_answer.values() if self._is_new(completion))
        self._write_preferences(preferences)
        self._prompts.update(map(hash, asked))
        self.pairs += len(preferences)

    def write_card(self, card: Mapping[str, Any]) -> None:
        """The set's card; once all is added."""
        write_card(self.folder, card, self.pairs, len(self._prompts))

    def _is_new(self, completion: Completion) -> bool:
        name, text = hash(completion.id), hash(completion.text)
        known = self._answers.get(name)
        if known not in (None, text):
            raise DataError(f"answer {completion.id} has two texts: sources of one run in two number types do not mix")
        self._answers[name] = text
        return known is None


@contextmanager
def preference_set(out: Path) -> Iterator[SetWriter]:
    """Write a set, some prompts at a time; the folder appears once the block ends well.

    Beside the files of `export_trl` it holds the records that its rows were made of, in ``records``.
    """
    with atomic_folder(out) as folder, ExitStack() as stack:
        yield SetWriter(folder, stack)


def write_preference_set(
    out: Path,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    preferences: Sequence[Preference],
    card: Mapping[str, Any],
) -> None:
    """Preferences as `export_trl` writes them, and as records with the prompts and answers that they name."""
    with preference_set(out) as writer:
        writer.add(prompts, completions, preferences)
        writer.write_card(card)


def _answer(completion: Completion) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": completion.text}]


def _table(figures: Mapping[str, Any]) -> str:
    return "\n".join(
        f"| {name.replace('_', ' ')} | {f'{value:.3f}' if isinstance(value, float) else value} |"
        for name, value in figures.items()
    )
