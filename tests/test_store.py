"""Records, journals and run folders: whole or not at all, and owned by one recipe."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.errors import DataError, StoreError
from prefloop.records import Completion, Judgement, Preference, Prompt, canonical_json, content_id
from prefloop.store import files
from prefloop.store.cache import Cache
from prefloop.store.files import atomic_path, read_json, write_json, write_text, writing
from prefloop.store.journal import FileJournal
from prefloop.store.run_folder import RunFolder, read_manifest
from prefloop.store.tables import read_records, records_file, write_records

PROMPT = Prompt.create(({"role": "user", "content": "Žluťoučký?"},), "t", "test", {"gold": None, "n": [1, 2.5]})
COMPLETION = Completion("c", PROMPT.id, -1, 0, "é", (1, 2), (-0.5, -1.25), "stop", "p", {"k": 1}, 7)
JUDGEMENT = Judgement.create(PROMPT.id, ("c",), "j", "score", None, raw={"rows": [[None, 1.5]]})
PREFERENCE = Preference.pair(PROMPT.id, "a", "b", 1.0, 0.25, "best-worst/j", weight=0.5)


@pytest.mark.parametrize("record", [PROMPT, COMPLETION, JUDGEMENT, PREFERENCE], ids=lambda r: type(r).__name__)
def test_a_record_comes_back_as_it_was(tmp_path: Path, record: object) -> None:
    path = tmp_path / "x.parquet"
    write_records(path, [record], type(record))
    assert read_records(path, type(record)) == [record]


def test_the_same_records_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_records(tmp_path / name, [COMPLETION] * 3, Completion)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    write_records(tmp_path / "x.parquet", [PROMPT], Prompt)
    with pytest.raises(DataError, match=r"x\.parquet holds Prompt/1, not Completion/1"):
        read_records(tmp_path / "x.parquet", Completion)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), (b"PAR1 rubbish", "not a readable Parquet")]
)
def test_missing_and_damaged_files_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_records(path, Prompt)


def test_a_preference_names_its_pair() -> None:
    assert (PREFERENCE.chosen, PREFERENCE.rejected, PREFERENCE.margin) == ("a", "b", 0.75)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)))
def test_canonical_json_reads_back_and_ignores_key_order(value: object) -> None:
    assert json.loads(canonical_json(value)) == value
    if isinstance(value, dict):
        assert content_id(value) == content_id(dict(reversed(value.items())))


def test_a_torn_line_is_cut_off_and_done_again(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "j.jsonl")
    journal.append("a", [1])
    journal.append("b", [2])
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-4])  # killed in the middle of the second line
    again = FileJournal(journal.path)
    assert again.entries() == {"a": [1]}
    again.append("b", [2])
    assert journal.path.read_bytes() == whole


@given(cut=st.integers(min_value=0))
def test_any_torn_journal_opens(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("j") / "j.jsonl"
    lines = [canonical_json({"key": str(i), "value": "é" * i}).encode() + b"\n" for i in range(5)]
    path.write_bytes(b"".join(lines)[: cut % (sum(map(len, lines)) + 1)])
    entries = FileJournal(path).entries()
    assert list(entries) == [str(i) for i in range(len(entries))]


def test_a_full_disk_keeps_the_old_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StoreError, match=r"disk full while writing .*x\.json.*--resume"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_read_only_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)  # root may write anywhere, so the refusal is simulated
    with (
        pytest.raises(StoreError, match="read-only; choose another with --out"),
        RunFolder.open(tmp_path / "r", {}, False),
    ):
        pass


def test_a_run_folder_belongs_to_one_recipe(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "r", {"training": {"beta": 0.1}}, resume=False):
        pass
    with RunFolder.open(tmp_path / "r", {"training": {"beta": 0.1}}, resume=True):
        pass
    with (
        pytest.raises(StoreError, match=r"another recipe \(it differs in training\.beta\)"),
        RunFolder.open(tmp_path / "r", {"training": {"beta": 0.2}}, resume=True),
    ):
        pass
    with (
        pytest.raises(StoreError, match="--resume"),
        RunFolder.open(tmp_path / "r", {"training": {"beta": 0.1}}, False),
    ):
        pass


def test_two_processes_cannot_share_a_run(tmp_path: Path) -> None:
    with (
        RunFolder.open(tmp_path / "r", {}, False),
        pytest.raises(StoreError, match="in use by another"),
        RunFolder.open(tmp_path / "r", {}, True),
    ):
        pass


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with (
        pytest.raises(StoreError, match=r"not a run folder \(it holds thesis\.tex\)"),
        RunFolder.open(tmp_path, {}, False),
    ):
        pass
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["thesis.tex"]


def test_a_stage_is_computed_once(tmp_path: Path) -> None:
    calls = []

    def compute(journal: FileJournal) -> list[Prompt]:
        calls.append(journal.path)
        return [PROMPT]

    with RunFolder.open(tmp_path / "r", {}, False) as folder:
        assert folder.records("p.parquet", Prompt, compute) == folder.records("p.parquet", Prompt, compute) == [PROMPT]
        assert len(calls) == 1
        folder.finish({"schema": 1})
    assert set(read_manifest(tmp_path / "r")["files"]) == {"p.parquet", "recipe.json"}
    assert not (tmp_path / "r" / "work").exists()


def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "r", {}, False):
        pass
    with pytest.raises(StoreError, match="not finished: go on with"):
        read_manifest(tmp_path / "r")
    with pytest.raises(StoreError, match="is not a run folder"):
        read_manifest(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_what_a_rust_library_says_of_a_full_disk_is_understood(tmp_path: Path) -> None:
    def fill_the_disk() -> None:
        with atomic_path(tmp_path / "w.safetensors") as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(StoreError, match=r"disk full while writing .*w\.safetensors"):
        fill_the_disk()
    assert list(tmp_path.iterdir()) == []


def test_other_failures_inside_a_write_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "x"):
        1 / 0  # noqa: B018 (raises)


def test_what_cannot_be_read_while_a_stage_is_computed_is_no_failed_write(tmp_path: Path) -> None:
    """In the block, in rows that are made as they are handed over, and in a run's stage."""
    missing = tmp_path / "questions.csv"

    def made() -> Iterator[Prompt]:
        yield PROMPT
        missing.read_text()

    with pytest.raises(FileNotFoundError, match=r"questions\.csv"), records_file(tmp_path / "a.parquet", Prompt):
        missing.read_text()
    with pytest.raises(FileNotFoundError, match=r"questions\.csv"):
        write_records(tmp_path / "b.parquet", made(), Prompt)
    with (
        RunFolder.open(tmp_path / "r", {}, False) as folder,
        pytest.raises(FileNotFoundError, match=r"questions\.csv"),
    ):
        folder.written("p.parquet", Prompt, lambda _: [made()])
    assert not list(tmp_path.rglob("*.p*"))


@pytest.mark.parametrize("when", ["write_table", "close"])
def test_rows_that_cannot_be_written_are_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def full(writer: object, *_: object) -> None:
        writer.is_open = False  # nothing is left to close
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"prefloop.store.tables.pq.ParquetWriter.{when}", full)
    with pytest.raises(StoreError, match=r"disk full while writing .*a\.parquet"):
        write_records(tmp_path / "a.parquet", [PROMPT], Prompt)
    assert list(tmp_path.iterdir()) == []


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(StoreError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")
    with pytest.raises(StoreError, match=r"b\.json cannot be read"):
        read_json(tmp_path / "b.json")


def test_a_manifest_counts_files_of_inner_runs_and_none_that_change(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "r", {"recipe": 1}, False) as folder:
        with RunFolder.open(tmp_path / "r" / "seeds" / "2", {"recipe": 2}, False) as inner:
            inner.log("start")
            inner.journal("x").append("k", 1)
        folder.finish({})
    assert sorted(read_manifest(tmp_path / "r")["files"]) == ["recipe.json", "seeds/2/recipe.json"]
    assert not (tmp_path / "r" / "seeds" / "2" / "work").exists()


def test_overwrite_empties_a_run_only_once_nobody_uses_it(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, {"recipe": 1}, False) as folder:
        write_json(folder.path("stages/a.json"), 1)
        with pytest.raises(StoreError, match="in use"), RunFolder.open(tmp_path, {"recipe": 2}, False, overwrite=True):
            pass
        assert folder.path("stages/a.json").exists()
    with RunFolder.open(tmp_path, {"recipe": 2}, False, overwrite=True) as folder:
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "recipe.json"]


def test_a_cache_is_shared_and_the_first_value_stays(tmp_path: Path) -> None:
    path = tmp_path / "replies" / "a.db"
    one, other = Cache(path), Cache(path)
    one.append("k", {"text": "é", "n": 1.5})
    other.append("k", "late")
    other.append("l", None)
    assert dict(one.entries()) == {"k": {"text": "é", "n": 1.5}, "l": None}
    assert ("k" in other.entries(), "m" in other.entries(), len(other.entries())) == (True, False, 2)


def test_a_damaged_cache_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"a\.db cannot be used .*: delete it, or set PREFLOOP_CACHE"):
        Cache(tmp_path / "a.db")


def test_what_people_are_judging_is_no_part_of_the_manifest(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", {"recipe": {}}, resume=False) as folder:
        folder.document("a.json", dict)
        (tmp_path / "run" / "annotation.db").write_bytes(b"x")
        (tmp_path / "run" / "annotation.db-wal").write_bytes(b"y")
        folder.finish({"schema": 1})
    assert "a.json" in read_manifest(tmp_path / "run")["files"]
    assert not [name for name in read_manifest(tmp_path / "run")["files"] if name.startswith("annotation")]
