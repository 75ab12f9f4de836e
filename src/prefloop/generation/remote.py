"""Answers of a model behind an OpenAI-compatible endpoint, as the same records that a local model gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefloop.config.sampling import Sampling
from prefloop.errors import DataError
from prefloop.generation.endpoint import EndpointClient
from prefloop.generation.replies import Reply
from prefloop.progress import note
from prefloop.records import Completion, Prompt, content_id
from prefloop.store.journal import Journal

FINISHED = ("stop", "length")
"""Ends that the records know; an answer that ended otherwise is none."""


def generate_from_endpoint(
    client: EndpointClient,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    seed: int,
    round_: int = 0,
    journal: Journal | None = None,
    label: str = "generate",
    drops: Counter[str] | None = None,
) -> list[Completion]:
    """K answers to every prompt (one with ``sampling.greedy``), in the order of `prompts`, then of index.

    Each answer is a request of its own with a seed of its own. The server's tokens are not ours, so the records
    carry neither ids nor log-probabilities; training encodes the text. ``policy`` hashes URL and model name.

    Args:
        journal: finished answers are kept there and not asked again.
        drops: answers left out are counted here by reason (failed requests, and ends such as ``content_filter``), for
            the caller to say; None: they are said here.

    Raises:
        DataError: a prompt that is there twice.
        ModelError: the endpoint cannot be reached or refuses everything.
    """
    replies = ask_endpoint(client, prompts, sampling, seed=seed, round_=round_, journal=journal, label=label)
    lost: Counter[str] = Counter()
    found = []
    for prompt in prompts:
        for index in sampling.indices:
            reply = replies[prompt.id, index]
            if why := unfinished(reply):
                lost[f"answer {why}"] += 1
            else:
                found.append(_completion(client.endpoint.id, prompt.id, index, reply, sampling, seed, round_))
    if drops is None:
        note_drops(lost, label)
    else:
        drops.update(lost)
    return found


def note_drops(drops: Mapping[str, int], label: str) -> None:
    """Say how many answers were left out, by reason."""
    for reason, count in sorted(drops.items()):
        note(f"{label}: {count:,} left out, {reason}")


def unfinished(reply: Reply) -> str:
    """Why a reply is no answer; empty where it is one."""
    if reply.error:
        return f"failed: {reply.error}"
    return "" if reply.finish_reason in FINISHED else f"ended by {reply.finish_reason or 'nothing'}"


def ask_endpoint(
    client: EndpointClient,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    seed: int,
    round_: int = 0,
    journal: Journal | None = None,
    label: str = "ask",
) -> dict[tuple[str, int], Reply]:
    """What the server said, by prompt id and index, failures included; raises as `generate_from_endpoint`."""
    require_distinct(prompts)
    identities = [(prompt.id, index) for prompt in prompts for index in sampling.indices]
    bodies = [
        request_body(prompt, sampling, request_seed(seed, round_, prompt.id, index))
        for prompt in prompts
        for index in sampling.indices
    ]
    return dict(zip(identities, client.complete(bodies, journal=journal, label=label), strict=True))


def require_distinct(prompts: Iterable[Prompt]) -> None:
    """Refuse a prompt that is there twice: its answers could not be told apart.

    Raises:
        DataError: one is.
    """
    ((prompt_id, count),) = Counter(prompt.id for prompt in prompts).most_common(1) or [("", 0)]
    if count > 1:
        raise DataError(f"prompt {prompt_id} is there twice: ids hash the messages, so remove one of the two")


def request_seed(seed: int, round_: int, prompt_id: str, index: int) -> int:
    """31 bits, which every server takes; another for each answer."""
    return int(content_id("endpoint", seed, round_, prompt_id, index), 16) % 2**31


def request_body(prompt: Prompt, sampling: Sampling, seed: int) -> dict[str, Any]:
    """The request for one answer; the client adds the model's name. Settings at their default are not sent.

    ``top_k`` is no part of the protocol, though many servers know it: one that does not refuses the request.
    """
    body: dict[str, Any] = {
        "messages": list(prompt.messages),
        "max_tokens": sampling.max_new_tokens,
        "temperature": 0.0 if sampling.greedy else sampling.temperature,
        "seed": seed,
    }
    if sampling.top_p < 1:
        body["top_p"] = sampling.top_p
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    return body


def _completion(
    policy: str, prompt_id: str, index: int, reply: Reply, sampling: Sampling, seed: int, round_: int
) -> Completion:
    settings = sampling.settings
    cuts = [reply.text.find(stop) for stop in sampling.stop if stop in reply.text]  # some servers keep the stop text
    return Completion(
        id=Completion.make_id(prompt_id, policy, settings, seed, round_, index),
        prompt_id=prompt_id,
        index=index,
        round=round_,
        text=reply.text[: min(cuts, default=None)],
        token_ids=(),
        logprobs=(),
        finish_reason=reply.finish_reason,
        policy=policy,
        sampling=settings,
        seed=seed,
    )
