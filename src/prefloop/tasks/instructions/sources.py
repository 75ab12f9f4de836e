"""Where prompts are read from: the known sets, a file, or a data set of the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from prefloop.errors import ConfigError, DataError
from prefloop.store.files import file_hash
from prefloop.store.objects import address, fetched
from prefloop.store.rows import READABLE
from prefloop.tasks.instructions import lima, ultrafeedback

SNORKEL = "snorkelai/Snorkel-Mistral-PairRM-DPO-Dataset"
"""UltraFeedback prompts in three disjoint parts, one per round of training."""

ITERATIONS = {
    "1": {"train": 19_766, "test": 994},
    "2": {"train": 19_958, "test": 1_000},
    "3": {"train": 19_996, "test": 1_000},
}
"""Rows of each."""

TERMS = "its own licence and terms hold."

_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(.+))?")
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?:-[0-9a-f]+)?$")


@dataclass(frozen=True)
class Source:
    """Files with prompts, and what a card says of them."""

    name: str
    files: Mapping[str, tuple[Path, ...]]
    """By split: ``train``, and ``test`` where the set has its own."""
    origin: str
    rows: Mapping[str, int] = field(default_factory=dict)
    """Rows that each split is known to have."""
    license: str = ""


def open_source(source: str) -> Source:
    """The files of a source, fetched from the Hub if need be.

    Args:
        source: ``lima``; ``ultrafeedback``, or one of its parts as ``ultrafeedback:flan``; ``snorkel``, or another of
            its iterations as ``snorkel:2``; the path or address (``s3://…``) of a ``.jsonl``, ``.json`` or ``.parquet``
            file; or a data set of the Hub, ``owner/name`` or ``owner/name:file``.

    Raises:
        ConfigError: it can be none of these.
        DataError: a file is missing; a data set cannot be read (gated: names the page on which to accept its terms),
            or has several files that could be meant.
    """
    name, _, part = source.partition(":")
    if name == "lima" and not part:
        return Source("lima", _fetched(lima.REPOSITORY, lima.FILES), lima.ORIGIN, lima.ROWS, lima.LICENSE)
    if name == "ultrafeedback":
        return _ultrafeedback(part)
    if name == "snorkel":
        return _snorkel(part or "1")
    if address(source):
        return _file(fetched(source))
    if Path(source).expanduser().exists() or source.startswith((".", "/", "~")) or _is_file_name(source):
        return _file(Path(source).expanduser())
    found = _HUB.fullmatch(source)
    if found is None:
        raise ConfigError(
            f"source {source!r} is unknown: give lima, ultrafeedback, snorkel, a {', '.join(READABLE)} file, "
            "or a Hub data set owner/name or owner/name:file"
        )
    return _hub(found[1], found[2])


def _is_file_name(source: str) -> bool:
    return ":" not in source and Path(source).suffix.lower() in READABLE


def _ultrafeedback(part: str) -> Source:
    if part and part not in ultrafeedback.PARTS:
        raise ConfigError(f"ultrafeedback has no part {part!r}: give one of {', '.join(ultrafeedback.PARTS)}")
    names = tuple(f"{each}.jsonl" for each in ([part] if part else ultrafeedback.SAFE_PARTS))
    files = _fetched(ultrafeedback.REPOSITORY, {"train": names})
    return Source(f"ultrafeedback:{part}" if part else "ultrafeedback", files, ultrafeedback.ORIGIN)


def _snorkel(iteration: str) -> Source:
    if iteration not in ITERATIONS:
        raise ConfigError(f"snorkel has no iteration {iteration!r}: give snorkel:1, snorkel:2 or snorkel:3")
    names = {split: (f"data/{split}_iteration_{iteration}-00000-of-00001.parquet",) for split in ("train", "test")}
    origin = f"The prompts are UltraFeedback's (MIT), in the parts of {SNORKEL} (Apache-2.0), iteration {iteration}."
    return Source(f"snorkel:{iteration}", _fetched(SNORKEL, names), origin, ITERATIONS[iteration])


def _file(path: Path) -> Source:
    if not path.is_file():
        raise DataError(f"{path} does not exist: give a {', '.join(READABLE)} file")
    origin = f"The prompts are from `{path.name}` (SHA-256 `{file_hash(path)}`); {TERMS}"
    return Source(path.stem, {"train": (path,)}, origin)


def _fetched(
    repo_id: str, files: Mapping[str, tuple[str, ...]], revision: str | None = None
) -> dict[str, tuple[Path, ...]]:
    from prefloop.store.hub import download_file

    return {
        split: tuple(download_file(repo_id, name, kind="dataset", revision=revision) for name in names)
        for split, names in files.items()
    }


def _hub(repo_id: str, name: str | None) -> Source:
    if name:
        where = f"`{name}` of the data set {repo_id}"
        return Source(repo_id, _fetched(repo_id, {"train": (name,)}), f"The prompts are from {where}; {TERMS}")
    from prefloop.store.hub import snapshot

    found = snapshot(repo_id, kind="dataset")
    files = _fetched(repo_id, _splits(repo_id, list(found.files)), found.commit)
    return Source(repo_id, files, f"The prompts are from the data set {repo_id} at commit `{found.commit}`; {TERMS}")


def _splits(repo_id: str, names: list[str]) -> dict[str, tuple[str, ...]]:
    """The one data file, or the shards of the one file for training and of the one for tests beside it."""
    data: dict[str, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if path.suffix.lower() in READABLE:
            data.setdefault(f"{path.parent}/{_SHARD.sub('', path.stem)}{path.suffix}", []).append(name)
    if len(data) == 1:
        return {"train": tuple(*data.values())}
    training = [key for key in data if "train" in PurePosixPath(key).name]
    if len(training) != 1:
        choice = ", ".join([shards[0] for shards in data.values()][:5])
        several = f"several files that could be meant: give {repo_id}:FILE, such as {choice}"
        none = f"no {', '.join(READABLE)} file: give another"
        raise DataError(f"the data set {repo_id} has {several if choice else none}")
    folder, _, stem = training[0].rpartition("/")
    test = data.get(f"{folder}/{stem.replace('train', 'test')}", [])
    return {"train": tuple(data[training[0]]), **({"test": tuple(test)} if test else {})}
