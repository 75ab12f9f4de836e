"""Run folders and inputs in object storage: a real S3 protocol on a local server, its faults, two writers, two machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import prefloop
from hub_server import HubServer
from ports import free_port
from test_kill import SMALL, contents

from prefloop.errors import DataError, StoreError
from prefloop.loop.prompt_files import read_prompts
from prefloop.records import Prompt
from prefloop.store.lease import LEASE_S, Lease
from prefloop.store.objects import address, fetched
from prefloop.store.remote import working_folder
from prefloop.store.remote_journals import RemoteJournals
from prefloop.store.run_folder import MANIFEST, RunFolder, read_manifest
from prefloop.store.tables import read_records, write_records

pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")

IDENTITY = {"recipe": {"name": "toy"}}
PROMPTS = [Prompt.create(({"role": "user", "content": f"how many {i}"},), "toy", "train") for i in range(3)]


class S3:
    """A server that speaks S3, and can be stopped and started again with what it holds."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.again()

    def stop(self) -> None:
        self._server.stop()

    def again(self) -> None:
        self._server = server.ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    started = S3()
    yield started
    started.stop()


@pytest.fixture
def bucket(s3: S3, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A bucket of this test alone; the address and keys are where every S3 tool looks for them."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3.url,
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret-of-this-machine",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{abs(hash(request.node.name)) % 10**9}"
    fs(name).mkdir(name)
    return name


def fs(bucket: str) -> Any:
    place = address(f"s3://{bucket}/x")
    assert place is not None
    return place.filesystem()


def there(bucket: str, folder: str = "run") -> dict[str, bytes]:
    files = fs(bucket)
    return {path[len(f"{bucket}/{folder}/") :]: files.cat_file(path) for path in files.find(f"{bucket}/{folder}")}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Go on as another machine: nothing that was kept here before is there."""

    def switch(name: str) -> None:
        monkeypatch.setenv("PREFLOOP_CACHE", str(tmp_path / name))

    return switch


def work(folder: RunFolder, calls: list[str], stop: bool = False) -> None:
    """Two stages and a file that no stage wrote."""

    def first(journal: Any) -> list[Prompt]:
        calls.append("first")
        journal.append("half", 1)
        return PROMPTS

    def second() -> int:
        calls.append("second")
        if stop:
            raise KeyboardInterrupt
        return 2

    folder.records("prompts.parquet", Prompt, first)
    folder.document("stages/second.json", second)
    (folder.path("checkpoint/model.bin")).write_bytes(b"weights")
    folder.finish({"schema": 1})


def test_addresses() -> None:
    for text in ("s3://bucket/runs/a", "s3:/bucket/runs/a", "s3://bucket/runs/a/"):
        assert str(address(Path(text))) == str(address(text)) == "s3://bucket/runs/a"
    for text in ("runs/a", "/s3:/a", "s3", "C:/x", "lima:file", "file://x"):
        assert address(text) is None


def test_a_run_is_the_same_files_there_and_the_manifest_came_last(bucket: str, tmp_path: Path) -> None:
    for out in (Path(f"s3://{bucket}/run"), tmp_path / "local"):
        with RunFolder.open(out, IDENTITY, resume=False) as folder:
            work(folder, [])
    local = {str(p.relative_to(tmp_path / "local")): p for p in (tmp_path / "local").rglob("*") if p.is_file()}
    found = there(bucket)
    assert set(found) == set(local) - {".lock"}  # and no lease, no journal, no lock
    assert {n: b for n, b in found.items() if n != "log.jsonl"} == {
        n: local[n].read_bytes() for n in found if n != "log.jsonl"
    }
    stamps = {n: fs(bucket).info(f"{bucket}/run/{n}")["LastModified"] for n in found if n != "log.jsonl"}
    assert max(stamps.values()) == stamps[MANIFEST]


def test_another_machine_goes_on_with_what_stands_there(bucket: str, machine: Callable[[str], None]) -> None:
    out, calls = Path(f"s3://{bucket}/run"), []
    machine("a")
    with pytest.raises(KeyboardInterrupt), RunFolder.open(out, IDENTITY, resume=False) as folder:
        work(folder, calls, stop=True)
    assert set(there(bucket)) == {"recipe.json", "prompts.parquet", "log.jsonl"}
    machine("b")
    with pytest.raises(StoreError, match=f"s3://{bucket}/run already holds this run: add --resume"):
        RunFolder.open(out, IDENTITY, resume=False).__enter__()
    with pytest.raises(StoreError, match=f"s3://{bucket}/run was made by another recipe .*recipe.name"):
        RunFolder.open(out, {"recipe": {"name": "other"}}, resume=True).__enter__()
    with RunFolder.open(out, IDENTITY, resume=True) as folder:
        work(folder, calls)
    assert calls == ["first", "second", "second"]  # what stood was not computed again
    machine("a")  # which has less than there is, and an older log
    with RunFolder.open(out, IDENTITY, resume=True) as folder:
        assert folder.finished
        assert read_records(folder.root / "prompts.parquet", Prompt) == PROMPTS
    assert json.loads(there(bucket)[MANIFEST])["schema"] == 1
    kept_as_it_is(out)


KILLED = """
import sys
from pathlib import Path
from prefloop.records import Prompt
from prefloop.store import remote_journals
from prefloop.store.run_folder import RunFolder
remote_journals.EVERY_S = 0.05
def first(journal):
    for number in range(3):
        journal.append(f"chunk {number}", number)
    while True:  # until it is killed
        remote_journals.threading.Event().wait(60)
with RunFolder.open(Path(sys.argv[1]), {"recipe": {"name": "toy"}}, resume=False) as folder:
    folder.records("prompts.parquet", Prompt, first)
"""


def test_what_a_killed_machine_had_of_a_stage_is_not_done_again(bucket: str, machine: Callable[[str], None]) -> None:
    out, journal = Path(f"s3://{bucket}/run"), f"{bucket}/run/.journal/work/prompts.jsonl"
    machine("a")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out)], stderr=subprocess.PIPE)
    lines = b""
    while lines.count(b"\n") < 3:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)  # between looks at what has arrived
        found = fs(bucket).find(journal)
        lines = b"".join(fs(bucket).cat_file(piece) for piece in found)
    process.kill()
    process.wait()
    (lease,) = fs(bucket).ls(f"{bucket}/run/.lease", detail=False)
    fs(bucket).rm_file(lease)
    seen: dict[str, int] = {}

    def first(journal: Any) -> list[Prompt]:
        seen.update(journal.entries())
        return PROMPTS

    machine("b")
    with RunFolder.open(out, IDENTITY, resume=True) as folder:
        folder.records("prompts.parquet", Prompt, first)
        assert fs(bucket).find(journal) == []  # the stage's file stands
    assert seen == {"chunk 0": 0, "chunk 1": 1, "chunk 2": 2}
    assert set(there(bucket)) == {"recipe.json", "prompts.parquet", "log.jsonl"}


def test_a_journal_arrives_in_whole_lines_and_the_longer_one_counts(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = address(f"s3://{bucket}/run")
    here, elsewhere = tmp_path / "here" / "work", tmp_path / "elsewhere" / "work"

    def copies(folder: Path) -> RemoteJournals:
        return RemoteJournals(fs(bucket), place, folder.parent, "work/*.jsonl", lambda: None)

    here.mkdir(parents=True)
    sender = copies(here)
    for content in ("one\ntw", "one\ntwo\nthr", "one\ntwo\nthree\n"):
        (here / "a.jsonl").write_text(content)
        sender.send()
    pieces = fs(bucket).find(f"{bucket}/run/.journal")
    assert [fs(bucket).cat_file(piece) for piece in pieces] == [b"one\n", b"two\n", b"three\n"]
    copies(elsewhere).fetch()
    assert (elsewhere / "a.jsonl").read_text() == "one\ntwo\nthree\n"
    (elsewhere / "a.jsonl").write_text("one\ntwo\nthree\nfour\n")  # and that was not sent
    again = copies(elsewhere)
    again.fetch()
    again.send()
    copies(here).fetch()
    assert (here / "a.jsonl").read_text() == "one\ntwo\nthree\nfour\n"
    (here / "a.jsonl").write_text("anew\n")
    sender.send()
    assert [fs(bucket).cat_file(p) for p in fs(bucket).find(f"{bucket}/run/.journal")] == [b"anew\n"]
    (here / "a.jsonl").unlink()
    sender.send()
    assert fs(bucket).find(f"{bucket}/run/.journal") == []


class Counting:
    """A file system that notes how much goes through it at once."""

    def __init__(self, files: Any) -> None:
        self._files, self.sent, self.read = files, list[int](), list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def pipe_file(self, path: str, content: bytes) -> None:
        self.sent.append(len(content))
        self._files.pipe_file(path, content)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        found: bytes = self._files.cat_file(path, start=start, end=end)
        self.read.append(len(found))
        return found


def test_a_journal_of_any_size_goes_in_small_pieces_and_on_from_where_its_copy_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefloop.store.remote_journals.PIECE", 20)
    place = address(f"memory://{tmp_path.name}/run")
    files = Counting(place.filesystem())

    def copies(machine: str) -> RemoteJournals:
        return RemoteJournals(files, place, tmp_path / machine, "work/*.jsonl", lambda: None)

    def journal(machine: str) -> Path:
        path = tmp_path / machine / "work" / "a.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    lines = [f"line {number:02}\n" for number in range(9)]  # of 8 bytes: two to a piece
    lines.insert(4, "x" * 50 + "\n")  # one that is longer than a piece
    journal("a").write_text("".join(lines) + "torn")
    copies("a").send()
    assert files.sent == [16, 16, 51, 16, 16, 8]
    copies("b").fetch()
    assert journal("b").read_text() == "".join(lines)
    assert max(files.read) == 20
    files.sent.clear()
    journal("b").write_text("".join(lines) + "more\n")
    again = copies("b")
    again.fetch()
    again.send()
    assert files.sent == [5]  # what was there stays
    copies("c").fetch()
    assert journal("c").read_text() == "".join(lines) + "more\n"
    journal("c").write_text("another\n" * 30)  # longer, and not what the copy begins with
    again = copies("c")
    again.fetch()
    again.send()
    copies("d").fetch()
    assert journal("d").read_text() == "another\n" * 30
    copies("d").clear()
    assert files.find(str(place)) == []


def kept_as_it_is(out: Path) -> None:
    """What is the same on both sides is not fetched again: the file stays the one it was."""
    known = working_folder(out) / "prompts.parquet"
    before = known.stat().st_ino
    with RunFolder.open(out, IDENTITY, resume=True) as folder:
        assert folder.finished
    assert known.stat().st_ino == before


def test_runs_inside_a_run_are_sent_stage_by_stage_too(bucket: str) -> None:
    with RunFolder.open(Path(f"s3://{bucket}/run"), IDENTITY, resume=False) as whole:
        with RunFolder.open(whole.root / "seeds" / "2", {"seed": 2}, resume=True, within=whole) as inner:
            inner.document("stages/one.json", lambda: 1)
            assert "seeds/2/stages/one.json" in there(bucket)
        whole.inner("rounds/1").document("two.json", lambda: 2)
        whole.path("work/training/state.bin").write_bytes(b"state")
        whole.path("annotation.db-wal").write_bytes(b"log")
        whole.path("workers.json").write_bytes(b"{}")
    assert {"rounds/1/two.json", "workers.json"} <= set(there(bucket))
    assert not any("training" in name or "annotation.db" in name for name in there(bucket))


def test_what_was_removed_there_is_sent_again(bucket: str) -> None:
    out = Path(f"s3://{bucket}/run")
    with RunFolder.open(out, IDENTITY, resume=False) as folder:
        work(folder, [])
    before = there(bucket)
    fs(bucket).rm(f"{bucket}/run", recursive=True)
    with RunFolder.open(out, IDENTITY, resume=True):
        pass
    assert there(bucket) == before


def test_overwriting_empties_a_run_and_nothing_else(bucket: str, machine: Callable[[str], None]) -> None:
    out = Path(f"s3://{bucket}/run")
    with RunFolder.open(out, IDENTITY, resume=False) as folder:
        work(folder, [])
    machine("b")
    with RunFolder.open(out, {"recipe": {"name": "new"}}, resume=False, overwrite=True):
        pass
    assert set(there(bucket)) == {"recipe.json"}
    fs(bucket).pipe_file(f"{bucket}/mine/thesis.txt", b"words")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"s3://.*/mine is not a run folder \(it holds thesis.txt\)"):
            RunFolder.open(Path(f"s3://{bucket}/mine"), IDENTITY, resume=False, overwrite=overwrite).__enter__()
    assert there(bucket, "mine") == {"thesis.txt": b"words"}


def test_two_machines_on_one_folder(bucket: str, machine: Callable[[str], None]) -> None:
    out = Path(f"s3://{bucket}/run")
    machine("a")
    taken_over = pytest.raises(StoreError, match="was taken over by another process while this one did not answer")
    with taken_over, RunFolder.open(out, IDENTITY, resume=False) as folder:
        machine("b")
        with pytest.raises(StoreError, match=f"s3://{bucket}/run is in use by a prefloop process on .* until"):
            RunFolder.open(out, IDENTITY, resume=True).__enter__()
        # taken for dead: the lease runs out, the other machine goes on, and the first one learns of it
        lease = f"{bucket}/run/.lease/1.json"
        held = json.loads(fs(bucket).cat_file(lease))
        assert held["expires"] == pytest.approx(time.time() + LEASE_S, abs=60)
        fs(bucket).pipe_file(lease, json.dumps({**held, "expires": time.time() - 1}).encode())
        with RunFolder.open(out, IDENTITY, resume=True) as other:
            work(other, [])
            folder._remote._lease.renew()
        folder.document("late.json", lambda: 1)
    assert "late.json" not in there(bucket)


def test_of_several_that_come_at_once_one_gets_the_lease(bucket: str) -> None:
    place = address(f"s3://{bucket}/run")
    leases = [Lease(place.filesystem(), place, f"owner {i}") for i in range(2)]
    for lease in leases:  # both have seen that nobody holds it
        lease._numbers = lambda: []
    leases[0].take()
    with pytest.raises(StoreError, match="has just been taken by another prefloop process"):
        leases[1].take()
    leases[0].release()
    assert there(bucket) == {}


def test_one_that_slept_through_its_lease_learns_so_before_it_writes(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease ran out, another came and went, and a third has the first one's number: its owner tells them apart."""
    place = address(f"s3://{bucket}/run")
    asleep, another = (Lease(place.filesystem(), place, owner) for owner in ("asleep", "another"))
    asleep.take()
    fs(bucket).rm_file(f"{bucket}/run/.lease/1.json")  # ran out and was tidied away by the one that came and went
    another.take()
    assert another._number == asleep._number == 1
    asleep.check()  # it was renewed a moment ago
    later = time.time() + LEASE_S
    monkeypatch.setattr("prefloop.store.lease.time.time", lambda: later)
    with pytest.raises(StoreError, match="was taken over by another process"):
        asleep.check()
    another.check()
    for lease in (asleep, another):
        lease.release()
    assert there(bucket) == {}


def test_a_server_that_goes_down_loses_nothing(s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, calls = Path(f"s3://{bucket}/run"), []
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # of each attempt that fsspec makes

    def interrupted() -> None:
        with RunFolder.open(out, IDENTITY, resume=False) as folder:
            folder.records("prompts.parquet", Prompt, lambda _: PROMPTS)
            s3.stop()
            work(folder, calls)

    try:
        with pytest.raises(
            StoreError, match=r"cannot be reached .*that was computed is kept in .*: go on with --resume"
        ):
            interrupted()
    finally:
        s3.again()
    assert calls == ["second"]
    with RunFolder.open(out, IDENTITY, resume=True) as folder:
        work(folder, calls)
    assert calls == ["second"]
    assert MANIFEST in there(bucket)


def test_what_is_wrong_with_an_address_is_said_in_one_line(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*arguments: object) -> str:
        done = prefloop(*arguments, cwd=tmp_path)
        assert done.returncode in (3, 5), done.stderr
        assert done.stderr.count("\n") == 1
        assert "test-secret" not in done.stderr
        return done.stderr

    assert "there is no such bucket" in refused("run", "nba-sql", "--out", "s3://no-such-bucket-here/run")
    assert f"s3://{bucket}/nothing does not exist" in refused("show", f"s3://{bucket}/nothing")
    assert "only run folders can" in refused("generate", write_prompts(tmp_path), "--out", f"s3://{bucket}/x.parquet")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "no credentials for s3://" in refused("run", "nba-sql", "--out", f"s3://{bucket}/run")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert "pip install 'prefloop[gcs]'" in refused("show", "gs://bucket/run")
    assert not list(tmp_path.glob("s3*"))


def write_prompts(folder: Path) -> Path:
    write_records(folder / "prompts.parquet", PROMPTS, Prompt)
    return folder / "prompts.parquet"


def test_inputs_are_fetched_once_and_again_when_they_change(bucket: str, tmp_path: Path) -> None:
    files, path = fs(bucket), f"s3://{bucket}/in/prompts.jsonl"
    files.pipe_file(path, b'{"prompt": "one"}\n')
    (first,) = read_prompts(Path(path))
    copy = fetched(path)
    assert (copy.name, copy.read_bytes()) == ("prompts.jsonl", b'{"prompt": "one"}\n')
    stamp = copy.stat().st_mtime_ns
    assert read_prompts(Path(path)) == [first]
    assert copy.stat().st_mtime_ns == stamp
    files.pipe_file(path, b'{"prompt": "two"}\n')
    assert [p.messages[0]["content"] for p in read_prompts(Path(path))] == ["two"]
    files.pipe_file(f"s3://{bucket}/in/prompts.parquet", write_prompts(tmp_path).read_bytes())
    assert read_records(Path(f"s3://{bucket}/in/prompts.parquet"), Prompt) == PROMPTS
    files.pipe_file(f"s3://{bucket}/in/model.safetensors", b"weights")
    assert not (fetched(f"s3://{bucket}/in", weights=False) / "model.safetensors").exists()
    assert (fetched(f"s3://{bucket}/in") / "model.safetensors").read_bytes() == b"weights"
    assert (fetched(f"s3://{bucket}/in", weights=False) / "model.safetensors").exists()
    files.rm_file(f"s3://{bucket}/in/model.safetensors")
    folder = fetched(f"s3://{bucket}/in")
    assert {p.name for p in folder.iterdir()} == {"prompts.jsonl", "prompts.parquet"}
    files.rm_file(path)
    assert {p.name for p in fetched(f"s3://{bucket}/in").iterdir()} == {"prompts.parquet"}
    with pytest.raises(DataError, match=r"in/prompts.jsonl does not exist: check the address"):
        read_prompts(Path(path))


def test_a_copy_of_a_run_has_neither_its_lease_nor_its_journals(bucket: str) -> None:
    with RunFolder.open(Path(f"s3://{bucket}/run"), IDENTITY, resume=False) as folder:
        folder.journal("prompts").append("half", 1)
        folder.send()
        assert {name.split("/")[0] for name in there(bucket)} == {".journal", ".lease", "recipe.json"}
        assert [path.name for path in fetched(f"s3://{bucket}/run").rglob("*")] == ["recipe.json"]


def test_a_path_that_would_leave_the_folder_is_not_fetched(bucket: str) -> None:
    fs(bucket).call_s3("put_object", Bucket=bucket, Key="in/../../evil.txt", Body=b"x")
    with pytest.raises((DataError, StoreError), match=r"holds a file with the path '\.\./\.\./evil.txt'"):
        fetched(f"s3://{bucket}/in")


@pytest.mark.soak
def test_a_whole_run_by_the_command_killed_and_resumed_elsewhere(bucket: str, tmp_path: Path) -> None:
    """Here, killed there, resumed on a third machine: the same bytes. Shown and pushed from the address."""

    def start(name: str, out: object, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefloop", "--quiet", "run", "nba-sql", "--out", str(out), *SMALL, *options]
        own = tmp_path / name
        own.mkdir()
        (own / "leagues").symlink_to(Path(os.environ["PREFLOOP_CACHE"], "leagues").resolve())
        environment = {**os.environ, "PREFLOOP_CACHE": str(own)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    out = f"s3://{bucket}/run"
    process = start("a", out)
    while "completions.parquet" not in there(bucket):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.2)  # between looks at what has arrived
    process.send_signal(signal.SIGKILL)
    process.wait()
    (lease,) = fs(bucket).ls(f"{bucket}/run/.lease", detail=False)
    fs(bucket).rm_file(lease)  # as the refusal of a second machine says
    resumed = start("b", out, "--resume")
    local = start("c", tmp_path / "local")
    assert resumed.wait() == 0, resumed.stderr.read().decode()
    assert local.wait() == 0, local.stderr.read().decode()
    found = {name: content for name, content in there(bucket).items() if name != "log.jsonl"}
    assert found == contents(tmp_path / "local")
    assert read_manifest(fetched(out))["recipe"]["name"] == "nba-sql"
    shown = prefloop("show", out)
    assert shown.returncode == 0, shown.stderr
    assert "execution accuracy" in shown.stdout.lower()


def test_a_run_folder_in_google_cloud_storage(machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    pytest.importorskip("gcsfs")
    service = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    service.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{service._api._httpd.server_port}")
    out, calls = Path("gs://bucket/run"), []
    machine("a")
    with pytest.raises(KeyboardInterrupt), RunFolder.open(out, IDENTITY, resume=False) as folder:
        work(folder, calls, stop=True)
    machine("b")
    with RunFolder.open(out, IDENTITY, resume=True) as folder:
        work(folder, calls)
    assert calls == ["first", "second", "second"]
    kept_as_it_is(out)
    copy = fetched("gs://bucket/run")
    assert read_manifest(copy)["schema"] == 1
    assert {p.name for p in copy.iterdir()} == {p.name for p in working_folder(out).iterdir()} - {".lock"}
    service.stop()


def test_a_run_folder_on_the_hub(hub: HubServer, machine: Callable[[str], None]) -> None:
    hub.add("me/runs", "datasets", private=True)
    out, calls = Path("hf://datasets/me/runs/a"), []
    with RunFolder.open(out, IDENTITY, resume=False) as folder:
        work(folder, calls)
    machine("b")
    with RunFolder.open(out, IDENTITY, resume=True) as folder:
        work(folder, calls)
    assert calls == ["first", "second"]
    kept_as_it_is(out)


def test_the_working_folder_is_named_after_the_run(bucket: str) -> None:
    assert working_folder(Path("runs/a")) == Path("runs/a")
    assert working_folder(Path(f"s3://{bucket}/runs/a")).name == "a"
