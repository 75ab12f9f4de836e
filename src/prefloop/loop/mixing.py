"""Preference sets, or files of prompts, mixed by weight into one: what `prefloop mix` and Python users call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefloop.errors import DataError
from prefloop.loop.set_files import Row, are_sets, count_rows, rows_of, rows_out, set_records
from prefloop.preferences.build import asked_text
from prefloop.preferences.mix import check_weights, drawn, quotas
from prefloop.progress import note, progress
from prefloop.store.files import file_hash, held, unused, write_json
from prefloop.store.tables import rows_file

LINEAGE = pa.schema([("id", pa.string()), ("source", pa.string())])
"""``sources.parquet``: each row's id, which is its id in the source, too, and the source as it was given."""


@dataclass
class Share:
    """What one source has, should give and gave."""

    source: str
    sha256: str
    """Of its file of prompts or of preferences."""
    weight: float
    """Its share of the whole, as asked for."""
    rows: int
    repeated: int
    """Rows with the prompt and the answers of an earlier row, of this source or of one before it; never taken."""
    wanted: int = 0
    taken: int = 0
    share: float = 0.0
    """Of the rows taken."""


def mix_sources(
    sources: Sequence[Path], out: Path, weights: Sequence[float] = (), *, rows: int | None = None, seed: int = 1
) -> dict[str, Any]:
    """Mix preference sets, or files of prompts, into folder `out`; returns what each source gave.

    Rows are drawn by seed and without replacement. Those of a source stay in its order and together: training
    shuffles. A source with too few rows gives all it has, and no other takes its place.

    Args:
        weights: one for each source, of any sum; default all equal.
        rows: of the mix; default as many as the weights allow before a source runs dry.

    Raises:
        ConfigError: weights that say nothing, or sets beside prompts.
        DataError: a source cannot be read, or there is nothing to take.
    """
    paths, out = [Path(source) for source in sources], Path(out)
    weights = weights or [1.0] * len(paths)
    check_weights(weights, len(paths))
    sets, work = are_sets(paths), out.with_name(f".{out.name}.parts")
    with held(out.with_name(f".{out.name}.lock"), out):
        unused(out)
        seen: set[bytes] = set()
        with progress("read", sum(map(count_rows, paths)), "rows") as advance:
            usable = [_usable(path, seen, work, advance) for path in paths]
        del seen
        shares = _shares(paths, weights, usable, rows)
        with (
            rows_out(out, sets) as writer,
            rows_file(writer.folder / "sources.parquet", LINEAGE) as to_lineage,
            progress("mix", sum(share.rows for share in shares), "rows") as advance,
        ):
            for place, (path, share) in enumerate(zip(paths, shares, strict=True)):
                marks = iter(drawn(usable[place], share.taken, seed, place))
                for some in rows_of(path, work):
                    kept = [row for row in some if next(marks)]
                    writer.add(kept)
                    to_lineage({"id": row.id, "source": share.source} for row in kept)
                    advance(len(some))
            found = {"rows": sum(s.taken for s in shares), "seed": seed, "sources": [asdict(share) for share in shares]}
            write_json(writer.folder / "mix.json", found)
            writer.finish(_card(out, shares))
        return found


def _usable(path: Path, seen: set[bytes], work: Path, advance: Any) -> bytearray:
    """1 for each row that says something new, 0 for one that repeats."""
    found = bytearray()
    for some in rows_of(path, work):
        for row in some:
            said = content(row)
            found.append(said not in seen)
            seen.add(said)
        advance(len(some))
    return found


def content(row: Row) -> bytes:
    """Hash of a row's prompt and answers: rows with one hash say the same, case and spacing aside."""
    texts = [" ".join(answer.text.lower().split()) for answer in row.answers]
    return blake2b(asked_text(row.prompt) + "\0".join(texts).encode(errors="replace"), digest_size=16).digest()


def _shares(
    paths: Sequence[Path], weights: Sequence[float], usable: Sequence[bytearray], rows: int | None
) -> list[Share]:
    available = [sum(marks) for marks in usable]
    wanted = quotas(weights, available, rows)
    taken = [min(pair) for pair in zip(wanted, available, strict=True)]
    if not sum(taken):
        empty = next((path for path, count in zip(paths, available, strict=True) if not count), paths[0])
        raise DataError(f"nothing can be mixed: {empty} has no row that is not in the sources before it")
    shares = []
    for i, path in enumerate(paths):
        records = set_records(path)
        hashed = records / "preferences.parquet" if path.is_dir() else records
        share = Share(str(path), file_hash(hashed), weights[i] / sum(weights), len(usable[i]), 0, wanted[i], taken[i])
        share.repeated, share.share = share.rows - available[i], taken[i] / sum(taken)
        shares.append(share)
        if share.taken < share.wanted:
            note(
                f"{path} ran dry: {share.taken:,} of {share.wanted:,} rows, a share of {share.share:.1%} and not "
                f"{share.weight:.1%}"
            )
    return shares


def _card(out: Path, shares: Sequence[Share]) -> dict[str, Any]:
    counts = {}
    for share in shares:
        counts |= {f"`{share.source}`: rows": share.rows, f"`{share.source}`: repeated": share.repeated}
        counts[f"`{share.source}`: taken"] = f"{share.taken} ({share.share:.1%}, asked for {share.weight:.1%})"
    origin = "Mixed from the sources above, whose licences and terms hold; `sources.parquet` names each row's."
    return {"name": out.name, "origin": origin, "drops": counts}
