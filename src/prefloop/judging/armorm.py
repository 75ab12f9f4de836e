"""The ArmoRM judge: one score per answer with the 19 objectives it is made of. Formula: `prefloop.models.armorm`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from prefloop.config.judges import ArmoRMConfig
from prefloop.errors import JudgeError, ModelError
from prefloop.judging.conversations import (
    Conversation,
    ConversationEncoder,
    Score,
    Scorer,
    Shared,
    UnscoredError,
    judge_conversations,
    within,
)
from prefloop.judging.groups import Answered, ChunkedJudge
from prefloop.models.armorm import GATING_PATTERN, OBJECTIVES, ArmoRM, gate_position, load_armorm
from prefloop.models.attention import training_attention
from prefloop.models.group import GroupBatch, GroupStates
from prefloop.models.load import base_lineage
from prefloop.records import Judgement, Message, content_id

PROMPTS_PER_CHUNK = 64
_PROBE: Message = {"role": "user", "content": "prefloop"}


@dataclass(frozen=True, slots=True)
class _Gated(Conversation):
    """A conversation, and where its prompt's gate is read."""

    gate: int


class ArmoRMJudge(ChunkedJudge):
    """Holds the model from ``__enter__`` to ``__exit__``.

    Its name carries a hash of the weights, tokenizer, template and number type that decide a score.
    """

    per_chunk = PROMPTS_PER_CHUNK

    def __init__(self, config: ArmoRMConfig) -> None:
        """Finds the model's files and hashes them.

        Raises:
            ModelError: there is no such model.
        """
        self.name = f"{config.name}@{content_id(base_lineage(config.model).id, config.dtype)[:8]}"
        self.identity = self.name
        self._config = config
        self._open = ExitStack()
        self._model: ArmoRM | None = None

    def __enter__(self) -> ArmoRMJudge:
        """Loads the model.

        Raises:
            ModelError: it is not ArmoRM, is damaged, or its chat template never renders the gating pattern.
        """
        model = load_armorm(self._config.model, self._config.dtype, self._config.device)
        self._encoder = ConversationEncoder(model.tokenizer)
        if gate_position(self._encoder.encode([_PROBE], "").ids) is None:
            raise ModelError(
                f"{self._config.model}: its chat template never renders the gating pattern "
                f"{list(GATING_PATTERN)}: copy tokenizer_config.json and chat_template.jinja of ArmoRM again"
            )
        self._asked: tuple[Sequence[Message], int | None] = ((), None)
        self._open.enter_context(training_attention(model.backbone))
        self._scorer = Scorer(GroupStates(model.backbone), self._score, self._config.tokens_per_batch)
        self._model = model
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()
        self._model = None
        del self._scorer

    def judge_chunk(self, chunk: list[Answered]) -> list[Judgement]:
        """One ``score`` judgement per completion.

        ``objectives`` holds each objective's own reward by name; ``raw`` the ``coefficients`` by which this prompt
        weighs them (score = Σ coefficient · reward) and the conversation's ``tokens``. A conversation that is too
        long, cannot be rendered, or scores no finite number has value None and the reason in ``raw["error"]``.

        Raises:
            JudgeError: not entered, or out of memory.
        """
        if self._model is None:
            raise JudgeError(f"{self.name} is not open: use it in a with statement")
        return judge_conversations(chunk, self.name, self._encode, self._scorer)

    def _encode(self, messages: Sequence[Message], answer: str) -> _Gated:
        """With the gate found in the same prompt with an empty answer: no answer can move it."""
        assert self._model is not None
        read = within(self._encoder.encode(messages, answer), self._model.longest)
        if self._asked[0] != messages:  # once for all answers of a prompt
            self._asked = messages, gate_position(self._encoder.encode(messages, "").ids)
        gate = self._asked[1]
        if gate is None or read.ids[gate : gate + len(GATING_PATTERN)] != GATING_PATTERN:
            raise UnscoredError("no gating pattern where the user's last turn ends", tokens=len(read.ids))
        return _Gated(read.ids, read.replaced, gate)

    def _score(self, batch: GroupBatch, members: list[Shared[_Gated]]) -> list[Score]:
        assert self._model is not None
        prompt_N = [len(member.group.prompt_ids) for member in members for _ in member.conversations]
        gate_N = [conversation.gate for member in members for conversation in member.conversations]
        found = self._model.score_groups(self._scorer.states, batch, prompt_N, gate_N)
        rows = zip(found.score_B.tolist(), found.rewards_BK.tolist(), found.coefficients_BK.tolist(), strict=True)
        return [
            Score(score, _named(rewards), {"coefficients": _named(coefficients)})
            for score, rewards, coefficients in rows
        ]


def _named(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(OBJECTIVES, values, strict=True))
