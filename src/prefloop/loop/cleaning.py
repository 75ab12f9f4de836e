"""Training rows that a test set holds, too, taken out: what `prefloop decontaminate` and Python users call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from prefloop.errors import ConfigError, DataError
from prefloop.loop.set_files import Row, are_sets, count_rows, rows_of, rows_out
from prefloop.preferences.contamination import MASKED, WORDS, Contamination, Hit
from prefloop.preferences.held_out import query_of, read_held_out, without_queries
from prefloop.progress import progress
from prefloop.records import canonical_json
from prefloop.store.files import atomic_path, file_hash, held, unused, write_json

SHOWN = 5
"""Test items named in the summary, those that most rows hit first."""


def decontaminate(
    source: Path, against: Sequence[Path], out: Path, *, words: int = WORDS, mask: bool = False
) -> dict[str, Any]:
    """Write the rows of a preference set, or of a file of prompts, that no test set holds to folder `out`.

    A row goes where its prompt (without system messages) or one of its answers has words or a query in common with a
    test item (`prefloop.preferences.contamination`). ``dropped.jsonl`` names each with the item that it hit.

    Args:
        against: test sets: prompts of a run, or other people's (`prefloop.preferences.held_out`).
        words: how many in a row count as leaked.
        mask: drop queries that are the same but for their literals, too; they are counted in any case.

    Returns:
        Counts of rows read, kept, and dropped by reason; and the test items that most rows hit.

    Raises:
        ConfigError: `words` is below 1, or there is no test set.
        DataError: a file cannot be read, or every row would go.
    """
    source, out = Path(source), Path(out)
    if words < 1 or not against:
        raise ConfigError("give --against with a test set, and --words of at least 1")
    sets, work = are_sets([source]), out.with_name(f".{out.name}.parts")
    with held(out.with_name(f".{out.name}.lock"), out):
        unused(out)
        cleaner = Cleaner(_index(map(Path, against), words), mask)
        with (
            rows_out(out, sets) as writer,
            atomic_path(writer.folder / "dropped.jsonl") as temporary,
            temporary.open("w", encoding="utf-8") as dropped,
            progress("decontaminate", count_rows(source), "rows") as advance,
        ):
            for some in rows_of(source, work):
                writer.add(cleaner.clean(some, dropped))
                advance(len(some))
            if not cleaner.kept:
                raise DataError(f"every row of {source} overlaps {', '.join(map(str, against))}: nothing is left")
            hashes = {str(path): file_hash(Path(path)) for path in against}
            found = {**cleaner.summary(), "words": words, "against": hashes}
            write_json(writer.folder / "decontamination.json", found)
            origin = f"What is left of `{source}` without {', '.join(f'`{path}`' for path in against)}."
            counts = {"rows": found["rows"], "kept": found["kept"], **found["dropped"]}
            writer.finish({"name": out.name, "origin": origin, "drops": counts})
        return found


def _index(paths: Iterable[Path], words: int) -> Contamination:
    index = Contamination(words)
    for path in paths:
        for item in read_held_out(path):
            index.add(item)
    return index


class Cleaner:
    """Parts rows into those that no test set holds and the others, which it counts."""

    def __init__(self, index: Contamination, mask: bool) -> None:
        self.kept = 0
        self._index, self._mask = index, mask
        self._masked = 0
        self._reasons: Counter[str] = Counter()
        self._items: Counter[str] = Counter()

    def clean(self, rows: Sequence[Row], dropped: IO[str]) -> list[Row]:
        """The rows that stay; the others are written to `dropped`, each with what it hit."""
        kept = []
        for row in rows:
            where, hit = self._hit(row)
            if hit and hit.reason == MASKED:
                self._masked += 1
                hit = hit if self._mask else None
            if hit is None:
                kept.append(row)
                continue
            self._reasons[f"{hit.reason}, {where}"] += 1
            self._items[f"{hit.item.file}, row {hit.item.row}: {hit.item.text}"] += 1
            dropped.write(canonical_json(_dropped(row, where, hit)) + "\n")
        self.kept += len(kept)
        return kept

    def summary(self) -> dict[str, Any]:
        """Counts so far, and the test items that most rows hit."""
        return {
            "rows": self.kept + self._reasons.total(),
            "kept": self.kept,
            "dropped": dict(sorted(self._reasons.items())),
            "masked": self._masked,
            "most_hit": dict(self._items.most_common(SHOWN)),
            "test_items": len(self._index.items),
        }

    def _hit(self, row: Row) -> tuple[str, Hit | None]:
        """Where in a row the first overlap is, and with what; queries that differ in literals come last."""
        queries = list(_queries(row))
        for where, text in _texts(row):
            if hit := self._index.text_hit(text):
                return where, hit
        for mask in (False, True):
            for where, query in queries:
                if hit := self._index.query_hit(query, mask):
                    return where, hit
        return "", None


def _texts(row: Row) -> Iterator[tuple[str, str]]:
    for message in row.prompt.messages:
        if message["role"] != "system":
            yield "prompt", message["content"]
    for answer in row.answers:
        yield "answer", without_queries(answer.text)


def _queries(row: Row) -> Iterator[tuple[str, str]]:
    gold = row.prompt.meta.get("gold_sql")
    if isinstance(gold, str) and gold:
        yield "prompt", gold
    for answer in row.answers:
        if query := query_of(answer.text):
            yield "answer", query


def _dropped(row: Row, where: str, hit: Hit) -> dict[str, Any]:
    asked = row.prompt.messages[-1]["content"]
    return {
        "id": row.id,
        "prompt_id": row.prompt.id,
        "asked": asked,
        "where": where,
        "reason": hit.reason,
        "found": hit.found,
        "test": asdict(hit.item),
    }
