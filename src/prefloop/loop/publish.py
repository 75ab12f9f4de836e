"""Push a folder to the Hub once it passed its checks, with its card; pull a repository whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefloop.errors import DataError, PrefloopError
from prefloop.loop.cards import card_text, hub_base
from prefloop.loop.publishable import (
    ADAPTER,
    PICKLES,
    REWARD_ADAPTER,
    Publishable,
    inspect,
    json_object,
    pickled,
    recognise,
)
from prefloop.progress import note
from prefloop.store.files import exclusive, unused, write_json, writing
from prefloop.store.hub import Snapshot, check_repo_id, fetch, kind_of, repo_page, snapshot, upload

CARD, ADAPTER_CONFIG = "README.md", "adapter_config.json"


@dataclass(frozen=True)
class Push:
    """What a push sends, or sent."""

    repo_id: str
    kind: str
    """data set, adapter, model, reward model, or reward model (adapter)."""
    url: str
    public: bool
    files: dict[str, int]
    """Bytes by path in the repository."""
    left_out: tuple[str, ...]
    """Work in progress and hidden files of the folder."""
    message: str
    card: str
    notes: tuple[str, ...]
    commit: str | None = None
    """None for a dry run."""
    changed: bool = True
    """False where the Hub held the same bytes already."""


@dataclass(frozen=True)
class Pulled:
    """What a pull wrote."""

    repo_id: str
    kind: str
    revision: str
    commit: str
    files: dict[str, int]
    left_out: tuple[str, ...]
    """Pickles that were not fetched."""


def push_dataset(folder: Path, repo_id: str, **options: Any) -> Push:
    """`push` of a data set; another kind of folder is refused.

    Raises:
        DataError, StoreError: as `push`.
    """
    return _pushed(_expected(folder, "dataset"), repo_id, **options)


def push_model(folder: Path, repo_id: str, **options: Any) -> Push:
    """`push` of an adapter, model or reward model; a data set is refused.

    Raises:
        DataError, StoreError: as `push`.
    """
    return _pushed(_expected(folder, "model"), repo_id, **options)


def push(folder: Path, repo_id: str, **options: Any) -> Push:
    """Check a folder, write its card and send all of it in one commit. The folder itself stays as it is.

    Args:
        folder: a data set, adapter, model or reward model.
        repo_id: ``owner/name``; made if need be, private unless `public`.
        options: public, dry_run (send nothing, ask nothing of the network), licence (the Hub's identifier), base (Hub
            id of an adapter's base, where it was trained on a local copy).

    Raises:
        DataError: the folder does not pass, or a malformed id; nothing is sent.
        StoreError: not logged in, no permission, offline, or the Hub keeps failing.
    """
    return _pushed(inspect(Path(folder)), repo_id, **options)


def _expected(folder: Path, repo_kind: str) -> Publishable:
    found = inspect(Path(folder))
    if found.repo_kind != repo_kind:
        wanted = "a data set" if repo_kind == "dataset" else "a model or adapter"
        raise DataError(f"{folder} is a folder of kind '{found.kind}', not {wanted}; nothing was sent")
    return found


def _pushed(
    found: Publishable,
    repo_id: str,
    *,
    public: bool = False,
    dry_run: bool = False,
    licence: str | None = None,
    base: str | None = None,
) -> Push:
    check_repo_id(repo_id)
    card = card_text(found, repo_id, licence, base)
    files: dict[str, Path | bytes] = {**found.files, CARD: card.encode()}
    notes = _base(found, files, base)
    plan = Push(
        repo_id=repo_id,
        kind=found.kind,
        url=repo_page(repo_id, found.repo_kind),
        public=public,
        files={name: _size(content) for name, content in sorted(files.items())},
        left_out=found.left_out,
        message=commit_message(found),
        card=card,
        notes=notes,
    )
    if dry_run:
        return plan
    for line in notes:
        note(line)
    sent = upload(
        repo_id,
        found.repo_kind,
        files,
        public=public,
        message=plan.message,
        description=commit_description(found),
    )
    return replace(plan, commit=sent.commit, changed=sent.changed)


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _base(found: Publishable, files: dict[str, Path | bytes], base: str | None) -> tuple[str, ...]:
    """Name an adapter's base as `base` in what is sent; what to say where its record is a local path.

    The name is no part of an adapter's lineage, which knows its base by hash.
    """
    if found.kind not in (ADAPTER, REWARD_ADAPTER):
        if base:
            raise DataError(f"{found.folder} is a folder of kind '{found.kind}': --base is of adapters alone")
        return ()
    if base:
        check_repo_id(base)
        config = json_object(found.files[ADAPTER_CONFIG])
        text = json.dumps({**config, "base_model_name_or_path": base}, sort_keys=True, indent=1, ensure_ascii=False)
        files[ADAPTER_CONFIG] = f"{text}\n".encode()
    elif not hub_base(found.folder):
        return (
            f"{ADAPTER_CONFIG} names a base on this machine, which others cannot load: give --base owner/name "
            "if it is on the Hub",
        )
    return ()


def commit_message(found: Publishable) -> str:
    """One line: kind, policy and recipe.

    Example: ``Push adapter: policy 0f3c…, recipe 77ab… (prefloop 0.1.0)``.
    """
    ids = [f"{name} {found.lineage[name]}" for name in ("policy", "reference", "recipe") if name in found.lineage]
    return f"Push {found.kind}{': ' if ids else ''}{', '.join(ids)} (prefloop {version('prefloop')})"[:400]


def commit_description(found: Publishable) -> str:
    """Lineage in full, one id a line."""
    return "\n".join(f"{name}: {value}" for name, value in found.lineage.items())


def pull(
    repo_id: str, out: Path, *, kind: str | None = None, revision: str | None = None, skip_pickles: bool = False
) -> Pulled:
    """Write a repository to the folder `out`, whole or not at all; ``OUT.source.json`` beside it says what it was.

    An interrupted pull keeps the files it finished in a hidden folder beside `out` and goes on with them.

    Args:
        kind: ``dataset`` or ``model``; without it the one of this name that exists, a model first.
        revision: branch, tag or commit; default the main branch.
        skip_pickles: fetch all but pickled files, in place of refusing a repository that holds some.

    Raises:
        DataError: missing, private, gated, offline, or it holds pickles.
        StoreError: `out` exists or cannot be written.
    """
    out = Path(out)
    unused(out)
    found = snapshot(repo_id, kind or kind_of(repo_id), revision)
    pickles = tuple(name for name in found.files if _pickle_name(name))
    if pickles and not skip_pickles:
        raise DataError(
            f"{repo_page(repo_id, found.kind)} holds pickles, which can run code ({', '.join(pickles[:3])}"
            f"{', …' if len(pickles) > 3 else ''}): pull the rest with --skip-pickles"
        )
    names = [name for name in found.files if name not in pickles]
    if not names:
        raise DataError(f"{repo_page(repo_id, found.kind)} holds no file to pull")
    with exclusive(out):
        unused(out)
        partial = _fetched(found, names, out)
        result = Pulled(
            repo_id=repo_id,
            kind=_recognised(partial, found),
            revision=revision or "main",
            commit=found.commit,
            files={name: found.files[name] for name in names},
            left_out=pickles,
        )
        _install(partial, out, result)
    out.with_name(f".{out.name}.lock").unlink(missing_ok=True)
    return result


def _pickle_name(name: str) -> bool:
    return any(fnmatch(name.rpartition("/")[2].lower(), pattern) for pattern in PICKLES)


def _fetched(found: Snapshot, names: Sequence[str], out: Path) -> Path:
    """A hidden folder beside `out` with exactly these files."""
    partial = out.with_name(f".{out.name}.{found.commit[:12]}.partial")
    for other in out.parent.glob(f".{out.name}.*.partial"):
        if other != partial:  # of an interrupted pull of another commit
            shutil.rmtree(other)
    with writing(out):
        partial.mkdir(parents=True, exist_ok=True)
    fetch(found, partial, names)
    with writing(out):
        shutil.rmtree(partial / ".cache", ignore_errors=True)  # the client's notes on what it fetched
    wrong = [name for name in names if (partial / name).stat().st_size != found.files[name]]
    hidden = [name for name in names if pickled(partial / name)]
    if wrong or hidden:
        shutil.rmtree(partial)
        name, fault = (wrong[0], "arrived cut short") if wrong else (hidden[0], "is a pickle under another name")
        raise DataError(f"{repo_page(found.repo_id, found.kind)}: {name} {fault}; nothing was written")
    return partial


def _recognised(folder: Path, found: Snapshot) -> str:
    try:
        return recognise(folder)
    except PrefloopError:  # somebody else's repository may be of a kind that is not pushed from here
        return f"other {found.kind}"


def _install(partial: Path, out: Path, result: Pulled) -> None:
    source = {
        "repo": result.repo_id,
        "kind": result.kind,
        "revision": result.revision,
        "commit": result.commit,
        "left_out": list(result.left_out),
    }
    write_json(out.with_name(f"{out.name}.source.json"), source)
    with writing(out):
        if out.is_dir():
            out.rmdir()
        partial.replace(out)
