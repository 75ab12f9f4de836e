"""Cards (README.md) as the Hub reads them: metadata, how it was made, how to load it, what it cannot do.

A card that lies in the folder is kept word for word, its metadata too; what it lacks is added. Sections written here
stand below one marker, so that a card that was pushed, pulled and pushed again does not grow.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from prefloop.errors import DataError
from prefloop.loop.publishable import (
    ADAPTER,
    REWARD_ADAPTER,
    REWARD_MODEL,
    Publishable,
    data_files,
    json_object,
    split_of,
)
from prefloop.preferences.rows import read_rows
from prefloop.records import canonical_json
from prefloop.store.hub import endpoint

MARKER = "<!-- below: written by prefloop push -->"
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
"""The Hub's size categories by number of rows."""

LIMITS_DATASET = """## Limits

- The labels are a judge's, with its mistakes and its taste (length and style among them); nobody has read every pair.
- The answers were sampled from one policy: they show what it says, not what is right, and may be false or harmful.
- Prompts carry the licence and the terms of where they come from{licence}."""

LIMITS_MODEL = """## Limits

- {what} has the knowledge, the faults and the licence terms of its base; tuning on preferences adds no facts.
- Preferences follow the judge that labelled them: expect its taste, and measure on your own task before use."""


def card_text(found: Publishable, repo_id: str, licence: str | None = None, base: str | None = None) -> str:
    """The card to push for a folder.

    Args:
        licence: the Hub's identifier (``apache-2.0``, ``cc-by-nc-sa-4.0``); none is never guessed.
        base: Hub id of the model that an adapter was trained on, where its own record is a local path.

    Raises:
        DataError: the metadata of the folder's card cannot be read.
    """
    metadata, body = split_card(found.folder / "README.md")
    if found.repo_kind == "dataset":
        head, added, sections = "", _dataset_metadata(found), _dataset_sections(found, repo_id, metadata, licence)
    else:
        base = base or hub_base(found.folder)
        head, added, sections = _model_head(found, repo_id), _model_metadata(found, base), _model_sections(found, base)
    merged = {**added, **metadata}
    merged["tags"] = sorted({*map(str, added["tags"]), *map(str, metadata.get("tags") or ())})
    if licence:
        merged["license"] = licence
    front = yaml.safe_dump(merged, sort_keys=True, allow_unicode=True, default_flow_style=False, width=110)
    sections = load_section(found, repo_id, base) + "\n\n" + sections
    return f"---\n{front}---\n{(body.strip() or head).strip()}\n\n{MARKER}\n\n{sections.strip()}\n"


def split_card(path: Path) -> tuple[dict[str, Any], str]:
    """Metadata and body of a card, without what an earlier push wrote; both empty where there is no card.

    Raises:
        DataError: the metadata is no YAML mapping.
    """
    if not path.is_file():
        return {}, ""
    text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").lstrip("\ufeff")
    found = re.match(r"---\n(.*?)\n?---[ \t]*(?:\n|$)", text, re.DOTALL)
    if not found:
        return {}, text.partition(MARKER)[0]
    try:
        metadata = yaml.safe_load(found[1]) or {}
    except yaml.YAMLError as error:
        raise DataError(f"{path}: its metadata is not YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(metadata, dict):
        raise DataError(f"{path}: its metadata is not a list of key: value")
    return metadata, text[found.end() :].partition(MARKER)[0]


def hub_base(folder: Path) -> str | None:
    """Hub id of the model an adapter was trained on, if what it records is one and no local path."""
    path = folder / "adapter_config.json"
    named = json_object(path).get("base_model_name_or_path") if path.is_file() else None
    is_id = isinstance(named, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", named) and not Path(named).exists()
    return named if is_id else None


def _dataset_metadata(found: Publishable) -> dict[str, Any]:
    splits: dict[str, list[str]] = {}
    for path in _loaded(found):
        splits.setdefault(split_of(path), []).append(path.relative_to(found.folder).as_posix())
    rows = sum(found.rows[name] for names in splits.values() for name in names)
    return {
        "task_categories": ["text-generation"],
        "tags": ["prefloop", *(["preference", "dpo", "trl"] if _is_preference(found) else [])],
        "size_categories": [next((name for top, name in SIZES if rows < top), "n>10M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": names[0] if len(names) == 1 else names} for split, names in splits.items()
                ],
            }
        ],
    }


def _loaded(found: Publishable) -> list[Path]:
    """The data files that `load_dataset` is to read: of the same data in both formats the Parquet one."""
    paths = list(data_files(found.folder))
    parquet = {path.with_suffix("") for path in paths if path.suffix == ".parquet"}
    return [path for path in paths if path.suffix == ".parquet" or path.with_suffix("") not in parquet]


def _is_preference(found: Publishable) -> bool:
    return any("chosen" in row for path in _loaded(found)[:1] for _, row in list(read_rows(path))[:1])


def _dataset_sections(found: Publishable, repo_id: str, metadata: dict[str, Any], licence: str | None) -> str:
    stated = licence or metadata.get("license")
    sections = ["## What it holds", _table("file", "rows", found.rows)]
    for path in _loaded(found):
        figures = _figures(path)
        if figures:
            sections.append(f"Of `{path.name}`:\n\n{_table('figure', 'value', figures)}")
    sections += ["## Prompts", _sources(found)]
    note = f" (this set: `{stated}`)" if stated else "; whoever pushed this set stated no licence for it"
    sections += [LIMITS_DATASET.format(licence=note), _lineage_section(found)]
    return "\n\n".join(section for section in sections if section)


def _figures(path: Path) -> dict[str, str]:
    """Shape of a file of pairs: prompts, pairs, lengths of the two sides, margin of the scores."""
    rows = [row for _, row in read_rows(path) if isinstance(row, dict) and "chosen" in row]
    if not rows:
        return {}
    chosen, rejected = ([len(_text(row[side])) for row in rows] for side in ("chosen", "rejected"))
    longer = sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(rows)
    scores = [(row.get("score_chosen"), row.get("score_rejected")) for row in rows]
    margins = [float(a) - float(b) for a, b in scores if a is not None and b is not None]
    found = {
        "pairs": f"{len(rows):,}",
        "prompts": f"{len({canonical_json(row.get('prompt')) for row in rows}):,}",
        "mean characters, chosen": f"{sum(chosen) / len(rows):.0f}",
        "mean characters, rejected": f"{sum(rejected) / len(rows):.0f}",
        "chosen is the longer": f"{longer:.1%}",
    }
    return found | ({"mean margin of the scores": f"{sum(margins) / len(margins):.3g}"} if margins else {})


def _text(side: Any) -> str:
    if isinstance(side, str):
        return side
    return "".join(str(turn.get("content") or "") for turn in side or () if isinstance(turn, dict))


def _sources(found: Publishable) -> str:
    """Where the prompts came from, counted, as their records say."""
    records = found.folder / "records" / "prompts.parquet"
    if not records.is_file():
        return "Their source is stated above, or by whoever pushed the set."
    counts: dict[str, int] = {}
    for _, row in read_rows(records):
        meta = json.loads(row.get("meta") or "{}")
        said = [f"{key}: {meta[key]}" for key in ("source", "license", "licence") if meta.get(key)]
        name = ", ".join([f"task {row.get('task')}, split {row.get('split')}", *said])
        counts[name] = counts.get(name, 0) + 1
    return _table("source", "prompts", dict(sorted(counts.items())))


def _model_head(found: Publishable, repo_id: str) -> str:
    return f"# {repo_id.partition('/')[2]}\n\n{found.kind.capitalize()} trained with preferences by prefloop."


def _model_metadata(found: Publishable, base: str | None) -> dict[str, Any]:
    reward = found.kind in (REWARD_MODEL, REWARD_ADAPTER)
    adapter = found.kind in (ADAPTER, REWARD_ADAPTER)
    return {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-classification" if reward else "text-generation",
        "tags": ["prefloop", *(["reward-model"] if reward else []), *(["lora"] if adapter else [])],
        **({"base_model": base} if base else {}),
    }


def _model_sections(found: Publishable, base: str | None) -> str:
    sections = []
    if (found.folder / "training.json").is_file():
        training = json_object(found.folder / "training.json")
        kept = {name.replace("_", " "): _figure(value) for name, value in training.items() if _plain(value)}
        sections += ["## Training", _table("figure", "value", kept)]
        dropped = training.get("dropped")
        if isinstance(dropped, dict) and dropped:
            sections.append(_table("dropped before training", "count", dropped))
    if found.kind in (ADAPTER, REWARD_ADAPTER):
        config = json_object(found.folder / "adapter_config.json")
        names = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "task_type")
        sections += ["## Adapter", _table("setting", "value", {n: config[n] for n in names if config.get(n)})]
    what = f"The {found.kind.partition(' (')[0]}"
    return "\n\n".join([*sections, LIMITS_MODEL.format(what=what), _lineage_section(found)])


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _figure(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def load_section(found: Publishable, repo_id: str, base: str | None) -> str:
    """How to load it: with `prefloop pull`, and with the library everybody has."""
    where = f"export HF_ENDPOINT={endpoint()}\n" if "huggingface.co" not in endpoint() else ""
    command = f"```\n{where}prefloop pull {repo_id} --out {repo_id.partition('/')[2]}\n```"
    base = base or "PATH_OR_ID_OF_THE_BASE"
    code = {
        ADAPTER: _CAUSAL.format(base=base) + _PEFT.format(repo=repo_id),
        REWARD_ADAPTER: _SCORER.format(base=base) + _PEFT.format(repo=repo_id),
        REWARD_MODEL: _SCORER.format(base=repo_id).replace(", num_labels=1", ""),
    }.get(found.kind, _CAUSAL.format(base=repo_id))
    if found.repo_kind == "dataset":
        code = _PAIRS.format(repo=repo_id, split=split_of(_loaded(found)[0]))
        code += _TRL if _is_preference(found) else ""
    return f"## How to load it\n\n```python\n{code.strip()}\n```\n\n{command}"


_PAIRS = 'from datasets import load_dataset\n\npairs = load_dataset("{repo}", split="{split}")\n'
_TRL = (
    "\nfrom trl import DPOConfig, DPOTrainer\n\n"
    'trainer = DPOTrainer(model="MODEL", args=DPOConfig(output_dir="out"), train_dataset=pairs)\n'
)
_CAUSAL = (
    "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    'model = AutoModelForCausalLM.from_pretrained("{base}")\ntokenizer = AutoTokenizer.from_pretrained("{base}")\n'
)
_SCORER = _CAUSAL.replace("AutoModelForCausalLM", "AutoModelForSequenceClassification").replace(
    'pretrained("{base}")\ntok', 'pretrained("{base}", num_labels=1)\ntok'
)
_PEFT = '\nfrom peft import PeftModel\n\nmodel = PeftModel.from_pretrained(model, "{repo}")\n'


def _lineage_section(found: Publishable) -> str:
    return (
        "## Lineage\n\n" + _table("what", "id", {k: f"`{v}`" for k, v in found.lineage.items()})
        if found.lineage
        else ""
    )


def _table(left: str, right: str, rows: dict[str, Any]) -> str:
    """A Markdown table; what would break its cells is escaped."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows.items()]
    return "\n".join([f"| {left} | {right} |", "|---|---|", *(f"| {a} | {b} |" for a, b in cells)])
