"""Generation through vLLM, against a stand-in of its offline interface (the real engine needs a GPU)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from prefloop.config.sampling import Sampling
from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.generation import vllm as ours
from prefloop.models.load import EMBEDDED, base_lineage
from prefloop.models.template import encode_prompt
from prefloop.records import Prompt
from prefloop.store.journal import FileJournal

PROMPTS = [Prompt.create(({"role": "user", "content": f"how many {i}"},), "toy", "train") for i in range(3)]


@dataclass(frozen=True)
class Params:
    """`vllm.SamplingParams`: an unknown name is an error there, too."""

    n: int
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop: list[str] | None
    logprobs: int
    seed: int


class Engine:
    """`vllm.LLM`: answers every request with three tokens that its seed decides, then the end token."""

    made: dict[str, Any]
    calls: list[tuple[list[dict[str, list[int]]], list[Params]]]
    finish = "stop"
    fails: Exception | None = None

    def __init__(self, **options: Any) -> None:
        if self.fails:
            raise self.fails
        type(self).made, type(self).calls = options, []

    def generate(self, inputs: list[dict[str, list[int]]], params: list[Params], use_tqdm: bool) -> list[Any]:
        self.calls.append((inputs, params))
        if any(len(i["prompt_token_ids"]) > 2_000 for i in inputs):
            raise ValueError("The decoder prompt (length 2001) is longer than the maximum model length\nof 2000.")
        return [self._one(p) for p in params]

    def _one(self, params: Params) -> Any:
        ids = [300 + params.seed % 97, 301, 302, 1]
        logprobs = [
            {i: SimpleNamespace(logprob=-0.5 * (n + 1)), 7: SimpleNamespace(logprob=-0.1)} for n, i in enumerate(ids)
        ]
        answer = SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason=self.finish, text="not read")
        return SimpleNamespace(outputs=[answer])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    fresh = type("Fresh", (Engine,), {})
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = fresh, Params  # type names as the package has them
    monkeypatch.setitem(sys.modules, "vllm", module)
    return fresh


def test_the_records_are_those_of_any_policy(engine: type[Engine]) -> None:
    loaded = ours.load_engine("embedded", options={"gpu_memory_utilization": 0.5})
    sampling = Sampling(k=2, temperature=0.7, top_p=0.9, top_k=20, max_new_tokens=40)
    found = ours.generate_with_engine(loaded, PROMPTS, sampling, seed=3, round_=1)
    assert engine.made == {
        "model": str(EMBEDDED),
        "dtype": "bfloat16",
        "logprobs_mode": "raw_logprobs",
        "trust_remote_code": False,
        "gpu_memory_utilization": 0.5,
    }
    assert [(c.prompt_id, c.index, c.round, c.seed) for c in found] == [
        (p.id, i, 1, 3) for p in PROMPTS for i in (0, 1)
    ]
    for completion in found:
        assert completion.logprobs == (-0.5, -1.0, -1.5, -2.0)
        assert completion.text == loaded.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        assert completion.policy == base_lineage("embedded").id
    ((inputs, params),) = engine.calls
    assert [i["prompt_token_ids"] for i in inputs[::2]] == [
        encode_prompt(loaded.tokenizer, p.messages) for p in PROMPTS
    ]
    assert len({p.seed for p in params}) == 6
    assert params[0] == Params(1, 0.7, 0.9, 20, 40, None, 0, params[0].seed)


def test_greedy_and_stop_texts(engine: type[Engine]) -> None:
    loaded = ours.load_engine("embedded")
    text = loaded.tokenizer.decode([301, 302])
    (found,) = ours.generate_with_engine(loaded, PROMPTS[:1], Sampling(greedy=True, stop=(text,)), seed=1)
    params = engine.calls[0][1][0]
    assert (params.temperature, params.top_k, params.stop) == (0.0, -1, [text])
    assert found.index == -1
    assert text not in found.text
    assert len(found.token_ids) == 4


def test_a_resumed_run_asks_only_for_what_is_missing(
    engine: type[Engine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ours, "ANSWERS_PER_CHUNK", 2)
    loaded, sampling = ours.load_engine("embedded"), Sampling(k=2)
    whole = ours.generate_with_engine(loaded, PROMPTS, sampling, seed=1)
    ours.generate_with_engine(loaded, PROMPTS[:2], sampling, seed=1, journal=FileJournal(tmp_path / "j"))
    engine.calls.clear()
    assert ours.generate_with_engine(loaded, PROMPTS, sampling, seed=1, journal=FileJournal(tmp_path / "j")) == whole
    assert [len(inputs) for inputs, _ in engine.calls] == [2]
    ours.generate_with_engine(loaded, PROMPTS, sampling, seed=2, journal=FileJournal(tmp_path / "j"))
    assert len(engine.calls) == 4


def test_failures_are_named(engine: type[Engine]) -> None:
    with pytest.raises(ConfigError, match="trust_remote_code"):
        ours.load_engine("embedded", options={"trust_remote_code": True})
    loaded = ours.load_engine("embedded")
    with pytest.raises(DataError, match="twice"):
        ours.generate_with_engine(loaded, PROMPTS[:1] * 2, Sampling(), seed=1)
    long = Prompt.create(({"role": "user", "content": "word " * 5_000},), "toy", "train")
    with pytest.raises(DataError, match=r"longer than the maximum model length$"):
        ours.generate_with_engine(loaded, [long], Sampling(), seed=1)
    engine.finish = "abort"
    with pytest.raises(ModelError, match="gave an answer up"):
        ours.generate_with_engine(loaded, PROMPTS, Sampling(), seed=1)
    engine.fails = RuntimeError("CUDA out of memory.\nTried to allocate")
    with pytest.raises(ModelError, match=r"vLLM cannot start embedded: CUDA out of memory\.$"):
        ours.load_engine("embedded")


def test_without_vllm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match="prefloop\\[vllm\\]"):
        ours.load_engine("embedded")
