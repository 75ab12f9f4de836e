"""PairRM as a judge (2306.02561): every answer of a prompt against every other, in both orders.

With M[i, j] = logit(i left, j right) and M[i, i] = 0 for N answers, the score of answer i is

    s_i = 1/N Σ_j (M[i, j] − M[j, i])

so scores of one prompt sum to 0, one answer alone scores 0, and answers that read the same score the same. The
difference of two answers' scores is a logit only for N = 2: σ(s_0 − s_1) is then the probability that 0 is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, Literal

import numpy as np
import torch

from prefloop.config.judges import PairRMConfig
from prefloop.errors import JudgeError, ModelError
from prefloop.judging.groups import Answered, ChunkedJudge
from prefloop.models.lineage import hash_folder
from prefloop.models.load import model_folder
from prefloop.models.pairrm import PairRM, Segment, Triple, load_pairrm
from prefloop.records import Completion, Judgement, Message, Prompt, content_id

PROMPTS_PER_CHUNK = 32
CONVERSATION_INSTRUCTION = (
    "Finish the following coversation in each i-th turn by filling in <Response i> with your response."
)
"""Before conversations of several turns, as PairRM was trained with it, misspelling included."""

Mode = Literal["[A,B]+[B,A]", "[A,B]", "[B,A]"]
Matrix = np.ndarray
"""[N, N] float32, zero on the diagonal and between answers that read the same."""

PUBLISHED = ("llm-blender/PairRM", "llm-blender/PairRM-hf")
CARD = (
    ("hello!", "hi!", "f**k off!", 1.9003021717071533),
    ("I love you!", "I hate you!", "I love you, too!", -1.2547134160995483),
)
"""Source, left, right and the logit that the model's card gives for them."""
CARD_TOLERANCE = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.2}


class PairRMJudge(ChunkedJudge):
    """Loads the model on entering and frees it on leaving."""

    name = "pairrm"
    per_chunk = PROMPTS_PER_CHUNK

    def __init__(self, config: PairRMConfig) -> None:
        weights = hash_folder(model_folder(config.model))  # fetched, or found missing, before anything is computed
        self.identity = content_id(self.name, weights, config.dtype)
        self._config = config
        self._model: PairRM | None = None

    def __enter__(self) -> PairRMJudge:
        """Load the model.

        Raises:
            ModelError: it is missing, is not PairRM, or is a published one that does not answer as its card says.
        """
        self._model = load_pairrm(self._config.model, self._config.dtype, self._config.device)
        if self._config.model in PUBLISHED:
            check_card(self._model, self._config.dtype)
        return self

    def __exit__(self, *exception: object) -> None:
        self._model = None

    def judge_chunk(self, chunk: list[Answered]) -> list[Judgement]:
        """One ``score`` judgement per completion.

        ``raw`` keeps the logits with this answer on the left against each other one (None where both read the same),
        tokens cut and markers replaced in source and answer, and which model computed in which number type.

        Raises:
            JudgeError: not entered, or the device's memory does not suffice.
        """
        if self._model is None:
            raise JudgeError("the judge pairrm is not open: use it in a with statement")
        shown = [as_shown(prompt.messages, [answer.text for answer in answers]) for prompt, answers in chunk]
        groups = [self._model.segments(*texts) if texts else None for texts in shown]
        compared = iter(_matrices(self._model, [group for group in groups if group], self._config.tokens_per_batch))
        signed = {"model": self._model.hash, "dtype": self._config.dtype}
        found: list[Judgement] = []
        for (prompt, answers), group in zip(chunk, groups, strict=True):
            if group is None:
                raw = {"error": "PairRM reads turns of user and assistant in alternation, the user's last"}
                found += [_judgement(prompt, answer, None, raw) for answer in answers]
            else:
                found += _judgements(prompt, answers, group, next(compared), signed)
        return found


def _judgements(
    prompt: Prompt,
    answers: Sequence[Completion],
    group: tuple[Segment, list[Segment]],
    matrix: Matrix,
    signed: dict[str, str],
) -> list[Judgement]:
    asked, texts = group
    found = []
    for i, score in enumerate(scores(matrix).tolist()):
        raw: dict[str, Any] = {
            "logits": {other.id: _logit(texts, matrix, i, j) for j, other in enumerate(answers) if j != i},
            "cut": {"source": asked.cut, "answer": texts[i].cut},
            "sanitised": {"source": asked.sanitised, "answer": texts[i].sanitised},
            **signed,
        }
        if not isfinite(score):
            raw["error"] = f"a logit is no number in {signed['dtype']}: set judge.dtype to float32"
        found.append(_judgement(prompt, answers[i], score if isfinite(score) else None, raw))
    return found


def _judgement(prompt: Prompt, answer: Completion, score: float | None, raw: dict[str, Any]) -> Judgement:
    return Judgement.create(prompt.id, (answer.id,), PairRMJudge.name, "score", score, raw=raw)


def _logit(texts: Sequence[Segment], matrix: Matrix, i: int, j: int) -> float | None:
    value = float(matrix[i, j])
    return value if texts[i].ids != texts[j].ids and isfinite(value) else None


def as_shown(messages: Sequence[Message], answers: Sequence[str]) -> tuple[str, list[str]] | None:
    """Source and candidates of a prompt with its answers; None where turns do not alternate, the user's last.

    One turn is the source as it stands. Several are laid out as llm-blender's `compare_conversations` does: the
    user's turns in the source, the assistant's in the candidate. A system message goes before, on a line of its own.
    """
    system = "".join(f"{m['content']}\n" for m in messages if m["role"] == "system")
    turns = [m for m in messages if m["role"] != "system"]
    if [turn["role"] for turn in turns] != (["user", "assistant"] * len(turns))[: len(turns)] or len(turns) % 2 == 0:
        return None
    if len(turns) == 1:
        return system + turns[0]["content"], list(answers)
    asked = "\n".join(f"USER: {t['content']}\nAssistant: <Response {i}>" for i, t in enumerate(turns[::2], 1))
    before = "".join(f"<Response {i}>: {t['content']}\n" for i, t in enumerate(turns[1::2], 1))
    last = len(turns) // 2 + 1
    return CONVERSATION_INSTRUCTION + system + asked, [f"{before}<Response {last}>: {answer}" for answer in answers]


def matrices(
    model: PairRM, groups: Sequence[tuple[str, Sequence[str]]], tokens_per_batch: int = 16_384
) -> list[Matrix]:
    """M[i, j] = logit(answer i left, answer j right) of each source with its answers; their numbers may differ.

    All pairs of all groups are batched together; answers that read the same to the model are run once.

    Raises:
        JudgeError: the device's memory does not suffice.
    """
    return _matrices(model, [model.segments(source, answers) for source, answers in groups], tokens_per_batch)


def _matrices(model: PairRM, groups: Sequence[tuple[Segment, list[Segment]]], tokens_per_batch: int) -> list[Matrix]:
    triples: dict[tuple[int, tuple[int, ...], tuple[int, ...]], Triple] = {}
    for number, (asked, texts) in enumerate(groups):
        for left in texts:
            for right in texts:
                if left.ids != right.ids:
                    triples[number, left.ids, right.ids] = (asked, left, right)
    found = dict(zip(triples, _logits(model, list(triples.values()), tokens_per_batch), strict=True))
    return [
        np.array([[found.get((number, a.ids, b.ids), 0.0) for b in texts] for a in texts], dtype=np.float32)
        for number, (_, texts) in enumerate(groups)
    ]


def _logits(model: PairRM, triples: list[Triple], tokens_per_batch: int) -> list[float]:
    try:
        return model.logits(triples, tokens_per_batch).tolist()
    except torch.OutOfMemoryError as error:
        raise JudgeError("PairRM does not fit into the device's memory: lower judge.tokens_per_batch") from error


def scores(matrix: Matrix) -> np.ndarray:
    """[N] float32: s_i = 1/N Σ_j (M[i, j] − M[j, i]), the zero diagonal included."""
    return (matrix - matrix.T).mean(axis=-1)


def ranks(values: Sequence[float] | np.ndarray) -> list[int]:
    """Rank of each score, 1 for the highest; equal scores share the best rank (1, 2, 2, 4).

    >>> ranks([0.5, 0.5, 1.0, -2.0])
    [2, 2, 1, 4]
    """
    ordered = sorted(values, reverse=True)
    return [ordered.index(value) + 1 for value in values]


def compare(
    model: PairRM,
    sources: Sequence[str],
    left: Sequence[str],
    right: Sequence[str],
    mode: Mode = "[A,B]+[B,A]",
    tokens_per_batch: int = 16_384,
) -> list[float]:
    """Comparison of two answers, A and B, per source, on llm-blender's scales.

    Modes: ``[A,B]+[B,A]`` gives logit(A, B) − logit(B, A), which is not halved; ``[A,B]`` gives logit(A, B), both
    above 0 where A is better. ``[B,A]`` gives logit(B, A): above 0 where B is better.
    """
    groups = list(zip(sources, zip(left, right, strict=True), strict=True))
    if mode == "[A,B]+[B,A]":
        found = (scores(matrix) for matrix in matrices(model, groups, tokens_per_batch))
        return [float(a - b) for a, b in found]
    flip = -1 if mode == "[B,A]" else 1
    triples = []
    for source, pair in groups:
        asked, texts = model.segments(source, pair)
        triples.append((asked, *texts[::flip]))
    return _logits(model, triples, tokens_per_batch)


def check_card(model: PairRM, dtype: str) -> None:
    """Compare with the figures on the model's card.

    Raises:
        ModelError: they differ by more than the number type explains; names both.
    """
    sources, left, right, expected = zip(*CARD, strict=True)
    found = compare(model, sources, left, right, "[A,B]")
    if not np.allclose(found, expected, rtol=0, atol=CARD_TOLERANCE[dtype]):
        raise ModelError(
            f"{model.name} gives {', '.join(f'{x:.4f}' for x in found)} where its card says "
            f"{', '.join(f'{x:.4f}' for x in expected)}: its weights or tokenizer are damaged, fetch it again"
        )
