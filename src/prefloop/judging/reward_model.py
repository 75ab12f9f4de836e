"""The judge that is a sequence classifier with one output: score = w · h, h the hidden state of the last token.

Any published reward model of this form (Skywork-Reward-V2, 2507.01352, and the like), or one that
`prefloop train reward` wrote. Scores have the model's own scale, and only their differences within a prompt mean
something (Bradley-Terry: P(a better than b) = σ(score_a - score_b) where it was trained so).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from prefloop.config.judges import RewardModelConfig
from prefloop.errors import JudgeError
from prefloop.judging.conversations import (
    Conversation,
    ConversationEncoder,
    Score,
    Scorer,
    Shared,
    judge_conversations,
    within,
)
from prefloop.judging.groups import Answered, ChunkedJudge, judge_chunks
from prefloop.models.attention import training_attention
from prefloop.models.group import GroupBatch, GroupStates
from prefloop.models.lineage import LINEAGE_FILE, Lineage, hash_folder
from prefloop.models.load import base_lineage, model_folder
from prefloop.models.reward import last_token_scores, load_reward_model
from prefloop.records import Completion, Judgement, Message, Prompt, content_id

PROMPTS_PER_CHUNK = 64


class RewardModelJudge(ChunkedJudge):
    """Holds the model from ``__enter__`` to ``__exit__``.

    Its name carries a hash of the weights, tokenizer, template and settings that decide a score.
    """

    per_chunk = PROMPTS_PER_CHUNK

    def __init__(self, config: RewardModelConfig) -> None:
        """Finds the model's files and hashes them.

        Raises:
            ModelError: there is no such model.
        """
        adapters = (hash_folder(config.adapter),) if config.adapter else ()
        lineage = Lineage(base_lineage(config.model).base, adapters)
        identity = content_id(lineage.id, config.dtype, config.max_tokens, config.system)
        self.name = f"{config.name}@{identity[:8]}"
        self.identity = self.name
        self._config = config
        self._open = ExitStack()
        self._scorer: Scorer[Conversation] | None = None

    def __enter__(self) -> RewardModelJudge:
        """Loads the model.

        Raises:
            ModelError: it is no reward model, is damaged, or its chat template does not serve.
        """
        config = self._config
        model = load_reward_model(config.model, config.adapter, config.dtype, config.device)
        trained = config.adapter or model_folder(config.model)
        self._encoder = ConversationEncoder(
            model.tokenizer, system=config.system, trained_here=(trained / LINEAGE_FILE).is_file()
        )
        positions = getattr(model.model.config.get_text_config(), "max_position_embeddings", None)
        self._limit = min(config.max_tokens, positions or config.max_tokens)
        self._open.enter_context(training_attention(model.model))
        self._scorer = Scorer(GroupStates(model.model), self._score, config.tokens_per_batch)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()
        self._scorer = None

    def judge_chunk(self, chunk: list[Answered]) -> list[Judgement]:
        """One ``score`` judgement per completion; ``raw`` holds the conversation's ``tokens``.

        A conversation that is too long, cannot be rendered, or scores no finite number has value None and the reason
        in ``raw["error"]``.

        Raises:
            JudgeError: not entered, or out of memory.
        """
        return judge_conversations(chunk, self.name, self._encode, self._entered())

    def features(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> dict[str, list[float]]:
        """[d] by completion id: the last hidden state at the answer's last token, of which the score is the head's one
        linear function. Answers that could not be scored are left out.

        Raises:
            JudgeError: not entered, or out of memory.
        """
        scorer = replace(self._entered(), score=self._last_states)

        def read_chunk(chunk: list[Answered]) -> list[Judgement]:
            return judge_conversations(chunk, self.name, self._encode, scorer)

        found = judge_chunks(
            self.name, read_chunk, prompts, completions, per_chunk=PROMPTS_PER_CHUNK, journal=None, label="features"
        )
        return {judged.completion_ids[0]: judged.raw["features"] for judged in found if "features" in judged.raw}

    def _entered(self) -> Scorer[Conversation]:
        if self._scorer is None:
            raise JudgeError(f"{self.name} is not open: use it in a with statement")
        return self._scorer

    def _last_states(self, batch: GroupBatch, _: list[Shared[Conversation]]) -> list[Score]:
        assert self._scorer is not None
        states = self._scorer.states.hidden(batch).index_select(0, batch.ends).float().tolist()
        return [Score(0.0, raw={"features": state}) for state in states]

    def _encode(self, messages: Sequence[Message], answer: str) -> Conversation:
        return within(self._encoder.encode(messages, answer), self._limit)

    def _score(self, batch: GroupBatch, _: list[Shared[Conversation]]) -> list[Score]:
        assert self._scorer is not None
        return [Score(value) for value in last_token_scores(self._scorer.states, batch).tolist()]
