"""The embedded policy's build, small: the same bytes each time, also after a kill; a folder that peers load."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefloop.errors import StoreError
from prefloop.loop.embedded import EmbeddedBuild, build_embedded, build_folder
from prefloop.training.sft import SftConfig

SMALL = EmbeddedBuild(
    examples=600, vocabulary=400, context=512, layers=1, width=32, heads=2, kv_heads=1, feed_forward=64
)


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "policy"
    build_folder(SMALL, folder)
    return folder


def test_a_build_killed_midway_and_resumed_has_the_same_bytes(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefloop.loop.embedded.SftConfig", partial(SftConfig, checkpoint_every=3))
    out, work = tmp_path / "policy", tmp_path / "work"
    work.mkdir()

    def kill(row: dict[str, Any]) -> None:
        if row["step"] == 5:
            raise Killed

    with pytest.raises(Killed):
        build_embedded(SMALL, out, work, False, kill)
    steps: list[int] = []
    build_embedded(SMALL, out, work, True, lambda row: steps.append(row["step"]))
    assert steps[0] == 4  # the state of step 3 was taken up
    assert files(out) == files(built)


def test_the_folder_is_an_ordinary_checkpoint_with_a_card(built: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(built), AutoTokenizer.from_pretrained(built)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Who won?"}], add_generation_prompt=True)
    assert tokenizer.decode(ids["input_ids"]).count("Who won?") == 1
    assert model.config.vocab_size == len(tokenizer)
    card = (built / "README.md").read_text()
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in card
    assert "--examples 600 --seed 1" in card


def test_another_seed_gives_another_policy_and_a_model_is_not_overwritten(built: Path, tmp_path: Path) -> None:
    other = build_folder(EmbeddedBuild(**{**SMALL.__dict__, "seed": 2}), tmp_path / "other")
    assert files(tmp_path / "other")["model.safetensors"] != files(built)["model.safetensors"]
    assert json.dumps(other["build"])  # the figures are plain values
    with pytest.raises(StoreError, match="already holds a model"):
        build_folder(SMALL, built)
