"""Push and pull against a Hub on this machine: whole or not at all, and never with a token where it can be read."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hub_server import READER, SIGNATURE, TOKEN, Fault, HubServer
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import save_file
from test_training import World, build_model_folder, build_world, settings_of
from typer.testing import CliRunner

from prefloop import progress
from prefloop.cli.pull import pull as pull_command
from prefloop.cli.push import push as push_command
from prefloop.config.training import RewardTrainingConfig
from prefloop.errors import ConfigError, DataError, PrefloopError, StoreError
from prefloop.loop.cards import MARKER, split_card
from prefloop.loop.publish import pull, push, push_dataset, push_model
from prefloop.loop.publishable import has_secret, inspect, recognise, split_of
from prefloop.loop.training import reward_folder
from prefloop.models.export import export_model
from prefloop.models.lineage import LINEAGE_FILE
from prefloop.models.load import load_policy
from prefloop.models.reward import load_reward_model
from prefloop.preferences.export import write_preference_set
from prefloop.store import hub as client
from prefloop.store.hub import check_repo_id, download_file, download_folder, snapshot
from prefloop.store.hub_errors import redact


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def world(model: Path) -> World:
    return build_world(model)


@pytest.fixture(scope="module")
def adapter(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    world.train(out, settings_of(epochs=1))
    return out / "checkpoint"


@pytest.fixture
def pairs(world: World, tmp_path: Path) -> Path:
    """A data set as the package itself writes it."""
    card = {"name": "toy", "policy": "p", "judge": "toy", "strategy": "all", "recipe": "ab12cd", "origin": "Made up."}
    out = tmp_path / "pairs"
    records = list(world.prompts.values()), list(world.completions.values()), list(world.preferences)
    write_preference_set(out, *records, {**card, "diagnostics": {"mean margin": 1.0}, "drops": {"ties": 3}})
    return out


def contents(folder: Path, *without: str) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: content for name, content in found.items() if name not in without}


# --- there and back ---


def test_a_data_set_comes_back_as_it_went(hub: HubServer, pairs: Path, tmp_path: Path) -> None:
    before = contents(pairs)
    sent = push_dataset(pairs, "me/toy")
    assert contents(pairs) == before, "a push leaves the folder alone"
    assert sent.kind == "data set"
    assert hub.repo("me/toy").private
    pulled = pull("me/toy", tmp_path / "back")
    back = contents(tmp_path / "back")
    assert {name for name in back if back[name] != before.get(name)} == {"README.md"}
    assert set(back) == set(before)
    source = json.loads((tmp_path / "back.source.json").read_text())
    assert source["commit"] == pulled.commit == sent.commit == hub.repo("me/toy").commits[-1]["oid"]
    assert (source["repo"], source["revision"], source["kind"]) == ("me/toy", "main", "data set")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []

    from datasets import load_dataset

    loaded = load_dataset(str(tmp_path / "back"), split="train", cache_dir=str(tmp_path / "cache"))
    wanted = pq.read_table(pairs / "preferences.parquet").to_pylist()
    assert loaded["prompt"][:] == [row["prompt"] for row in wanted]
    assert loaded[0]["chosen"] == [{"role": "assistant", "content": "points 0"}]
    assert len(loaded) == 16  # and not the same pairs again from preferences.jsonl
    assert set(loaded.column_names) >= {"prompt", "chosen", "rejected"}


def test_an_adapter_comes_back_and_answers_the_same(hub: HubServer, model: Path, adapter: Path, tmp_path: Path) -> None:
    sent = push_model(adapter, "me/tuned")
    assert (sent.kind, hub.repo("me/tuned", "models").private) == ("adapter", True)
    pulled = pull("me/tuned", tmp_path / "back")
    assert pulled.kind == "adapter"
    assert contents(tmp_path / "back", "README.md") == contents(adapter)
    ids = torch.tensor([[1, 5, 9, 20]])
    there, back = (load_policy(model, folder, device="cpu") for folder in (adapter, tmp_path / "back"))
    assert there.lineage == back.lineage
    plain = PeftModel.from_pretrained(load_policy(model, device="cpu").model, tmp_path / "back")
    with torch.no_grad():
        logits = [m(ids).logits for m in (there.model, back.model, plain)]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


def test_a_whole_model_and_a_reward_model_come_back(
    hub: HubServer, model: Path, adapter: Path, pairs: Path, tmp_path: Path
) -> None:
    export_model(model, adapter, tmp_path / "whole", device="cpu")
    assert push(tmp_path / "whole", "me/whole").kind == "model"
    pull("me/whole", tmp_path / "back")
    assert load_policy(tmp_path / "back", device="cpu").lineage == load_policy(tmp_path / "whole").lineage

    from prefloop.loop.training import Start

    config = RewardTrainingConfig(epochs=1, lora_rank=4)
    reward_folder(pairs / "records", tmp_path / "reward", config, Start(str(model), device="cpu"))
    assert push(tmp_path / "reward", "me/scorer").kind == "reward model (adapter)"
    pull("me/scorer", tmp_path / "scorer")
    assert load_reward_model(model, tmp_path / "scorer", device="cpu").lineage.adapters
    export_model(model, tmp_path / "reward", tmp_path / "scorer-whole", device="cpu")
    assert push(tmp_path / "scorer-whole", "me/scorer-whole", dry_run=True).kind == "reward model"


# --- what is said of it ---


def test_the_card_of_a_data_set(hub: HubServer, pairs: Path, world: World, tmp_path: Path) -> None:
    push(pairs, "me/toy", licence="cc-by-4.0")
    (tmp_path / "README.md").write_bytes(hub.content("me/toy", "README.md"))
    metadata, body = split_card(tmp_path / "README.md")
    card = (tmp_path / "README.md").read_text()
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["size_categories"] == ["n<1K"]
    assert {"prefloop", "preference", "dpo", "trl"} <= set(metadata["tags"])
    assert metadata["configs"][0]["data_files"] == [{"split": "train", "path": "preferences.parquet"}]
    assert body.strip() == split_card(pairs / "README.md")[1].strip(), "what stood there stays"
    chosen = [len(f"points {number}") for number in range(8) for _ in range(2)]
    assert f"| mean characters, chosen | {sum(chosen) / 16:.0f} |" in card
    for said in ("| pairs | 16 |", "| prompts | 8 |", "| task toy, split train | 8 |", 'load_dataset("me/toy"'):
        assert said in card
    for said in ("DPOTrainer", "## Limits", "cc-by-4.0", "`toy`", "`ab12cd`", f"export HF_ENDPOINT={hub.url}"):
        assert said in card
    message = hub.repo("me/toy").commits[-1]
    assert message["message"].startswith("Push data set: policy toy, recipe ab12cd (prefloop ")
    assert "recipe: ab12cd" in message["description"]


def test_a_card_does_not_grow_and_keeps_what_its_owner_wrote(hub: HubServer, pairs: Path, tmp_path: Path) -> None:
    text = (
        (pairs / "README.md").read_text().replace("---\n# ", "license: mit\nlanguage: [de]\n---\n# My own words\n# ", 1)
    )
    (pairs / "README.md").write_text(text)
    first = push(pairs, "me/toy").card
    pull("me/toy", tmp_path / "back")
    again = push(tmp_path / "back", "me/toy")
    assert again.card == first
    assert not again.changed
    assert first.count(MARKER) == 1
    assert "# My own words" in first
    assert yaml.safe_load(first.split("---")[1])["license"] == "mit"
    assert yaml.safe_load(first.split("---")[1])["language"] == ["de"]


def test_splits_by_file_name(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    (folder / "data").mkdir(parents=True)
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    for name, count in (("train-00000-of-00002", 3), ("train-00001-of-00002", 2), ("test-00000-of-00001", 1)):
        pq.write_table(pa.Table.from_pylist([row] * count), folder / "data" / f"{name}.parquet")
    (folder / "README.md").write_text("# Two splits\n")
    card = push(folder, "me/split").card
    pull("me/split", tmp_path / "back")

    from datasets import load_dataset

    loaded = load_dataset(str(tmp_path / "back"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 5, "test": 1}
    assert 'split="test"' in card  # the first file's; any that exists will do
    names = ("latest", "contest", "dev", "my-eval", "validation_1")
    assert [split_of(Path(f"{name}.jsonl")) for name in names] == ["train", "train", "validation", "test", "validation"]


def test_the_card_and_message_of_an_adapter(hub: HubServer, adapter: Path, model: Path) -> None:
    record = json.loads((adapter / LINEAGE_FILE).read_text())
    dry = push(adapter, "me/tuned", dry_run=True)
    assert "others cannot load" in dry.notes[0]
    assert str(model) not in dry.card, "a path on this machine is nobody's base"
    sent = push(adapter, "me/tuned", base="owner/base")
    metadata = yaml.safe_load(sent.card.split("---")[1])
    assert metadata["base_model"] == "owner/base"
    assert metadata["library_name"] == "peft"
    assert f"policy {record['policy']}" in sent.message
    assert f"base: {record['base']}" in hub.repo("me/tuned", "models").commits[-1]["description"]
    assert f"`{record['base']}`" in sent.card
    config = json.loads(hub.content("me/tuned", "adapter_config.json", "models"))
    assert config["base_model_name_or_path"] == "owner/base"


def test_a_dry_run_asks_nothing_and_needs_no_login(
    hub: HubServer, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    (pairs / "work").mkdir()
    (pairs / "work" / "state.pt").write_bytes(b"x")
    (pairs / ".cache").mkdir()
    (pairs / ".preferences.parquet.ab.journal").write_text("{}")
    plan = push(pairs, "me/toy", dry_run=True)
    assert (plan.commit, hub.requests) == (None, [])
    assert plan.left_out == (".cache", ".preferences.parquet.ab.journal", "work")
    names = ["completions", "preferences", "prompts"]
    wanted = ["README.md", "preferences.jsonl", "preferences.parquet", *(f"records/{n}.parquet" for n in names)]
    assert list(plan.files) == wanted


# --- what is never sent ---


def edit(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def set_text(side: str, text: str) -> Callable[[Path], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[2][side] = [{"role": "assistant", "content": text}]

    return lambda folder: edit(folder / "preferences.jsonl", change)


def hide_token(folder: Path) -> None:
    """In a compressed column, where no search of the file's bytes finds it."""
    rows = pq.read_table(folder / "preferences.parquet").to_pylist()
    rows[0]["chosen"][0]["content"] = f"my key is {READER}, " * 9
    pq.write_table(pa.Table.from_pylist(rows), folder / "preferences.parquet", compression="zstd")
    assert READER.encode() * 2 not in (folder / "preferences.parquet").read_bytes()


DATASET_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (set_text("chosen", " \n"), r"preferences.jsonl, row 3: chosen is empty"),
    "equal": (
        lambda f: edit(f / "preferences.jsonl", lambda rows: rows[4].update(chosen=rows[4]["rejected"])),
        r"row 5: chosen and rejected are equal",
    ),
    "nan": (
        lambda f: edit(f / "preferences.jsonl", lambda rows: rows[0].update(score_chosen=math.nan)),
        r"row 1: score_chosen is nan",
    ),
    "token in text": (set_text("rejected", f"key {READER}"), r"preferences.jsonl holds an access token"),
    "token in a row": (hide_token, r"preferences.parquet, row 1: it holds an access token"),
    "rubbish": (lambda f: (f / "preferences.jsonl").write_text("{"), r"row 1: not a JSON object"),
    "not utf-8": (lambda f: (f / "preferences.jsonl").write_bytes(b'{"chosen": "\xff"}\n'), r"not a JSON object"),
    "torn": (lambda f: (f / "preferences.parquet").write_bytes(b"PAR1"), r"not a readable Parquet file"),
    "no rows": (lambda f: (f / "preferences.jsonl").write_text(""), r"preferences.jsonl has no rows"),
    "no card": (lambda f: (f / "README.md").unlink(), r"no card README.md"),
    "bad card": (lambda f: (f / "README.md").write_text("---\na: [\n---\n"), r"metadata is not YAML"),
    "pickle": (lambda f: (f / "state.pt").write_bytes(b"x"), r"state.pt is, or may be, a pickle"),
    "hidden pickle": (lambda f: (f / "notes.txt").write_bytes(pickle.dumps([1])), r"notes.txt is, or may be, a pickle"),
    "torch archive": (
        lambda f: torch.save({"a": torch.zeros(2)}, f / "weights.dat"),
        r"weights.dat is, or may be, a pickle",
    ),
    "token": (lambda f: (f / "run.sh").write_text(f"export HF_TOKEN={TOKEN}"), r"run.sh holds an access token"),
    "key": (lambda f: (f / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----"), r"id holds an access token"),
    "link": (lambda f: (f / "extra.txt").symlink_to("/etc/hostname"), r"extra.txt is a link out of the folder"),
    "folder link": (lambda f: (f / "extra").symlink_to(f.parent), r"extra is a link out of the folder"),
    "pipe": (lambda f: os.mkfifo(f / "pipe"), r"pipe is not a plain file"),
}


@pytest.mark.parametrize("fault", DATASET_FAULTS)
def test_a_data_set_with_a_fault_is_not_sent(hub: HubServer, pairs: Path, fault: str) -> None:
    spoil, message = DATASET_FAULTS[fault]
    spoil(pairs)
    with pytest.raises(DataError, match=message) as caught:
        push(pairs, "me/toy")
    assert hub.requests == []
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert READER not in str(caught.value)


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


MODEL_FAULTS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no weights": ("adapter", lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
    "torn": (
        "adapter",
        lambda f: (f / "adapter_model.safetensors").write_bytes((f / "adapter_model.safetensors").read_bytes()[:-5]),
        "adapter_model.safetensors is damaged",
    ),
    "other weights": (
        "adapter",
        lambda f: save_file({"a": torch.ones(2)}, f / "adapter_model.safetensors"),
        "is of other weights",
    ),
    "no lineage": ("adapter", lambda f: (f / LINEAGE_FILE).unlink(), "no prefloop_lineage.json"),
    "no base": ("adapter", lambda f: (f / LINEAGE_FILE).write_text("{}"), "does not name a base"),
    "no config": ("adapter", lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
    "no tokenizer": ("model", lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
    "no tensors": ("model", lambda f: (f / "model.safetensors").unlink(), "no weights"),
    "pickled": ("model", lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), "pytorch_model.bin is, or may be"),
    "code": (
        "model",
        lambda f: rewrite(f / "config.json", auto_map={"AutoModel": "modeling.Evil"}),
        "code of its own",
    ),
    "shards": (
        "model",
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}'),
        "lacks 1 of the files",
    ),
}


@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_a_model_with_a_fault_is_not_sent(
    hub: HubServer, adapter: Path, model: Path, tmp_path: Path, fault: str
) -> None:
    which, spoil, message = MODEL_FAULTS[fault]
    folder = tmp_path / "spoilt"
    folder.mkdir()
    for path in (adapter if which == "adapter" else model).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    inspect(folder)  # it was fine
    spoil(folder)
    with pytest.raises(DataError, match=message):
        push(folder, "me/spoilt")
    assert hub.requests == []


def test_what_is_no_folder_of_ours_is_named(hub: HubServer, pairs: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither a data set"):
        push(tmp_path / "empty", "me/x")
    with pytest.raises(DataError, match="is not a folder"):
        push(tmp_path / "none", "me/x")
    with pytest.raises(DataError, match="of kind 'adapter', not a data set"):
        push_dataset(adapter, "me/x")
    with pytest.raises(DataError, match="of kind 'data set', not a model"):
        push_model(pairs, "me/x")
    with pytest.raises(DataError, match="--base is of adapters alone"):
        push(pairs, "me/x", base="owner/base")
    assert recognise(pairs) == "data set"
    assert hub.requests == []


@pytest.mark.parametrize(
    "name", ["toy", "a/b/c", "me/", "/toy", "me/t y", "me/a--b", "me/a..b", "-me/x", "me/x.git", "me/é"]
)
def test_malformed_ids_are_refused(hub: HubServer, pairs: Path, name: str) -> None:
    with pytest.raises(DataError, match="is not a repository id: give owner/name"):
        push(pairs, name)
    with pytest.raises(DataError, match="is not a repository id"):
        download_file(name, "x")
    assert hub.requests == []


@given(st.text(alphabet="ab.-_é/ \n", max_size=8))
def test_ids_we_take_are_ids_the_client_takes(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        check_repo_id(name)
    except DataError:
        return
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise AssertionError(name) from error


# --- who may see it ---


def test_private_unless_asked(hub: HubServer, pairs: Path) -> None:
    push(pairs, "me/toy")
    assert hub.repo("me/toy").private
    push(pairs, "me/open", public=True)
    assert not hub.repo("me/open").private
    commits = len(hub.repo("me/open").commits)
    with pytest.raises(StoreError, match="me/open is public: give --public"):
        push(pairs, "me/open")
    with pytest.raises(StoreError, match="me/toy is private: push without --public"):
        push(pairs, "me/toy", public=True)
    assert len(hub.repo("me/open").commits) == commits


# --- failures half way ---

STEPS = {
    "create": "POST /api/repos/create",
    "info": "GET /api/datasets/me/toy$",
    "validate": "POST /api/validate-yaml",
    "preupload": "POST .*/preupload/",
    "batch": "POST .*/objects/batch",
    "storage": "PUT /",
    "commit": "POST .*/commit/",
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("status", [500, pytest.param(503, marks=pytest.mark.soak), 0])
def test_a_step_that_fails_once_is_done_again(hub: HubServer, pairs: Path, step: str, status: int) -> None:
    fault = Fault(STEPS[step], status)
    hub.faults = [fault]
    sent = push(pairs, "me/toy")
    assert fault.times == 0
    assert len(hub.repo("me/toy").commits) == 2  # the first is the repository's own
    assert set(hub.repo("me/toy").files) == set(sent.files)


def test_a_line_cut_within_a_large_file(hub: HubServer, pairs: Path) -> None:
    size = (pairs / "preferences.parquet").stat().st_size
    hub.faults = [Fault("PUT /", after=size // 2)]
    push(pairs, "me/toy")
    assert hub.content("me/toy", "preferences.parquet") == (pairs / "preferences.parquet").read_bytes()


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub: HubServer, pairs: Path) -> None:
    hub.faults = [Fault(STEPS["commit"], carried_out=True)]
    sent = push(pairs, "me/toy")
    assert len(hub.repo("me/toy").commits) == 2
    assert sent.commit == hub.repo("me/toy").commits[-1]["oid"]


def test_large_files_in_parts(monkeypatch: pytest.MonkeyPatch, hub: HubServer, adapter: Path, tmp_path: Path) -> None:
    hub.part_size = 7_000
    hub.faults = [Fault(r"PUT /\w+/2", 503), Fault(r"PUT /\w+/1", after=100)]
    push(adapter, "me/tuned")
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    assert len(weights) > 2 * hub.part_size
    assert hub.content("me/tuned", "adapter_model.safetensors", "models") == weights
    pull("me/tuned", tmp_path / "back")
    assert (tmp_path / "back" / "adapter_model.safetensors").read_bytes() == weights


def test_nothing_is_sent_twice(hub: HubServer, pairs: Path) -> None:
    """An upload given up after one large file goes on with the others; a whole one sends nothing."""
    large = {hashlib.sha256(p.read_bytes()).hexdigest() for p in pairs.rglob("*.parquet")}
    hub.faults = [Fault(STEPS["commit"], 503, times=99)]
    with pytest.raises(StoreError, match=r"fails for the data set me/toy \(503\).*not sent again"):
        push(pairs, "me/toy")
    assert len(hub.repo("me/toy").commits) == 1, "half an upload shows nowhere"
    assert {request.path[1:] for request in hub.asked("PUT")} == large
    assert len(hub.asked("PUT")) == len(large)
    hub.faults = []
    assert push(pairs, "me/toy").changed
    assert len(hub.asked("PUT")) == len(large)
    commits = len(hub.repo("me/toy").commits)
    assert not push(pairs, "me/toy").changed
    assert len(hub.repo("me/toy").commits) == commits


def test_a_download_goes_on_where_the_line_was_cut(hub: HubServer, pairs: Path, tmp_path: Path) -> None:
    push(pairs, "me/toy")
    hub.faults = [
        Fault("GET /api/datasets/me/toy/revision", 503),
        Fault("HEAD .*preferences.jsonl", 503),
        Fault(r"GET /\w{64}", after=1000),
        Fault("GET .*/resolve/.*README.md", 500),
    ]
    pull("me/toy", tmp_path / "back")
    assert contents(tmp_path / "back", "README.md") == contents(pairs, "README.md")
    assert [fault.times for fault in hub.faults[1:]] == [0, 0, 0]


def test_a_pull_is_whole_or_not_at_all(hub: HubServer, pairs: Path, tmp_path: Path) -> None:
    push(pairs, "me/toy")
    hub.faults = [Fault("GET .*/resolve/.*preferences.jsonl", 500, times=99)]
    out = tmp_path / "back"
    with pytest.raises(DataError, match=r"\(500\)"):
        pull("me/toy", out)
    assert not out.exists()
    assert not (tmp_path / "back.source.json").exists()
    hub.faults = []
    fetched = len(hub.asked("GET .*/resolve/.*README.md"))
    assert fetched == 1
    pull("me/toy", out)
    assert len(hub.asked("GET .*/resolve/.*README.md")) == 1, "what had arrived is kept"
    assert contents(out, "README.md") == contents(pairs, "README.md")
    with pytest.raises(StoreError, match="exists already"):
        pull("me/toy", out)


def test_pickles_are_not_pulled(hub: HubServer, tmp_path: Path) -> None:
    hub.add("me/mixed", "models")
    config = {"config.json": b'{"architectures": ["LlamaForCausalLM"]}', "pytorch_model.bin": b"x", "a/b.txt": b"text"}
    hub.put("me/mixed", config, "models")
    with pytest.raises(DataError, match=r"holds pickles, which can run code \(pytorch_model.bin\): .*--skip-pickles"):
        pull("me/mixed", tmp_path / "back")
    pulled = pull("me/mixed", tmp_path / "back", skip_pickles=True)
    assert sorted(contents(tmp_path / "back")) == ["a/b.txt", "config.json"]
    assert pulled.left_out == ("pytorch_model.bin",)
    hub.put("me/mixed", {"notes.txt": pickle.dumps({"a": 1})}, "models")
    with pytest.raises(DataError, match=r"notes.txt is a pickle under another name"):
        pull("me/mixed", tmp_path / "again", skip_pickles=True)
    assert not (tmp_path / "again").exists()


def test_paths_that_leave_the_folder_are_not_fetched(hub: HubServer, tmp_path: Path) -> None:
    hub.add("me/evil")
    hub.put("me/evil", {"../../outside.txt": b"x", "train.jsonl": b"{}\n"})
    with pytest.raises(DataError, match=r"holds a file with the path '../../outside.txt'"):
        pull("me/evil", tmp_path / "in" / "back")
    assert not list(tmp_path.rglob("outside.txt"))


def test_a_revision_is_pulled_as_it_was(hub: HubServer, tmp_path: Path) -> None:
    hub.add("me/toy")
    first = hub.put("me/toy", {"train.jsonl": b'{"a": 1}\n'})
    hub.put("me/toy", {"train.jsonl": b'{"a": 2}\n'})
    assert pull("me/toy", tmp_path / "old", revision=first).commit == first
    assert (tmp_path / "old" / "train.jsonl").read_bytes() == b'{"a": 1}\n'
    with pytest.raises(DataError, match="no such revision"):
        pull("me/toy", tmp_path / "none", kind="dataset", revision="v9")


# --- for other parts of the package ---


def test_files_and_folders_for_others(hub: HubServer, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(pairs, "me/toy")
    path = download_file("me/toy", "preferences.jsonl")
    assert path.read_bytes() == (pairs / "preferences.jsonl").read_bytes()
    folder = download_folder("me/toy", kind="dataset", patterns=("*.jsonl", "README.md"))
    assert sorted(contents(folder)) == ["README.md", "preferences.jsonl"]
    assert snapshot("me/toy").files["preferences.jsonl"] == path.stat().st_size
    with pytest.raises(DataError, match=r"nothing.txt: the data set me/toy has no such file"):
        download_file("me/toy", "nothing.txt")
    with pytest.raises(DataError, match="'space' is no kind"):
        download_file("me/toy", "x", kind="space")

    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download_file("me/toy", "preferences.jsonl") == path, "without a network the cached file serves"
    with pytest.raises(DataError, match="offline: HF_HUB_OFFLINE is set"):
        download_file("me/toy", "preferences.parquet")
    with pytest.raises(StoreError, match="offline"):
        push(pairs, "me/toy")


# --- messages, and the token that is in none of them ---


def failures(hub: HubServer, pairs: Path, tmp_path: Path, patch: pytest.MonkeyPatch) -> Iterator[tuple[str, str, Any]]:
    """Name, message wanted and action of everything that goes wrong."""
    out = tmp_path / "out"
    forever = {"times": 99}
    for step, pattern in STEPS.items():
        for status in (500, 0):
            hub.faults = [Fault(pattern, status, **forever)]
            wanted = "cannot reach|validate" if status == 0 else r"\(500\)|failed"
            yield f"{step} {status}", wanted, lambda: push(pairs, "me/toy")
        hub.faults = [Fault(pattern, 403, error="You don't have the rights", **forever)]
        yield f"{step} 403", r"no permission|\(403\)|failed", lambda: push(pairs, "me/toy")
    hub.faults = [Fault("POST .*/preupload", 429, **forever)]
    yield "rate", r"limits your rate \(429\)", lambda: push(pairs, "me/toy")
    hub.faults = [Fault(STEPS["commit"], 412, **forever)]
    yield "moved", "changed while it was written", lambda: push(pairs, "me/toy")
    hub.faults = []
    yield "other owner", r"no permission to write to the data set other/toy \(403\)", lambda: push(pairs, "other/toy")
    patch.setenv("HF_TOKEN", READER)
    yield "reader", r"write permission.*'hf auth login' or set HF_TOKEN", lambda: push(pairs, "me/new")
    patch.setenv("HF_TOKEN", TOKEN[:-1] + "9")
    yield "wrong token", r"refuses the token.*\(401\)", lambda: push(pairs, "me/toy")
    patch.setenv("HF_TOKEN", TOKEN)
    page = f"{hub.url}/datasets/other/gated"
    gated = rf"other/gated is gated: open {page}, accept its terms"
    yield "gated file", gated, lambda: download_file("other/gated", "train.jsonl")
    yield "gated folder", gated, lambda: download_folder("other/gated", kind="dataset")
    yield "gated pull", gated, lambda: pull("other/gated", out)
    yield "missing", "there is no data set me/none at", lambda: download_file("me/none", "x")
    yield "neither", "there is neither a model nor a data set me/none", lambda: pull("me/none", out)
    patch.delenv("HF_TOKEN")
    yield "not logged in", "not logged in to .*'hf auth login' or set HF_TOKEN", lambda: push(pairs, "me/toy")
    yield "private", "not logged in, and .* missing or private", lambda: download_file("me/toy", "README.md")
    yield (
        "gated, nobody",
        rf"gated: run 'hf auth login'.*open {page}",
        lambda: download_file("other/gated", "train.jsonl"),
    )
    patch.setenv("HF_TOKEN", TOKEN)
    patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    yield "no network", r"cannot reach http://127.0.0.1:9 .*\(ConnectError\)", lambda: push(pairs, "me/toy")
    yield "no network, file", "cannot reach http://127.0.0.1:9", lambda: download_file("me/other", "x")
    yield "no network, pull", "cannot reach http://127.0.0.1:9", lambda: pull("me/other", out)
    patch.setenv("HF_ENDPOINT", hub.url)


def test_every_failure_is_one_line_without_the_token(
    hub: HubServer,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The server quotes the token in each of its errors, as careless servers do."""
    hub.add("other/gated", gated=True)
    hub.put("other/gated", {"train.jsonl": b"{}\n"})
    push(pairs, "me/toy")
    (pairs / "preferences.jsonl").write_text((pairs / "preferences.jsonl").read_text().replace("points 0", "points 9"))
    edit(pairs / "preferences.jsonl", lambda rows: rows.pop())
    table = pq.read_table(pairs / "preferences.parquet")
    monkeypatch.setattr(progress, "_quiet", False)
    monkeypatch.setattr(client, "WAITS_S", ())
    with caplog.at_level(logging.DEBUG):
        for number, (name, wanted, action) in enumerate(failures(hub, pairs, tmp_path, monkeypatch)):
            pq.write_table(table.slice(0, 1 + number % 15), pairs / "preferences.parquet")  # so that there is news
            caplog.clear()
            with pytest.raises(PrefloopError, match=wanted) as caught:
                action()
            said = str(caught.value)
            shown = "".join(traceback.format_exception(caught.value))
            logged = "\n".join(record.getMessage() for record in caplog.records)
            printed = "".join(capfd.readouterr())
            assert "\n" not in said, name
            for text in (said, shown, printed, logged):
                assert TOKEN[:-1] not in text, name
                assert READER not in text, name
            for text in (said, shown, printed):
                assert SIGNATURE not in text, name
            assert caught.value.__context__ is None, name
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path
    assert all(not request.authorised for request in hub.asked(r"(PUT|GET) /\w{64}"))
    for repo in hub.repos.values():
        assert all(TOKEN not in json.dumps(commit) for commit in repo.commits)


def test_no_message_says_a_token_whatever_the_text() -> None:
    signed = f"PUT https://store.example/x?X-Signature={SIGNATURE}&e=1 failed"
    assert redact(signed) == "PUT https://store.example/x?… failed"
    assert redact(f"Authorization: Bearer {TOKEN}") == "Authorization: <token>"
    assert redact("own secret-token-1 here", "secret-token-1") == "own <token> here"
    assert redact("plain text, hf_hub and sk-learn stay") == "plain text, hf_hub and sk-learn stay"


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_token_is_found_in_any_text(before: str, after: str) -> None:
    assert has_secret(f"{before} {TOKEN} {after}")
    assert TOKEN not in redact(f"{before}{TOKEN}{after}", TOKEN)


@pytest.mark.parametrize("address", ["huggingface.co", "ftp://x", "https://u:p@x", "https://x/?token=1"])
def test_a_malformed_endpoint_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        download_file("me/toy", "x")


# --- the commands ---


def run(command: Callable[..., Any], *arguments: object) -> Any:
    import typer

    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_commands(hub: HubServer, pairs: Path, tmp_path: Path) -> None:
    dry = run(push_command, pairs, "me/toy", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert f"to         {hub.url}/datasets/me/toy (private)" in dry.output
    assert "nothing was sent" in dry.output
    assert hub.requests == []
    assert "pushed     6 files" in run(push_command, pairs, "me/toy").output
    assert "unchanged  the Hub has these bytes already" in run(push_command, pairs, "me/toy").output
    sent = json.loads(run(push_command, pairs, "me/toy", "--json").output)
    assert (sent["kind"], sent["changed"]) == ("data set", False)
    pulled = run(pull_command, "me/toy", "--out", tmp_path / "back", "--kind", "dataset")
    assert "data set me/toy, 6 files" in pulled.output
    assert sent["commit"] in pulled.output


def test_a_process_that_is_killed_leaves_nothing_half(hub: HubServer, pairs: Path, tmp_path: Path) -> None:
    """A pull in a process of its own, under the client's own settings, killed in the middle; then done again."""
    push(pairs, "me/toy")
    out = tmp_path / "back"
    code = f"from prefloop.loop.publish import pull; pull('me/toy', {str(out)!r}, kind='dataset')"
    environment = {
        **os.environ,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }
    stopper = f"import prefloop.loop.publish as p, os; p._install = lambda *a: os._exit(9); {code}"
    assert subprocess.run([sys.executable, "-c", stopper], env=environment, check=False).returncode == 9
    assert not out.exists()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(out, "README.md") == contents(pairs, "README.md")
    assert TOKEN not in done.stdout + done.stderr


def test_xet_where_the_hub_has_none(hub: HubServer, pairs: Path, tmp_path: Path) -> None:
    """Under the client's own settings large files go by Xet, which this Hub does not speak: the switch is named."""
    code = f"from prefloop.loop.publish import push; push({str(pairs)!r}, 'me/toy')"
    home = tmp_path / "home"
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_DISABLE_XET"}
    environment |= {"HF_HOME": str(home), "OMP_NUM_THREADS": "1", "RUST_LOG": "debug"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "does not take Xet transfers for the data set me/toy: set HF_HUB_DISABLE_XET=1" in done.stderr
    assert len(hub.repo("me/toy").commits) == 1
    assert hub.asked("GET /api/datasets/me/toy/xet-write-token/main")
    assert TOKEN not in done.stdout + done.stderr
    assert not [path for path in home.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
