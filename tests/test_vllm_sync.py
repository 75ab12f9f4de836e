"""Weights that are being trained, served by vLLM: a stand-in that reads what it is given and answers with it."""

from __future__ import annotations

import doctest
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from test_policy_gradient_training import PROMPTS, TOKENS, ending, first_token, settings
from test_training import build_model_folder

from prefloop.config.sampling import Sampling
from prefloop.errors import ConfigError, ModelError
from prefloop.generation import vllm as ours
from prefloop.generation.decode import decode
from prefloop.models.lineage import Lineage
from prefloop.models.load import Policy, load_policy
from prefloop.models.template import end_token_ids
from prefloop.training.policy_gradient import train_policy_gradient
from prefloop.training.trainable import trainable


@dataclass(frozen=True)
class Adapter:
    """`vllm.lora.request.LoRARequest`."""

    lora_name: str
    lora_int_id: int
    lora_path: str


class Engine:
    """`vllm.LLM` with room for one adapter, answering by the weights it has read; `rounding` is added to logits."""

    rounding = 0.0

    def __init__(self, model: str, **options: Any) -> None:
        self.folder, self.options = model, options
        self.policy = ending(load_policy(model, device="cpu"))
        self.adapters: dict[int, tuple[str, Policy]] = {}
        self.served: list[Any] = []
        self.emptied = 0

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        assert method == "reload_weights"
        whole = torch.nn.Module.load_state_dict
        fresh = type(self.policy.model).from_pretrained(kwargs["weights_path"])
        whole(self.policy.model, fresh.state_dict())
        self.served.append(kwargs["weights_path"])

    def reset_prefix_cache(self) -> None:
        self.emptied += 1

    def generate(
        self, inputs: list[dict[str, list[int]]], params: list[Any], use_tqdm: bool, lora_request: Any = None
    ) -> list[Any]:
        policy = self._with(lora_request) if lora_request else self.policy
        return [self._one(policy, i["prompt_token_ids"], p) for i, p in zip(inputs, params, strict=True)]

    def _with(self, request: Adapter) -> Policy:
        """As vLLM does: a number that is known is not read again."""
        assert self.options["enable_lora"]
        if request.lora_int_id not in self.adapters:
            policy = ending(load_policy(self.folder, Path(request.lora_path), device="cpu"))
            self.adapters[request.lora_int_id] = (request.lora_name, policy)
            self.served.append(request.lora_path)
        name, policy = self.adapters[request.lora_int_id]
        assert name == request.lora_name
        return policy

    def _one(self, policy: Policy, prompt: Sequence[int], params: Any) -> Any:
        draws = torch.rand(1, params.max_tokens, generator=torch.Generator().manual_seed(params.seed))
        ends = end_token_ids(policy.model, policy.tokenizer)
        (answer,) = decode(policy.model, [prompt], draws, Sampling(k=1, max_new_tokens=params.max_tokens), ends)
        logprobs = [
            {i: SimpleNamespace(logprob=x - self.rounding)} for i, x in zip(answer.ids, answer.logprobs, strict=True)
        ]
        output = SimpleNamespace(token_ids=answer.ids, logprobs=logprobs, finish_reason=answer.finish_reason)
        return SimpleNamespace(outputs=[output])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_model_folder(tmp_path / "model")


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    torch.set_num_threads(1)
    fresh = type("Fresh", (Engine,), {})
    package, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    package.LLM, package.SamplingParams, request.LoRARequest = fresh, SimpleNamespace, Adapter
    for module in (package, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return fresh


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_engine_answers_with_the_weights_of_now(
    folder: Path, vllm: type[Engine], tmp_path: Path, method: str
) -> None:
    """In every iteration its log-probabilities are those of the model that trains, to rounding; stale ones are far off."""
    policy = ending(load_policy(folder, device="cpu"))
    engine = ours.load_engine(folder, "float32", ours.lora_options(4) if method == "lora" else None)
    sampler, moved = ours.synced_sampler(engine, tmp_path / "sync", round_=2), []

    def sample(now: Policy, prompts: Any, sampling: Sampling, seed: int, iteration: int) -> Any:
        found = sampler(now, prompts, sampling, seed, iteration)
        moved.append([c.id for c in found])
        assert {c.policy for c in found} == {now.lineage.id}
        assert {c.round for c in found} == {2}
        return found

    result = train_policy_gradient(
        policy, PROMPTS, first_token, settings(method=method, lora_rank=4, learning_rate=2e-2),
        tmp_path / "out", work=tmp_path / "work", seed=1, max_new_tokens=TOKENS, sample=sample,
    )  # fmt: skip
    deviations = [row["ratio/start_deviation"] for row in result.history if "ratio/start_deviation" in row]
    assert len(deviations) == 3
    assert max(deviations) < 1e-4
    assert all(row["ratio/recomputed"] == 0.0 for row in result.history if "ratio/recomputed" in row)
    assert abs(result.history[-1]["kl"]) > 1e-3  # the policy did move
    assert len({i for ids in moved for i in ids}) == 3 * 16
    assert len(set(engine.llm.served)) == 3
    assert engine.llm.emptied == (3 if method == "full" else 0)
    assert list((tmp_path / "sync").iterdir()) == []


def test_an_engine_that_rounds_otherwise_is_corrected(folder: Path, vllm: type[Engine], tmp_path: Path) -> None:
    vllm.rounding = 0.1
    engine = ours.load_engine(folder, "float32", ours.lora_options(4))
    result = train_policy_gradient(
        ending(load_policy(folder, device="cpu")), PROMPTS, first_token,
        settings(method="lora", lora_rank=4, iterations=1), tmp_path / "out", work=tmp_path / "work", seed=1,
        max_new_tokens=TOKENS, sample=ours.synced_sampler(engine, tmp_path / "sync"),
    )  # fmt: skip
    assert result.history[0]["ratio/recomputed"] == 1.0
    assert result.history[0]["ratio/deviation"] < 1e-4


def test_what_vllm_cannot_serve_is_refused(folder: Path, vllm: type[Engine], tmp_path: Path) -> None:
    policy = load_policy(folder, device="cpu")
    engine = ours.load_engine(folder, "float32", ours.lora_options(4))
    sample = ours.synced_sampler(engine, tmp_path / "sync")
    given = PROMPTS[:1], Sampling(k=1, max_new_tokens=4), 1, 0
    dora, lora = (trainable(policy, settings(method="lora", lora_variant=kind), 1) for kind in ("dora", "lora"))
    with dora as model, pytest.raises(ConfigError, match="DoRA"):
        sample(replace(policy, model=model), *given)
    with lora as model, pytest.raises(ModelError, match="but the adapter is trained on elsewhere: start the engine"):
        sample(replace(policy, model=model, lineage=Lineage("elsewhere", ("a",))), *given)
    assert not list((tmp_path / "sync").glob("*"))


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(ours).failed == 0
