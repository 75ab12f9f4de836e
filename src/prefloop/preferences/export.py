"""Preference sets as TRL reads them: JSON lines, Parquet, and a dataset card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prefloop.records import Completion, Preference, Prompt
from prefloop.store.files import atomic_path, write_jsonl, write_text
from prefloop.store.tables import write_records

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


def export_trl(folder: Path, rows: list[dict[str, Any]], card: Mapping[str, Any]) -> None:
    """Write ``preferences.jsonl``, ``preferences.parquet`` and the card ``README.md`` into `folder`.

    Args:
        card: name, policy, judge, strategy, recipe, origin (what the data are, and whose), diagnostics (name to
            figure) and drops (reason to count).
    """
    write_jsonl(folder / "preferences.jsonl", rows)
    with atomic_path(folder / "preferences.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=TRL_SCHEMA), temporary, compression="zstd")
    prompts = len({row["prompt_id"] for row in rows})
    tables = {key: _table(card[key]) for key in ("diagnostics", "drops")}
    write_text(folder / "README.md", CARD.format(**{**card, **tables}, pairs=len(rows), prompts=prompts))


def write_preference_set(
    out: Path,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    preferences: Sequence[Preference],
    card: Mapping[str, Any],
) -> None:
    """Preferences as `export_trl` writes them, and as records with the prompts and answers that they name."""
    named = {answer for preference in preferences for tier in preference.ranking for answer in tier}
    kept = {preference.prompt_id for preference in preferences}
    write_records(out / "records" / "prompts.parquet", [p for p in prompts if p.id in kept], Prompt)
    write_records(out / "records" / "completions.parquet", [c for c in completions if c.id in named], Completion)
    rows = trl_rows(preferences, {p.id: p for p in prompts}, {c.id: c for c in completions})
    export_trl(out, rows, card)
    write_records(out / "records" / "preferences.parquet", preferences, Preference)


def _answer(completion: Completion) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": completion.text}]


def _table(figures: Mapping[str, Any]) -> str:
    return "\n".join(
        f"| {name.replace('_', ' ')} | {f'{value:.3f}' if isinstance(value, float) else value} |"
        for name, value in figures.items()
    )
