"""A language model as the judge, local or behind an OpenAI-compatible endpoint.

Pairwise (MT-Bench, 2306.05685; both orders, 2305.17926): every two answers a, b of a prompt are compared twice, each
shown first once, with verdict A, B or tie:

    P(a better) = ½ · (P(first | a shown first) + 1 − P(first | b shown first)),   tie = ½

A ``choice`` per pair says so, and a ``score`` per answer is its mean P over its pairs. Rubric: an additive 0-5 score
(the form of Self-Rewarding Language Models, 2401.10020); reasoning: the same for how an answer gets to its result.
Objectives: four ratings of 1-5 (UltraFeedback, 2310.01377), value = their mean. With several samples the readable
verdicts are averaged.

A reply without a verdict, or a request that failed, leaves its item unscored, and ``raw`` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, permutations
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prefloop.config.judges import LLMConfig
from prefloop.config.sampling import Sampling
from prefloop.errors import ConfigError, JudgeError, ModelError
from prefloop.generation.endpoint import Endpoint, EndpointClient
from prefloop.generation.remote import ask_endpoint, unfinished
from prefloop.generation.replies import Reply
from prefloop.judging.groups import answered
from prefloop.judging.prompts import JudgePrompt, conversation
from prefloop.judging.verdicts import OBJECTIVES, p_both_orders, read_choice, read_objectives, read_score
from prefloop.models.load import model_folder
from prefloop.models.source import PolicySource
from prefloop.progress import note
from prefloop.records import Completion, Judgement, Prompt, content_id
from prefloop.store.cache import Cache
from prefloop.store.files import cache_folder
from prefloop.store.journal import Journal

if TYPE_CHECKING:
    from prefloop.generation.generate import Writer
    from prefloop.models.load import Policy

READERS: dict[str, Callable[[str], Any]] = {
    "pairwise": read_choice,
    "rubric": read_score,
    "reasoning": read_score,
    "objectives": read_objectives,
}

Reading = dict[str, Any]
"""One sample: ``text``, ``verdict`` (None if unreadable), and then ``error``."""


class LLMJudge:
    """Asks the model that the settings name; a context manager as every judge.

    Args:
        client: in place of the one the settings describe (they must name an endpoint).
        policy: a local model that is loaded already, in place of the settings' ``model``.
        load: how the settings' local model is come by; default: loaded in this process.

    Raises:
        ConfigError: settings that contradict each other, or a prompt file that cannot be used.
    """

    def __init__(
        self,
        config: LLMConfig,
        *,
        client: EndpointClient | None = None,
        policy: Policy | Writer | None = None,
        load: Callable[[], Policy | Writer] | None = None,
        seed: int = 1,
    ) -> None:
        if config.samples > 1 and config.temperature == 0:
            raise ConfigError(
                f"judge.samples={config.samples}: at temperature 0 every sample says the same; "
                "set judge.temperature above 0 or judge.samples=1"
            )
        self._config, self._seed = config, seed
        self._prompt = JudgePrompt.load(config.mode, config.prompt)
        self._client = client or (EndpointClient(_endpoint(config)) if config.endpoint else None)
        self._policy = policy
        self._load = load or PolicySource(config.model, dtype=config.dtype, device=config.device).load
        if self._client is None and policy is None:
            model_folder(config.model)  # found missing before anything is computed for it
        self._sampling = Sampling(
            k=config.samples,
            temperature=config.temperature or 1.0,
            greedy=config.temperature == 0,
            max_new_tokens=config.max_new_tokens,
        )

    @property
    def name(self) -> str:
        """Mode and model; ``raw["judge"]`` is a hash of all that decides a verdict."""
        return f"llm:{self._config.mode}:{self._config.model}"

    @property
    def client(self) -> EndpointClient | None:
        """Counts tokens and cost; None for a local model."""
        return self._client

    def __enter__(self) -> LLMJudge:
        if self._client is None and self._policy is None:
            self._policy = self._load()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._client is None:
            self._policy = None

    def judge(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        *,
        journal: Journal | None = None,
        label: str = "judge",
    ) -> list[Judgement]:
        """Judgements by prompt; within one, the choices of every two answers (pairwise), then a score per answer.

        Args:
            journal: keeps replies by content of the question, model and decoding settings. An endpoint's are kept
                for all runs instead, unless ``judge.cache=false``.

        Raises:
            JudgeError: the endpoint cannot be reached or refuses everything, or the model cannot write.
        """
        groups = answered(prompts, completions)
        asked = [self._questions(prompt, answers) for prompt, answers in groups]
        questions = {question.id: question for group in asked for question in group}
        try:
            replies = self._replies(list(questions.values()), journal, label)
        except ModelError as error:
            raise JudgeError(f"judge {self.name}: {error}") from error
        if self._client:
            note(f"{label}: {self._spent(self._client)}")
        judged = self._pairwise if self._config.mode == "pairwise" else self._pointwise
        found: list[Judgement] = []
        for (prompt, answers), group in zip(groups, asked, strict=True):
            readings = [
                [self._reading(replies[question.id, index]) for index in self._sampling.indices] for question in group
            ]
            found += judged(prompt, answers, readings)
        return found

    def _spent(self, client: EndpointClient) -> str:
        usage = client.usage
        read, written = usage.prompt_tokens, usage.completion_tokens
        kept = f" ({usage.kept:,} of {usage.requests:,} replies kept from before)" if usage.kept else ""
        priced = f", cost {client.cost:,.2f}" if self._config.price_in or self._config.price_out else ""
        return f"{read:,} tokens read and {written:,} written by {self._config.model}{priced}{kept}"

    def _questions(self, prompt: Prompt, answers: list[Completion]) -> list[Prompt]:
        """One per answer, or one per ordered pair in the order of `permutations`."""
        shown = conversation(prompt.messages)
        if self._config.mode == "pairwise":
            texts = [
                self._prompt.fill(prompt=shown, first=first.text, second=second.text)
                for first, second in permutations(answers, 2)
            ]
        else:
            texts = [self._prompt.fill(prompt=shown, answer=answer.text) for answer in answers]
        return [Prompt.create(({"role": "user", "content": text},), "judge", prompt.split) for text in texts]

    def _replies(self, questions: list[Prompt], journal: Journal | None, label: str) -> dict[tuple[str, int], Reply]:
        if self._client:
            if self._config.cache:  # what was paid for once is not asked again, whatever run it was for
                journal = Cache(cache_folder() / "replies" / f"{self._client.endpoint.id}.db")
            return ask_endpoint(self._client, questions, self._sampling, seed=self._seed, journal=journal, label=label)
        if self._policy is None:
            raise JudgeError(f"judge {self.name}: the model is not loaded; use the judge in a with block")
        return _local_replies(self._policy, questions, self._sampling, self._seed, journal, label)

    def _reading(self, reply: Reply) -> Reading:
        reading: Reading = {"text": reply.text, "verdict": None}
        if why := unfinished(reply):
            return {**reading, "error": why}
        if reply.finish_reason == "length":
            return {**reading, "error": f"cut at {self._config.max_new_tokens} tokens"}
        verdict = READERS[self._config.mode](reply.text)
        return {**reading, "verdict": verdict} | ({"error": "no verdict in the reply"} if verdict is None else {})

    def _pairwise(self, prompt: Prompt, answers: list[Completion], readings: list[list[Reading]]) -> list[Judgement]:
        by_order = dict(zip(permutations(range(len(answers)), 2), readings, strict=True))
        choices: list[Judgement] = []
        wins: list[list[float]] = [[] for _ in answers]
        for i, j in combinations(range(len(answers)), 2):
            orders = [by_order[i, j], by_order[j, i]]
            value, agree = p_both_orders(*([reading["verdict"] for reading in order] for order in orders))
            raw = {"orders": orders, "inconsistent": agree is False, **_why(orders, value)}
            choices.append(self._judgement(prompt, (answers[i], answers[j]), "choice", value, raw=raw))
            if value is not None:
                wins[i].append(value)
                wins[j].append(1 - value)
        return choices + [
            self._win_score(prompt, answer, won, len(answers) - 1) for answer, won in zip(answers, wins, strict=True)
        ]

    def _win_score(self, prompt: Prompt, answer: Completion, won: list[float], pairs: int) -> Judgement:
        raw: dict[str, Any] = {"compared": len(won), "pairs": pairs}
        if not won:
            raw["error"] = "no readable comparison" if pairs else "the only answer: nothing to compare it with"
        return self._judgement(prompt, (answer,), "score", fmean(won) if won else None, raw=raw)

    def _pointwise(self, prompt: Prompt, answers: list[Completion], readings: list[list[Reading]]) -> list[Judgement]:
        found = []
        for answer, samples in zip(answers, readings, strict=True):
            verdicts = [reading["verdict"] for reading in samples if reading["verdict"] is not None]
            objectives: dict[str, float] = {}
            if verdicts and self._config.mode == "objectives":
                objectives = {name: fmean(verdict[name] for verdict in verdicts) for name in OBJECTIVES}
            value = fmean(objectives.values() or verdicts) if verdicts else None
            raw = {"samples": samples, **_why([samples], value)}
            found.append(self._judgement(prompt, (answer,), "score", value, objectives, raw))
        return found

    def _judgement(
        self,
        prompt: Prompt,
        answers: tuple[Completion, ...],
        kind: str,
        value: float | None,
        objectives: dict[str, float] | None = None,
        raw: dict[str, Any] | None = None,
    ) -> Judgement:
        ids = tuple(answer.id for answer in answers)
        raw = {"judge": self._identity, **(raw or {})}
        return Judgement.create(prompt.id, ids, self.name, kind, value, objectives, raw=raw)

    @property
    def _identity(self) -> str:
        """Hash of model, prompt file and decoding."""
        model = self._client.endpoint.id if self._client else self._policy.lineage.id if self._policy else ""
        settings = [self._sampling.settings, self._sampling.indices, self._seed]
        return content_id("llm judge", model, self._config.mode, self._prompt.text, settings)


def _endpoint(config: LLMConfig) -> Endpoint:
    return Endpoint(
        url=config.endpoint or "",
        model=config.model,
        key_variable=config.key_variable,
        concurrency=config.concurrency,
        requests_per_minute=config.requests_per_minute,
        timeout=config.timeout,
        retries=config.retries,
        price_in=config.price_in,
        price_out=config.price_out,
    )


def _why(orders: list[list[Reading]], value: float | None) -> dict[str, str]:
    """The reasons of an item that stays unscored, each once."""
    reasons = dict.fromkeys(reading["error"] for order in orders for reading in order if "error" in reading)
    return {"error": "; ".join(reasons)} if value is None else {}


def _local_replies(
    policy: Policy | Writer, questions: list[Prompt], sampling: Sampling, seed: int, journal: Journal | None, label: str
) -> dict[tuple[str, int], Reply]:
    """The model's replies; a question that leaves no room for one in the context gets an error instead."""
    from prefloop.generation.generate import generate_completions
    from prefloop.models.template import encode_prompt

    replies: dict[tuple[str, int], Reply] = {}
    fitting = []
    for question in questions:
        length = len(encode_prompt(policy.tokenizer, question.messages))
        if policy.context and length + sampling.max_new_tokens > policy.context:
            error = f"{length:,} tokens and {sampling.max_new_tokens:,} for the reply exceed the context of "
            error += f"{policy.context:,}"
            replies |= {(question.id, index): Reply(error=error) for index in sampling.indices}
        else:
            fitting.append(question)
    for written in generate_completions(policy, fitting, sampling, seed=seed, journal=journal, label=label):
        reply = Reply(written.text, written.finish_reason, 0, len(written.token_ids))
        replies[written.prompt_id, written.index] = reply
    return replies
