"""UltraFeedback (2310.01377) and the sets built on its prompts, as prompts, completions and judgements.

| row | recognised by | judgements |
|---|---|---|
| UltraFeedback | ``completions`` with ``annotations`` | mean of the four aspects, each kept; none where one is "N/A" |
| Snorkel, SimPO | ``all_generated_responses`` and ``all_rm_scores`` | the reward model's score of each response |
| binarised (Zephyr's) | ``chosen``, ``rejected``, ``score_chosen``, ``score_rejected`` | both; a tie is dropped |

A completion was written under its ``custom_system_prompt``, which asks for honesty, say, and was rated for it: it stays
in the prompt as the system message. The four completions of a row have up to four of them, and belong to that many
prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from prefloop.errors import DataError
from prefloop.records import Completion, Judgement, Message, Prompt, content_id
from prefloop.store.rows import BadRow, BadRowError, read_rows
from prefloop.tasks.instructions.layouts import Question, check_text, read_question

REPOSITORY = "openbmb/UltraFeedback"
PARTS = ("evol_instruct", "false_qa", "flan", "sharegpt", "truthful_qa", "ultrachat")
SAFE_PARTS = tuple(part for part in PARTS if part != "truthful_qa")
"""Without the prompts of TruthfulQA, which would spoil an evaluation on it."""

ORIGIN = (
    "The prompts are from UltraFeedback (openbmb/UltraFeedback, arXiv 2310.01377, MIT); those of TruthfulQA are left "
    "out unless asked for by name."
)
ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
TASK = "instructions"


@dataclass(frozen=True)
class RatingCounts:
    """What a file of rated completions gave, and what it could not give."""

    rows: int
    bad: tuple[BadRow, ...]
    """Every row that gave nothing, ties and repeated prompts among them."""
    dropped: dict[str, int]
    """Rows in `bad` and empty responses, by reason."""
    unscored: int
    """Judgements without a value."""
    alone: int
    """Completions that no other shares the prompt with: no pair can be made of them."""
    overall_of_ten: int
    """Completions whose ``overall_score`` is 10 though their aspects' mean is at most 2: a bug of copies older than
    2023-12-29, 2,628 in all. Values do not rest on that score."""


class Rated(NamedTuple):
    """Records that `prefloop prefer` and judges' agreement work on."""

    prompts: tuple[Prompt, ...]
    completions: tuple[Completion, ...]
    judgements: tuple[Judgement, ...]
    counts: RatingCounts


@dataclass(frozen=True)
class _Answer:
    system: str
    text: str
    policy: str
    judge: str
    value: float | None
    objectives: dict[str, float]
    raw: dict[str, Any]


@dataclass
class _Records:
    """What the rows read so far gave."""

    prompts: dict[str, Prompt] = field(default_factory=dict)
    completions: list[Completion] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)
    """Line of each prompt: ratings of two rows do not compare, so a prompt belongs to one."""
    rows: int = 0
    empty: int = 0

    def add(self, line: int, question: Question, answers: Sequence[_Answer], system: bool) -> None:
        groups = _by_prompt(question, answers, system)
        earlier = next((self.lines[prompt.id] for prompt, _ in groups if prompt.id in self.lines), None)
        if earlier is not None:
            raise BadRowError(f"same prompt as an earlier row (line {earlier})")
        self.empty += sum(not answer.text.strip() for answer in answers)
        for prompt, members in groups:
            self.prompts[prompt.id], self.lines[prompt.id] = prompt, line
            for index, answer in members:
                self.completions.append(_completion(prompt, index, answer))
                self.judgements.append(_judgement(self.completions[-1], answer))

    def counts(self) -> RatingCounts:
        dropped = Counter(each.reason_kind for each in self.bad) + Counter({"empty response": self.empty})
        shared = Counter(completion.prompt_id for completion in self.completions)
        scores = [(j.raw.get("overall_score"), j.raw.get("repaired_overall")) for j in self.judgements]
        return RatingCounts(
            self.rows,
            tuple(self.bad),
            dict(sorted(dropped.items())),
            unscored=sum(judgement.value is None for judgement in self.judgements),
            alone=sum(count == 1 for count in shared.values()),
            overall_of_ten=scores.count((10, 1)),
        )


def ultrafeedback_preferences(path: Path, *, system: bool = True) -> Rated:
    """Rated completions of a ``.jsonl``, ``.json`` or ``.parquet`` file; every row that gives none is named.

    Args:
        system: keep ``custom_system_prompt`` in the prompt. False pools the four completions of a row under the bare
            instruction, as the binarised sets do: they were rated together, but answered different system messages.

    Raises:
        DataError: the file cannot be read, or no row of it is usable; the first reasons are named.
    """
    path = Path(path)
    found = _Records()
    for line, row in read_rows(path):
        found.rows += 1
        try:
            found.add(line, *_rated(row), system)
        except BadRowError as error:
            found.bad.append(BadRow(path.name, line, str(error)))
    if not found.prompts:
        reasons = "; ".join(f"line {each.line}: {each.reason}" for each in found.bad[:3]) or "it is empty"
        raise DataError(f"{path} holds no rated completion: {reasons}")
    return Rated(tuple(found.prompts.values()), tuple(found.completions), tuple(found.judgements), found.counts())


def mean_rating(annotations: Any) -> tuple[float | None, dict[str, float], str]:
    """Mean of the four aspects' ratings (strings in the file), those that are numbers, and what is wrong if one is not.

    The mean of three would compare with means of four: where one is "N/A" there is none.
    """
    ratings = {aspect: (annotations.get(aspect) or {}) if isinstance(annotations, dict) else {} for aspect in ASPECTS}
    given = {aspect: rating.get("Rating") if isinstance(rating, dict) else None for aspect, rating in ratings.items()}
    known = {aspect: number for aspect, value in given.items() if (number := read_number(value)) is not None}
    lacking = [f"{aspect} is {given[aspect]!r}" for aspect in ASPECTS if aspect not in known]
    return (None if lacking else sum(known.values()) / len(ASPECTS)), known, ", ".join(lacking)


def repaired_overall(overall: float | None, mean: float | None) -> float | None:
    """``overall_score`` by its authors' correction of 2023-12-29: a 10 with a mean of at most 2 meant 1, one with more
    than 4 stands, one between was rated again by them and is unknown here.

    >>> (
    ...     repaired_overall(10.0, 1.5),
    ...     repaired_overall(10.0, 4.5),
    ...     repaired_overall(10.0, 3.0),
    ...     repaired_overall(7.0, 3.0),
    ... )
    (1.0, 10.0, None, 7.0)
    """
    if overall != 10 or mean is None or mean > 4:
        return overall
    return 1.0 if mean <= 2 else None


def read_number(value: Any) -> float | None:
    """A finite number, also one written as text; None for anything else ("N/A", NaN)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _rated(row: Any) -> tuple[Question, list[_Answer]]:
    question = read_question(row, "all")
    if "completions" in row:
        answers = [_annotated(entry, i) for i, entry in enumerate(_list(row, "completions"), 1)]
    elif "all_generated_responses" in row:
        answers = _scored(row)
    elif "score_chosen" in row and "score_rejected" in row:
        answers = _binarised(row)
    else:
        raise BadRowError("neither completions, nor all_generated_responses, nor score_chosen and score_rejected")
    if not any(answer.text.strip() for answer in answers):
        raise BadRowError("every response is empty")
    for answer in answers:
        for text in (answer.system, answer.text, answer.policy):
            check_text(text)
    return question, answers


def _annotated(entry: Any, number: int) -> _Answer:
    if not isinstance(entry, dict) or not isinstance(entry.get("response"), str):
        raise BadRowError(f"completion {number} has no response")
    mean, objectives, lacking = mean_rating(entry.get("annotations"))
    overall = read_number(entry.get("overall_score"))
    raw: dict[str, Any] = {"overall_score": overall, "repaired_overall": repaired_overall(overall, mean)}
    if lacking:
        raw["error"] = lacking
    system = entry.get("custom_system_prompt")
    policy = f"ultrafeedback/{entry.get('model') or 'unknown'}"
    kept = system if isinstance(system, str) and system.strip() else ""
    return _Answer(kept, entry["response"], policy, "ultrafeedback/gpt-4", mean, objectives, raw)


def _scored(row: dict[str, Any]) -> list[_Answer]:
    texts, scores = _list(row, "all_generated_responses"), _list(row, "all_rm_scores")
    if len(texts) != len(scores):
        raise BadRowError(f"{len(texts)} responses but {len(scores)} scores")
    return [
        _plain(text, score, i, "all_rm_scores") for i, (text, score) in enumerate(zip(texts, scores, strict=True), 1)
    ]


def _binarised(row: dict[str, Any]) -> list[_Answer]:
    answers = []
    for i, side in enumerate(("chosen", "rejected"), 1):
        said = row.get(side)
        text = said[-1].get("content") if isinstance(said, list) and said and isinstance(said[-1], dict) else said
        answers.append(_plain(text, row[f"score_{side}"], i, "binarised"))
    if answers[0].value is not None and answers[0].value == answers[1].value:
        raise BadRowError("tie: chosen and rejected have the same score")
    return answers


def _plain(text: Any, score: Any, number: int, judge: str) -> _Answer:
    if not isinstance(text, str):
        raise BadRowError(f"response {number} is not text")
    value = read_number(score)
    raw = {} if value is not None else {"error": f"the score is {score!r}"}
    return _Answer("", text, "imported", f"imported/{judge}", value, {}, raw)


def _list(row: dict[str, Any], key: str) -> Sequence[Any]:
    value = row.get(key)
    if not isinstance(value, list) or not value:
        raise BadRowError(f"{key} is not a filled list")
    return value


def _by_prompt(
    question: Question, answers: Sequence[_Answer], system: bool
) -> list[tuple[Prompt, list[tuple[int, _Answer]]]]:
    """The row's prompts, one per system message, each with its answers and their places in the row."""
    meta = {"source": question.source, "category": question.category, "reference": question.reference}
    groups: dict[str, list[tuple[int, _Answer]]] = {}
    for index, answer in enumerate(answers):
        if answer.text.strip():
            groups.setdefault(answer.system if system else "", []).append((index, answer))
    found = []
    for text, members in groups.items():
        first: tuple[Message, ...] = ({"role": "system", "content": text},) if text else ()
        messages = (*first, *(m for m in question.messages if not (first and m["role"] == "system")))
        found.append((Prompt.create(messages, TASK, "train", {k: v for k, v in meta.items() if v}), members))
    return found


def _completion(prompt: Prompt, index: int, answer: _Answer) -> Completion:
    identity = content_id("completion", prompt.id, answer.policy, index, answer.text)
    return Completion(identity, prompt.id, index, 0, answer.text, (), (), "stop", answer.policy, {}, 0)


def _judgement(completion: Completion, answer: _Answer) -> Judgement:
    return Judgement.create(
        completion.prompt_id,
        (completion.id,),
        answer.judge,
        "score",
        answer.value,
        objectives=answer.objectives,
        raw=answer.raw,
    )
