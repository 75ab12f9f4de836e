"""Answers through vLLM's offline engine (the extra ``prefloop[vllm]``), as the same records that transformers gives.

Written to vLLM's documented interface (`LLM`, `SamplingParams`, `RequestOutput`, `LoRARequest`; ``reload_weights`` of
its workers) and tested against a stand-in of its shape; it has not been run on the real engine here. Its kernels round
differently from transformers', and its answers may change with what is computed beside them, so a resumed run need not
repeat them bit for bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.config.sampling import Sampling
from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.generation.remote import request_seed
from prefloop.models.lineage import Lineage, hash_folder
from prefloop.models.load import Policy, model_folder
from prefloop.models.template import encode_prompt
from prefloop.records import Completion, Prompt, content_id
from prefloop.store.grouped import ordered
from prefloop.store.journal import Journal, work_through

if TYPE_CHECKING:
    from prefloop.generation.ray_policies import RayEngine

ANSWERS_PER_CHUNK = 2_048
"""Given to the engine together; a killed run loses one chunk."""
OURS = frozenset({"model", "tokenizer", "dtype", "logprobs_mode", "trust_remote_code"})
"""Options of the engine that are decided here."""
Asked = dict[str, list[int]]
"""Token ids of prompts by prompt id."""
Answers = dict[str, list[dict[str, Any]]]
"""A prompt's answers by its id."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM sets room aside for."""


@dataclass(frozen=True)
class Engine:
    """A model in vLLM, with the tokenizer that renders its prompts."""

    llm: Any
    tokenizer: Any
    lineage: Lineage
    dtype: str
    adapter: Any = None
    """vLLM's request for the adapter that it answers with."""

    def written(
        self, chunks: dict[str, Asked], sampling: Sampling, seed: int, round_: int
    ) -> Iterator[tuple[str, Answers]]:
        """Every chunk's key with its answers by prompt id."""
        for key, chunk in chunks.items():
            yield key, self.answers(chunk, sampling, seed, round_)

    def answers(self, asked: Asked, sampling: Sampling, seed: int, round_: int) -> Answers:
        """The answers to one chunk by prompt id.

        Raises:
            DataError: a prompt that the engine refuses (too long).
            ModelError: the engine gave an answer up.
        """
        from vllm import SamplingParams

        identities = [(prompt_id, index) for prompt_id in asked for index in sampling.indices]
        parameters = [
            SamplingParams(**sampling_parameters(sampling), seed=request_seed(seed, round_, prompt_id, index))
            for prompt_id, index in identities
        ]
        inputs = [{"prompt_token_ids": asked[prompt_id]} for prompt_id, _ in identities]
        adapter = {"lora_request": self.adapter} if self.adapter else {}
        try:
            outputs = self.llm.generate(inputs, parameters, use_tqdm=False, **adapter)
        except ValueError as error:  # vLLM's word for a prompt beyond the context
            raise DataError(f"vLLM refuses a prompt: {_first_line(error)}") from error
        found: Answers = {prompt_id: [] for prompt_id in asked}
        for (prompt_id, _), output in zip(identities, outputs, strict=True):
            found[prompt_id].append(_answer(output.outputs[0]))
        return found


def load_engine(source: str | Path, dtype: str = "bfloat16", options: Mapping[str, Any] | None = None) -> Engine:
    """Start vLLM on a whole model; an adapter has to be exported into one first (``prefloop export``).

    Args:
        source: as in `prefloop.models.load.load_policy`.
        options: passed to ``vllm.LLM``, such as ``tensor_parallel_size`` or ``gpu_memory_utilization``; to serve an
            adapter that is being trained, `lora_options`.

    Raises:
        ConfigError: an option that is decided here.
        ModelError: vLLM is not installed or cannot start, or there is no such model.
    """
    options = dict(options or {})
    if taken := sorted(OURS & options.keys()):
        raise ConfigError(f"vllm: {', '.join(taken)} cannot be given as an option of the engine")
    folder = model_folder(str(source))
    try:
        from vllm import LLM
    except ImportError as error:
        raise ModelError("vLLM is not installed: pip install 'prefloop[vllm]' on a machine with a GPU") from error
    try:
        # Raw: log-probabilities of the model's own logits, at temperature 1, whatever the sampling does to them.
        llm = LLM(model=str(folder), dtype=dtype, logprobs_mode="raw_logprobs", trust_remote_code=False, **options)
    except Exception as error:  # out of memory, an unknown architecture, an older vLLM: many kinds, one meaning
        raise ModelError(f"vLLM cannot start {source}: {_first_line(error)}") from error
    return Engine(llm, _tokenizer(folder), Lineage(hash_folder(folder)), dtype)


def generate_with_engine(
    engine: Engine | RayEngine,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    seed: int,
    round_: int = 0,
    journal: Journal | None = None,
    label: str = "generate",
) -> list[Completion]:
    """K answers to every prompt (one with ``sampling.greedy``), in the order of `prompts`, then of index.

    Each answer is a request with a seed of its own.

    Args:
        journal: finished chunks are kept there and not computed again.

    Raises:
        DataError: a prompt that is there twice, or that the engine refuses (too long).
        ModelError: the tokenizer has no chat template, or the engine gave an answer up.
    """
    chunks = generate_chunks(engine, prompts, sampling, seed=seed, round_=round_, journal=journal, label=label)
    return ordered(chunks, prompts)


def generate_chunks(
    engine: Engine | RayEngine,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    seed: int,
    round_: int = 0,
    journal: Journal | None = None,
    label: str = "generate",
) -> Iterator[list[Completion]]:
    """The answers of some prompts as soon as they are written, prompts in any order; of one prompt in that of index.

    Args and errors are those of `generate_with_engine`.
    """
    asked = {prompt.id: encode_prompt(engine.tokenizer, prompt.messages) for prompt in prompts}
    if len(asked) < len(prompts):
        raise DataError("a prompt is there twice: ids hash the messages, so remove one of the two")
    for _, answers in work_through(
        dict(_chunks(engine, asked, sampling, seed, round_)),
        lambda left: engine.written(left, sampling, seed, round_),
        journal,
        label=label,
        unit="prompts",
        size=len,
    ):
        yield [
            _completion(engine, prompt_id, index, answer, sampling, seed, round_)
            for prompt_id, found in answers.items()
            for index, answer in zip(sampling.indices, found, strict=True)
        ]


def _chunks(
    engine: Engine | RayEngine, asked: Asked, sampling: Sampling, seed: int, round_: int
) -> Iterator[tuple[str, Asked]]:
    """Prompts with a journal key that hashes all that decides their answers."""
    ids, size = list(asked), max(1, ANSWERS_PER_CHUNK // len(sampling.indices))
    settings = ["vllm", engine.lineage.id, engine.dtype, sampling.settings, sampling.indices, seed, round_]
    for start in range(0, len(ids), size):
        chunk = ids[start : start + size]
        yield content_id(*settings, [[i, asked[i]] for i in chunk]), {i: asked[i] for i in chunk}


def sampling_parameters(sampling: Sampling) -> dict[str, Any]:
    """The settings by vLLM's names; ``logprobs=0`` asks for the chosen token's alone."""
    return {
        "n": 1,
        "temperature": 0.0 if sampling.greedy else sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "max_tokens": sampling.max_new_tokens,
        "stop": list(sampling.stop) or None,
        "logprobs": 0,
    }


def _answer(output: Any) -> dict[str, Any]:
    ids = [int(i) for i in output.token_ids]
    if output.finish_reason not in ("stop", "length"):
        raise ModelError(f"vLLM gave an answer up ({output.finish_reason}): see its log")
    logprobs = [float(position[i].logprob) for i, position in zip(ids, output.logprobs, strict=True)]
    if not all(logprob > -float("inf") for logprob in logprobs):  # false for NaN as well
        raise ModelError("the model's output is not a number: its weights are damaged, or its dtype is too narrow")
    return {"ids": ids, "logprobs": logprobs, "finish_reason": output.finish_reason}


def _completion(
    engine: Engine | RayEngine,
    prompt_id: str,
    index: int,
    answer: dict[str, Any],
    sampling: Sampling,
    seed: int,
    round_: int,
) -> Completion:
    settings, lineage = sampling.settings, engine.lineage.id
    text = str(engine.tokenizer.decode(answer["ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False))
    cuts = [text.find(stop) for stop in sampling.stop if stop in text]
    return Completion(
        id=Completion.make_id(prompt_id, lineage, settings, seed, round_, index),
        prompt_id=prompt_id,
        index=index,
        round=round_,
        text=text[: min(cuts, default=None)],
        token_ids=tuple(answer["ids"]),
        logprobs=tuple(answer["logprobs"]),
        finish_reason=answer["finish_reason"],
        policy=lineage,
        sampling=settings,
        seed=seed,
    )


def lora_options(rank: int) -> dict[str, Any]:
    """Options of an engine that serves adapters of this rank, one at a time.

    >>> lora_options(24)
    {'enable_lora': True, 'max_loras': 1, 'max_lora_rank': 32}
    """
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(size for size in RANKS if size >= rank)}


def synced_sampler(
    engine: Engine, folder: Path, *, round_: int = 0
) -> Callable[[Policy, Sequence[Prompt], Sampling, int, int], list[Completion]]:
    """A sampler for policy-gradient training (`prefloop.training.policy_gradient`): vLLM with the weights of now.

    Of an adapter only the adapter travels, through a folder, and the engine serves it beside its base. Of a policy
    whose weights are all trained, all travel, and the engine reads them in place of its own.

    Args:
        engine: started on the policy's base; for an adapter with `lora_options`.
        folder: where weights are written, and removed again when the engine has read them.

    Raises:
        ConfigError: a DoRA adapter, which vLLM does not serve.
        ModelError: the adapter is of another base than the engine's.
    """

    def sample(
        policy: Policy, prompts: Sequence[Prompt], sampling: Sampling, seed: int, iteration: int
    ) -> list[Completion]:
        with _synced(engine, policy, folder / policy.lineage.id) as ready:
            return generate_with_engine(ready, prompts, sampling, seed=seed, round_=round_)

    return sample


@contextmanager
def _synced(engine: Engine, policy: Policy, folder: Path) -> Iterator[Engine]:
    """The engine with these weights. Each state of the policy has a folder, a name and a number of its own: what
    vLLM and the safetensors library keep of a name or a path that they know would be the weights of before."""
    model: Any = policy.model
    settings = getattr(model, "active_peft_config", None)
    if settings is not None:
        _servable(engine, policy, settings)
    try:
        model.save_pretrained(folder)
        if settings is not None:
            from vllm.lora.request import LoRARequest

            number = int(policy.lineage.id[:7], 16) + 1  # vLLM counts adapters from 1, in 32 bits
            request = LoRARequest(policy.lineage.id, number, str(folder))
            yield replace(engine, lineage=policy.lineage, adapter=request)
        else:
            engine.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
            engine.llm.reset_prefix_cache()  # its states are those of the former weights
            yield replace(engine, lineage=policy.lineage)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _servable(engine: Engine, policy: Policy, settings: Any) -> None:
    if settings.use_dora:
        raise ConfigError("vLLM does not serve DoRA adapters: set lora_variant to lora or rslora")
    if policy.lineage.base != engine.lineage.base:
        raise ModelError(
            f"vLLM serves {engine.lineage.base}, but the adapter is trained on {policy.lineage.base}: start the engine "
            f"on {policy.name}"
        )


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for damaged files
        raise ModelError(f"cannot load the tokenizer in {folder}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
