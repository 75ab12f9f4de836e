"""A full disk, a file cut short, two processes in one place, a clock that jumps: nothing is lost, nothing doubled."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from annotation_queue import new_item, open_project, verdict
from command_line import prefloop

from prefloop.annotation.queue import Showing, expire, lease, submit
from prefloop.annotation.schema import item, judgement
from prefloop.config.annotation import AnnotationConfig
from prefloop.errors import DataError, StoreError
from prefloop.generation.replies import failure_of
from prefloop.progress import set_quiet
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.files import held
from prefloop.store.journal import FileJournal
from prefloop.store.run_folder import RunFolder, read_manifest
from prefloop.store.tables import read_records, write_records

TESTS = Path(__file__).parent
WAITING = "PREFLOOP_TEST_FIFO"


def by_length(prompt: Prompt, answers: list[str]) -> list[float]:
    return [len(answer) for answer in answers]


def waiting(prompt: Prompt, answers: list[str]) -> list[float]:
    """Says once that it judges, then waits until it is let go on."""
    fifo = os.environ.pop(WAITING, None)
    if fifo:
        Path(fifo).write_text("judging")
        Path(fifo).read_text()
    return by_length(prompt, answers)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    asked = [Prompt.create(({"role": "user", "content": f"q {i}"},), "t", "train") for i in range(64)]
    answers = [
        Completion(f"c{p.id}{i}", p.id, i, 0, f"{p.id} " * (i + 1), (1,), (0.0,), "stop", "p", {}, 1)
        for p in asked
        for i in range(8)
    ]
    write_records(folder / "p.parquet", asked, Prompt)
    write_records(folder / "c.parquet", answers, Completion)
    return folder / "p.parquet", folder / "c.parquet"


def judging(files: tuple[Path, Path], out: Path, *options: str, judge: str = "by_length") -> list[str]:
    words = ["judge", *map(str, files), "--judge", f"test_faults:{judge}", "--out", str(out), *options]
    return [sys.executable, "-m", "prefloop", "--quiet", *words]


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)


@pytest.fixture(scope="module")
def undisturbed(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("undisturbed") / "j.parquet"
    done = run(judging(files, out))
    assert done.returncode == 0, done.stderr
    return out.read_bytes()


class TestFullDisk:
    @pytest.fixture
    def small_disk(self, tmp_path: Path) -> Iterator[Path]:
        disk = tmp_path / "disk"
        disk.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
        if os.geteuid() or subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a disk of 64 kB")
        try:
            yield disk
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_judging_goes_on_where_a_full_disk_stopped_it(
        self, files: tuple[Path, Path], undisturbed: bytes, small_disk: Path
    ) -> None:
        out = small_disk / "j.parquet"
        done = run(judging(files, out))
        assert done.returncode == 5, done.stderr
        assert "disk full while writing" in done.stderr
        assert "--resume" in done.stderr
        (journal,) = small_disk.glob(".j.parquet.*.journal")
        kept = list(FileJournal(journal).entries())
        assert 0 < len(kept) < 4  # 64 prompts, 16 at a time
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
        done = run(judging(files, out, "--resume"))
        assert done.returncode == 0, done.stderr
        assert out.read_bytes() == undisturbed
        assert [p.name for p in small_disk.iterdir()] == ["j.parquet"]

    def test_a_set_is_written_whole_or_not_at_all(
        self, files: tuple[Path, Path], undisturbed: bytes, small_disk: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "j.parquet").write_bytes(undisturbed)
        words = ["prefer", *files, tmp_path / "j.parquet", "--set", "preferences.strategy=all-pairs", "--out"]
        done = prefloop(*words, small_disk / "set")
        assert done.returncode == 5, done.stderr
        assert "disk full while writing" in done.stderr
        assert list(small_disk.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
        assert prefloop(*words, small_disk / "set").returncode == 0

    def test_a_limit_on_file_size_is_named_and_costs_nothing(
        self, files: tuple[Path, Path], undisturbed: bytes, tmp_path: Path
    ) -> None:
        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

        out = tmp_path / "j.parquet"
        done = run(judging(files, out), preexec_fn=limited)
        assert done.returncode == 5, done.stderr
        assert "File too large; finished work is kept" in done.stderr
        done = run(judging(files, out, "--resume"))
        assert (done.returncode, out.read_bytes() == undisturbed) == (0, True), done.stderr


class TestCutFiles:
    @pytest.mark.parametrize("which", [0, 1])
    @pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
    def test_records_cut_short_are_named(
        self, files: tuple[Path, Path], tmp_path: Path, which: int, share: float
    ) -> None:
        mine = [tmp_path / path.name for path in files]
        for path, copy in zip(files, mine, strict=True):
            copy.write_bytes(path.read_bytes())
        content = mine[which].read_bytes()
        mine[which].write_bytes(content[: int(share * len(content))])
        done = prefloop("judge", *mine, "--judge", "test_faults:by_length", "--out", tmp_path / "j.parquet")
        assert done.returncode == 3
        assert f"{mine[which]} is not a readable Parquet file" in done.stderr
        assert sorted(p.name for p in tmp_path.iterdir()) == ["c.parquet", "p.parquet"]

    def test_a_cut_stage_of_a_run_is_computed_again_once_it_is_gone(self, tmp_path: Path) -> None:
        asked = [Prompt.create(({"role": "user", "content": "q"},), "t", "train")]
        with RunFolder.open(tmp_path / "run", {"recipe": {}}, resume=False) as folder:
            folder.records("p.parquet", Prompt, lambda _: asked)
            path = tmp_path / "run" / "p.parquet"
            whole = path.read_bytes()
            path.write_bytes(whole[:-7])
            with pytest.raises(StoreError, match=r"p\.parquet is not a readable .* delete it and go on with --resume"):
                folder.records("p.parquet", Prompt, lambda _: asked)
            path.unlink()
            assert folder.records("p.parquet", Prompt, lambda _: asked) == asked
            assert path.read_bytes() == whole

    def test_a_finished_run_with_a_cut_file_is_refused_by_name(self, tmp_path: Path) -> None:
        with RunFolder.open(tmp_path / "run", {"recipe": {}}, resume=False) as folder:
            folder.document("stages/a.json", lambda: {"x": "y" * 50})
            folder.document("report.json", dict)
            folder.path("report.html").write_text("page")
            folder.finish({"schema": 1})
            folder.check()
            folder.path("report.html").write_text("the page, written again")
            folder.check()
            path = folder.path("stages/a.json")
            path.write_bytes(path.read_bytes()[:20])
            with pytest.raises(StoreError, match=r"a\.json is damaged: it has 20 bytes and had 6\d; .*--resume"):
                folder.check()
            path.unlink()
            with pytest.raises(StoreError, match=r"a\.json is missing"):
                folder.check()

    @pytest.mark.parametrize("name", ["recipe.json", "manifest.json"])
    def test_cut_documents_are_named(self, tmp_path: Path, name: str) -> None:
        with RunFolder.open(tmp_path / "run", {"recipe": {"name": "x"}}, resume=False) as folder:
            folder.finish({"schema": 1})
        path = tmp_path / "run" / name
        path.write_bytes(path.read_bytes()[:-3])
        again = RunFolder.open(tmp_path / "run", {"recipe": {"name": "x"}}, resume=True)
        read = again.__enter__ if name == "recipe.json" else lambda: read_manifest(tmp_path / "run")
        with pytest.raises(StoreError, match=rf"{name} is damaged"):
            read()

    def test_a_line_damaged_inside_a_journal_costs_that_line_and_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        set_quiet(False)
        journal = FileJournal(tmp_path / "j.jsonl")
        for key in "abcd":
            journal.append(key, {"text": key * 10})
        content = bytearray(journal.path.read_bytes())
        lines = content.splitlines(keepends=True)
        content[len(lines[0]) + 4] = 0  # in the second line
        journal.path.write_bytes(bytes(content[:-5]))  # and the last one torn
        again = FileJournal(journal.path)
        assert again.entries() == {"a": {"text": "a" * 10}, "c": {"text": "c" * 10}}
        assert "j.jsonl, line 2 is damaged: that piece of work is done again" in capsys.readouterr().err
        again.append("b", 1)
        assert dict(FileJournal(journal.path).entries()) == {"a": {"text": "a" * 10}, "c": {"text": "c" * 10}, "b": 1}

    def test_half_a_line_that_could_not_be_written_does_not_spoil_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = FileJournal(tmp_path / "j.jsonl")
        journal.append("a", 1)
        with monkeypatch.context() as patch:

            def torn(descriptor: int) -> None:
                os.truncate(journal.path, journal.path.stat().st_size - 3)
                raise OSError(28, "No space left on device")

            patch.setattr("prefloop.store.journal.os.fsync", torn)
            with pytest.raises(StoreError, match="disk full"):
                journal.append("b", 2)
        journal.append("c", 3)
        assert dict(journal.entries()) == dict(FileJournal(journal.path).entries()) == {"a": 1, "c": 3}

    def test_a_set_whose_answers_are_cut_is_refused(self, files: tuple[Path, Path], tmp_path: Path) -> None:
        prefloop("judge", *files, "--judge", "test_faults:by_length", "--out", tmp_path / "j.parquet")
        assert prefloop("prefer", *files, tmp_path / "j.parquet", "--out", tmp_path / "set").returncode == 0
        path = tmp_path / "set" / "records" / "completions.parquet"
        write_records(path, read_records(path, Completion)[:-1], Completion)
        done = prefloop("mix", tmp_path / "set", "--out", tmp_path / "mixed")
        assert (done.returncode, done.stderr.count("completions.parquet lacks answer")) == (DataError.exit_code, 1)
        assert not (tmp_path / "mixed").exists()


HOLDER = """
import sys
from pathlib import Path
from prefloop.store.run_folder import RunFolder
with RunFolder.open(Path(sys.argv[1]), {"recipe": {}}, resume=True):
    print("held", flush=True)
    sys.stdin.read()
"""


class TestTwoProcesses:
    def test_the_second_on_a_run_folder_is_refused_with_the_holder_and_a_kill_lets_go(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert holder.stdout.readline() == "held\n"
        second = run(command, input="")
        assert f"in use by another prefloop process (process {holder.pid} on " in second.stderr
        assert "wait for it or choose --out" in second.stderr
        assert holder.poll() is None  # it did not wait for the first
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (tmp_path / "run" / ".lock").exists()  # left by the dead, and no obstacle
        assert run(command, input="").stdout == "held\n"
        assert not (tmp_path / "run" / ".lock").exists()

    def test_the_second_that_judges_into_a_file_is_refused_and_the_first_goes_on(
        self, files: tuple[Path, Path], undisturbed: bytes, tmp_path: Path
    ) -> None:
        out, fifo = tmp_path / "j.parquet", tmp_path / "fifo"
        os.mkfifo(fifo)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), WAITING: str(fifo)}
        first = subprocess.Popen(judging(files, out, judge="waiting"), env=environment)
        assert fifo.read_text() == "judging"
        for options in ((), ("--resume",)):
            second = run(judging(files, out, *options))
            assert second.returncode == 5
            assert f"{out} is in use by another prefloop process (process {first.pid} on" in second.stderr
        fifo.write_text("go on")
        assert first.wait() == 0
        whole = [(j.completion_ids, j.value) for j in read_records(out, Judgement)]
        (tmp_path / "u").write_bytes(undisturbed)
        assert whole == [(j.completion_ids, j.value) for j in read_records(tmp_path / "u", Judgement)]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["fifo", "j.parquet", "u"]

    def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(self, tmp_path: Path) -> None:
        lock = tmp_path / "x.lock"
        with held(lock, "x"):
            lock.unlink()  # as a holder does at its end, after another has opened the file
            with held(lock, "x"):
                assert lock.exists()


class TestClock:
    @pytest.fixture
    def jumping(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wall clock that goes five hours back and forth at every look."""
        real, turns = time.time, itertools.cycle((0, -5 * 3600, 5 * 3600))
        monkeypatch.setattr(time, "time", lambda: real() + next(turns))
        monkeypatch.setattr(time, "time_ns", lambda: int((real() + next(turns)) * 1e9))

    def test_stages_do_not_look_at_it(
        self, files: tuple[Path, Path], undisturbed: bytes, tmp_path: Path, jumping: None
    ) -> None:
        done = prefloop("judge", *files, "--judge", "test_faults:by_length", "--out", tmp_path / "j.parquet")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "j.parquet").read_bytes() == undisturbed
        with RunFolder.open(tmp_path / "run", {"recipe": {}}, resume=False) as folder:
            folder.document("a.json", dict)
            with pytest.raises(StoreError, match="in use"), held(tmp_path / "run" / ".lock", "run"):
                pass
            folder.finish({})
            folder.check()
        log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
        assert [row["event"] for row in log] == ["start", "end"]
        assert 0 <= log[1]["seconds"] < 60

    def test_files_from_tomorrow_are_no_obstacle(
        self, files: tuple[Path, Path], undisturbed: bytes, tmp_path: Path
    ) -> None:
        """Inputs, journal and lock have dates that lie ahead, as after a clock was set back."""
        out, ahead = tmp_path / "j.parquet", time.time() + 86_400
        (tmp_path / ".j.parquet.lock").write_text("process 1 on another")
        for path in (*files, tmp_path / ".j.parquet.lock"):
            os.utime(path, (ahead, ahead))
        assert run(judging(files, out)).returncode == 0
        assert out.read_bytes() == undisturbed

    @pytest.mark.parametrize("hours", [-5, 5])
    def test_a_queue_loses_and_doubles_no_verdict(self, tmp_path: Path, hours: int) -> None:
        config = AnnotationConfig(overlap=1, extra_raters=0, lease_minutes=10)
        database = open_project(tmp_path / "a.db", config, [new_item(1)], raters=2)
        start = 1_000_000_000_000
        jumped = start + hours * 3_600_000
        with database.writing.begin() as connection:
            first = lease(connection, 1, start)
            assert isinstance(first, Showing)
            assert expire(connection, start - 1_000) == 0  # a small correction takes nobody's item away
            second = lease(connection, 2, jumped)
            assert isinstance(second, Showing)  # not held for hours by one who may have gone
            assert second.item_id == first.item_id
            receipts = [
                submit(connection, rater, verdict(showing.handle), jumped + 1_000)
                for rater, showing in ((2, second), (1, first))
            ]
            rows = connection.execute(sa.select(judgement.c["rater_id", "counted"]).order_by(judgement.c.seq)).all()
            assert [tuple(row) for row in rows] == [(2, True), (1, False)]
            assert len({receipt.seq for receipt in receipts}) == 2
            assert tuple(connection.execute(sa.select(item.c["done", "leased"])).one()) == (1, 0)

    def test_a_server_whose_clock_differs_is_not_waited_for_by_ours(self) -> None:
        theirs = datetime.now(UTC) + timedelta(hours=7)
        headers = {"date": format_datetime(theirs, usegmt=True)}
        headers["retry-after"] = format_datetime(theirs + timedelta(seconds=90), usegmt=True)
        assert failure_of(503, headers, b"", "").wait == 90
