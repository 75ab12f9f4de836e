"""Somebody else's preferences as a set of ours: what `prefloop prefer --import` and Python users call."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.preferences.export import SetWriter, preference_set
from prefloop.preferences.importers import Imported, imported
from prefloop.preferences.rows import BadRow
from prefloop.store.files import file_hash, held, unused
from prefloop.store.objects import fetched
from prefloop.store.tables import ROWS


def import_file(path: Path, out: Path) -> dict[str, Any]:
    """Somebody else's preference file as a set that `train_folder` reads; every bad row is returned with its reason.

    Raises:
        DataError: the file is missing, of another type, or has no usable row; the first reasons are named.
    """
    path, out = fetched(Path(path)), Path(out)
    with held(out.with_name(f".{out.name}.lock"), out):
        unused(out)
        with preference_set(out) as writer:
            bad = _copy(path, writer)
            drops = {"rows read": writer.pairs, "rows not read": len(bad)}
            made = dict.fromkeys(("policy", "judge", "strategy"), "imported")
            origin = f"Imported from `{path.name}` (SHA-256 `{file_hash(path)}`); its own licence and terms hold."
            writer.write_card(
                {"name": path.stem, **made, "recipe": "none", "origin": origin, "diagnostics": {}, "drops": drops}
            )
        return {"pairs": writer.pairs, "drops": drops, "bad": [asdict(row) for row in bad]}


def _copy(path: Path, writer: SetWriter) -> list[BadRow]:
    """Write what can be used, some rows at a time; the others are returned."""
    some: list[Imported] = []
    bad: list[BadRow] = []

    def flush() -> None:
        answers = [completion for row in some for completion in row.completions]
        writer.add([row.prompt for row in some], answers, [row.preference for row in some])
        some.clear()

    for row in imported(path):
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        some.append(row)
        if len(some) == ROWS:
            flush()
    flush()
    if not writer.pairs:
        reasons = "; ".join(f"line {row.line}: {row.reason}" for row in bad[:3]) or "it is empty"
        raise DataError(f"{path} holds no usable preference: {reasons}")
    return bad
