"""What a folder is (data set, adapter, model, reward model), and whether it may be published.

All findings are reported at once. Nothing in a folder is executed or unpickled.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from prefloop.errors import DataError, PrefloopError
from prefloop.models.lineage import LINEAGE_FILE, Lineage, hash_folder
from prefloop.preferences.rows import read_rows
from prefloop.records import content_id
from prefloop.store.files import file_hash
from prefloop.store.hub import token
from prefloop.store.hub_errors import SECRETS

DATASET, ADAPTER, MODEL = "data set", "adapter", "model"
REWARD_MODEL, REWARD_ADAPTER = "reward model", "reward model (adapter)"

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.dill", "*.npy", "*.npz", "*.h5")
"""Files that are executed when they are read, or may be."""

LEFT_OUT = ("work", "__pycache__", "log.jsonl", "*.journal", "*.partial", "*.lock", "*.tmp", "*.source.json")
"""Work in progress, beside everything hidden: never sent."""

SPLITS = ("train", "validation", "test")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "spm.model")
SHOWN = 5
"""Findings shown of each folder, and of each file."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Publishable:
    """A folder that passed its checks."""

    folder: Path
    kind: str
    files: dict[str, Path]
    """Path on this machine by path in the repository."""
    left_out: tuple[str, ...]
    rows: dict[str, int]
    """Rows by data file; of a data set."""
    lineage: dict[str, str]
    """Ids by name: policy, base, reference, recipe, … as far as the folder and its run say."""

    @property
    def repo_kind(self) -> str:
        """The Hub's kind of repository for it."""
        return "dataset" if self.kind == DATASET else "model"


def inspect(folder: Path) -> Publishable:
    """Recognise a folder and check all that would be published of it.

    Raises:
        DataError: it is of no kind that is published, or has faults; names them, five at most.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give a data set, adapter or model folder")
    kind = recognise(folder)
    files, left_out, faults = _files(folder)
    faults += [fault for name, path in files.items() for fault in _unsafe(name, path)]
    rows: dict[str, int] = {}
    if not faults:  # files are opened by their readers only once they are known to be plain and no pickles
        checks = {DATASET: _dataset, ADAPTER: _adapter, REWARD_ADAPTER: _adapter}.get(kind, _model)
        try:
            faults = list(checks(folder, files, rows))
        except PrefloopError as error:
            faults = [str(error)]
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(f"{folder} ({kind}) is not sent: {'; '.join(faults[:SHOWN])}{more}")
    return Publishable(folder, kind, files, left_out, rows, _lineage(folder, kind, files))


def recognise(folder: Path) -> str:
    """The kind of a folder, from what lies in it.

    Raises:
        DataError: none of them.
    """
    if (folder / "adapter_config.json").is_file():
        task = json_object(folder / "adapter_config.json").get("task_type")
        return REWARD_ADAPTER if task == "SEQ_CLS" else ADAPTER
    if (folder / "config.json").is_file():
        architectures = json_object(folder / "config.json").get("architectures") or [""]
        return REWARD_MODEL if "ForSequenceClassification" in str(architectures[0]) else MODEL
    if any(True for _ in data_files(folder)):
        return DATASET
    raise DataError(
        f"{folder} is neither a data set (.parquet or .jsonl files) nor an adapter (adapter_config.json) nor a model "
        "(config.json): give such a folder, for a run its preferences/ or checkpoint/"
    )


def data_files(folder: Path) -> Iterator[Path]:
    """Data files of a data set, sorted: in the folder itself and in data/, not the records beside them."""
    for place in (folder, folder / "data"):
        for path in sorted(place.glob("*")):
            if path.suffix in (".parquet", ".jsonl") and path.is_file() and not _left_out(path.name):
                yield path


def split_of(path: Path) -> str:
    """The split that a data file's name says: ``test-00000-of-00002.parquet`` is of test; train where it says none."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    named = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "test"}
    return next((named.get(w, w) for w in words if named.get(w, w) in SPLITS), "train")


def pickled(path: Path) -> bool:
    """Whether a file's content is a pickle or an archive of pickles, whatever its name says."""
    with path.open("rb") as handle:
        start = handle.read(4)
    if path.suffix == ".safetensors":  # its first bytes are a length, which may look like anything; it is read as such
        return False
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return True
    if start == b"PK\x03\x04" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(fnmatch(name, "*.pkl") for name in archive.namelist())
    return False


def _files(folder: Path) -> tuple[dict[str, Path], tuple[str, ...], list[str]]:
    """Files to send by name, names left out, and faults: links out of the folder, and what is no file."""
    root = folder.resolve()
    files: dict[str, Path] = {}
    left_out: list[str] = []
    faults: list[str] = []
    for place, folders, names in os.walk(folder):
        for name in sorted(folders + names):
            path = Path(place) / name
            relative = path.relative_to(folder).as_posix()
            if _left_out(name):
                left_out.append(relative)
                if name in folders:
                    folders.remove(name)
            elif path.is_symlink() and not path.resolve().is_relative_to(root):
                faults.append(f"{relative} is a link out of the folder: put the file itself there")
            elif path.is_symlink() and path.is_dir():
                faults.append(f"{relative} is a link to a folder: put the files themselves there")
            elif name in names and not path.is_file():
                faults.append(f"{relative} is not a plain file")
            elif name in names:
                files[relative] = path
    return dict(sorted(files.items())), tuple(sorted(left_out)), faults


def _left_out(name: str) -> bool:
    return name.startswith(".") or any(fnmatch(name, pattern) for pattern in LEFT_OUT)


def _unsafe(name: str, path: Path) -> Iterator[str]:
    if any(fnmatch(path.name.lower(), pattern) for pattern in PICKLES) or pickled(path):
        yield f"{name} is, or may be, a pickle: publish safetensors and remove it"
    elif path.suffix not in (".safetensors", ".parquet") and _holds_secret(path):
        yield f"{name} holds an access token or private key: remove it, and revoke it if others saw it"


def _holds_secret(path: Path) -> bool:
    """Whether a file's text holds a token; looked through in overlapping pieces."""
    with path.open("rb") as handle:
        tail = ""
        while piece := handle.read(_CHUNK):
            text = tail + piece.decode("latin-1")
            if has_secret(text):
                return True
            tail = text[-256:]
    return False


def has_secret(text: str) -> bool:
    """Whether `text` holds the Hub token in use, or anything of the form of an access token or private key."""
    own = token()
    return bool(SECRETS.search(text)) or bool(own and own in text)


def _dataset(folder: Path, files: dict[str, Path], rows: dict[str, int]) -> Iterator[str]:
    if "README.md" not in files:
        yield "it has no card README.md: `prefloop prefer` writes one, or describe the data in your own"
    for name, path in files.items():
        if path.suffix in (".parquet", ".jsonl", ".json"):
            rows[name] = 0
            found = 0
            for number, row in read_rows(path):
                rows[name] += 1
                for fault in _row(row) if found < SHOWN else ():
                    found += 1
                    yield f"{name}, row {number}: {fault}"
            if not rows[name]:
                yield f"{name} has no rows"


def _row(row: Any) -> Iterator[str]:
    if not isinstance(row, dict):
        yield "not a JSON object"
        return
    if has_secret(json.dumps(row, ensure_ascii=False, default=str)):
        yield "it holds an access token or private key"
    for name in ("score_chosen", "score_rejected", "weight"):
        value = row.get(name)
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{name} is {value}"
    if "chosen" in row or "rejected" in row:
        sides = [_answer(row.get(name)) for name in ("chosen", "rejected")]
        for name, side in zip(("chosen", "rejected"), sides, strict=True):
            if not side.strip():
                yield f"{name} is empty"
        if sides[0] == sides[1] and sides[0].strip():
            yield "chosen and rejected are equal"


def _answer(value: Any) -> str:
    """The text of a side: of its last message where it is a conversation."""
    if isinstance(value, list):
        value = value[-1] if value else ""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _adapter(folder: Path, files: dict[str, Path], rows: dict[str, int]) -> Iterator[str]:
    config = json_object(folder / "adapter_config.json")
    for key in ("peft_type", "base_model_name_or_path"):
        if not isinstance(config.get(key), str):
            yield f"adapter_config.json has no {key}"
    if "adapter_model.safetensors" not in files:
        yield "it has no adapter_model.safetensors"
    yield from _weights(files)
    if LINEAGE_FILE not in files:
        yield f"it has no {LINEAGE_FILE}, which says what it was trained on: train it with prefloop, or write one"
        return
    yield from _recorded(folder, adapter=True)


def _model(folder: Path, files: dict[str, Path], rows: dict[str, int]) -> Iterator[str]:
    config = json_object(folder / "config.json")
    if config.get("auto_map"):
        yield "config.json asks for code of its own (auto_map), which is not published"
    if not any(name in files for name in TOKENIZERS):
        yield "it has no tokenizer (tokenizer.json)"
    if not any(name.endswith(".safetensors") for name in files):
        yield "it has no weights (*.safetensors)"
    index = "model.safetensors.index.json"
    if index in files:
        missing = sorted(set(json_object(files[index]).get("weight_map", {}).values()) - set(files))
        if missing:
            yield f"it lacks {len(missing)} of the files that {index} names, {missing[0]} first"
    yield from _weights(files)
    if LINEAGE_FILE in files:
        yield from _recorded(folder, adapter=False)


def _weights(files: dict[str, Path]) -> Iterator[str]:
    from safetensors import SafetensorError, safe_open

    for name, path in files.items():
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "numpy") as opened:
                    if not opened.keys():
                        yield f"{name} holds no tensors"
                    if has_secret(json.dumps(opened.metadata())):
                        yield f"{name} holds an access token in its metadata"
            except SafetensorError as error:
                yield f"{name} is damaged ({error}): copy it again"


def _recorded(folder: Path, adapter: bool) -> Iterator[str]:
    """Whether the lineage file speaks of the weights that lie beside it."""
    record = json_object(folder / LINEAGE_FILE)
    base, policy = record.get("base"), record.get("policy")
    if not isinstance(base, str):
        yield f"{LINEAGE_FILE} does not name a base"
        return
    found = hash_folder(folder)
    now = Lineage(base, (found,)) if adapter else Lineage(found)
    if policy not in (None, now.id, replace(now, four_bit=True).id):  # an adapter may have learned on 4-bit weights
        yield f"{LINEAGE_FILE} is of other weights (policy {policy}, these are {now.id}): copy the folder again"


def _lineage(folder: Path, kind: str, files: dict[str, Path]) -> dict[str, str]:
    """Ids that say where a folder came from, as far as it and the run around it know."""
    found: dict[str, str] = {}
    if kind == DATASET:
        found["policy"] = ", ".join(_writers(folder))
        found["data"] = content_id([[name, file_hash(path)] for name, path in files.items() if name != "README.md"])
    elif (folder / LINEAGE_FILE).is_file():
        record = json_object(folder / LINEAGE_FILE)
        found |= {name: str(record[name]) for name in ("policy", "base", "method") if record.get(name)}
    else:
        found["policy"] = Lineage(hash_folder(folder)).id
    run = folder.resolve().parent
    if (run / "stages" / "lineage.json").is_file():
        of_run = json_object(run / "stages" / "lineage.json")
        if kind != DATASET and of_run.get("tuned") in (None, found.get("policy")):
            found["reference"] = str(of_run.get("reference", ""))
        elif kind == DATASET:
            found["policy"] = found["policy"] or str(of_run.get("initial", ""))
    for name in ("manifest.json", "recipe.json"):
        if (run / name).is_file():
            recipe = json_object(run / name).get("recipe_hash") or json_object(run / name).get("hash")
            found |= {"recipe": str(recipe)} if recipe else {}
    if "recipe" not in found and (card := re.search(r"\| recipe hash \| `(\w+)` \|", _text(folder / "README.md"))):
        found["recipe"] = card[1]
    return {name: value for name, value in sorted(found.items()) if value and value != "none"}


def _writers(folder: Path) -> list[str]:
    """Policies that wrote a data set's answers, from its records."""
    records = folder / "records" / "completions.parquet"
    if not records.is_file():
        return []
    return sorted({str(row["policy"]) for _, row in read_rows(records) if row.get("policy")})


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DataError: it cannot be read, or is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): copy the folder again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a JSON object: copy the folder again")
    return content
