"""Corrected answers are executed before they are trained on: a correction is a guess like any other answer.

The sandbox that ran the answers runs them, and where their prompt has a gold, the execution judge compares the results.
What fails or is wrong stays in the log and among the completions, says so, and does not become the chosen answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.annotation.results import Execution, query_of, run_answers
from prefloop.preferences.people import PEOPLE
from prefloop.progress import note
from prefloop.records import CORRECTED, LEFT_OUT, Completion, Judgement, Prompt
from prefloop.store.files import cache_folder

if TYPE_CHECKING:
    from prefloop.annotation.export_records import Exported

GOLD = "gold_sql"
"""Key of a prompt's meta: the query to compare with, None where none can answer."""
Databases = Sequence[Path] | Mapping[str, Sequence[Path | str]]
"""All of one set, or sets by the name that a prompt's ``meta.database`` gives them."""
_UNDECIDED = "internal", "gold_error"


def execute_corrections(found: Exported, sql: Path | None = None) -> dict[str, Execution]:
    """What became of each corrected answer, by completion id.

    Args:
        sql: SQLite file on which they are run; default the project's own setting, else the leagues of nba-sql prompts.

    Raises:
        DataError: `sql` is missing, or no SQLite file.
        StoreError: its snapshot cannot be written.
        JudgeError: the sandbox cannot be started.
    """
    made = {completion.id: completion for completion in found.edited.values()}
    prompts = {prompt.id: prompt for prompt in found.prompts}
    before = {row["completion_id"]: row["text"] for answers in found.answers.values() for row in answers.values()}
    executed = {}
    asked: dict[str, list[Completion]] = {}
    for correction in made.values():
        prompt = prompts[correction.prompt_id]
        if not (GOLD in prompt.meta or query_of(correction.text) or query_of(before[correction.sampling["edited"]])):
            executed[correction.id] = Execution("not SQL")
        else:
            asked.setdefault(prompt.task, []).append(correction)
    for task, corrections in asked.items():
        league = any("league" in prompts[correction.prompt_id].meta for correction in corrections)
        databases = _databases(task, sql, found.config.sql, league)
        executed |= (
            _executed(corrections, prompts, databases)
            if databases
            else {correction.id: Execution("not executed") for correction in corrections}
        )
    return executed


def stands_with(correction: Completion, execution: Execution) -> Completion:
    """The correction with its result in ``sampling["executed"]``, beside what it corrects."""
    if execution.result is None:
        return correction
    told = {"outcome": execution.outcome, **asdict(execution.result)}
    return replace(correction, sampling={**correction.sampling, "executed": told})


def told(judgements: Sequence[Judgement], executed: Mapping[str, Execution]) -> dict[str, Any]:
    """``outcomes``, how many corrections came to which, and ``held_back``, each that execution keeps from training."""
    held: dict[tuple[int, str], dict[str, Any]] = {}  # one for all the answers that it would have been above
    for judgement in judgements:
        answer = judgement.completion_ids[0]
        execution = executed.get(answer) if judgement.raw["status"] == CORRECTED else None
        if execution is None or not execution.left_out or judgement.raw.get(LEFT_OUT) != execution.left_out:
            continue
        held[judgement.raw["seq"], answer] = {
            "item_id": judgement.raw["item_id"],
            "seq": judgement.raw["seq"],
            "completion_id": answer,
            "rater": judgement.judge.removeprefix(PEOPLE),
            "reason": execution.left_out,
            "error": execution.result.error if execution.result else None,
        }
    outcomes = Counter(execution.outcome for execution in executed.values())
    return {"outcomes": dict(sorted(outcomes.items())), "held_back": list(held.values())}


def _databases(task: str, given: Path | None, setting: Path | None, league: bool) -> Databases:
    """Databases on which a task's corrections are run, the first for their rows; none where it is not at hand.

    A task of one's own is judged on its variant, too, where the file is the copy in its folder.

    Args:
        league: the database is a real league, which has a variant.
    """
    from prefloop.sql.snapshot import snapshot
    from prefloop.tasks.database.task import NAME as OWN
    from prefloop.tasks.database.task import sets_beside
    from prefloop.tasks.nba.task import NAME, judge_databases

    if given is None and setting is not None and not setting.is_file():
        note(f"{setting} is not here any more: corrected answers are not executed; name its place with --sql")
        return []
    if chosen := given or setting:
        place = chosen.expanduser().absolute()  # a link stays one: it is beside the variant
        if league:
            return judge_databases(str(place))
        if task == OWN:
            if sets := sets_beside(place):
                return sets
            note(
                f"{place} is not the copy in a task folder: corrected answers are judged on it alone, not on a variant"
            )
        return [snapshot(place, cache_folder() / "databases")]
    return judge_databases() if task == NAME else []


def _executed(
    corrections: Sequence[Completion], prompts: Mapping[str, Prompt], databases: Databases
) -> dict[str, Execution]:
    first = next(iter(databases.values())) if isinstance(databases, Mapping) else databases
    results = run_answers([correction.text for correction in corrections], Path(first[0]))
    verdicts = _verdicts([c for c in corrections if GOLD in prompts[c.prompt_id].meta], prompts, databases)
    return {
        correction.id: Execution(verdicts.get(correction.id) or _without_gold(correction, result.error), result)
        for correction, result in zip(corrections, results, strict=True)
    }


def _without_gold(correction: Completion, error: str | None) -> str:
    if query_of(correction.text) is None:
        return "no query"
    return "runs" if error is None else "fails"


def _verdicts(corrections: Sequence[Completion], prompts: Mapping[str, Prompt], databases: Databases) -> dict[str, str]:
    """Outcomes by the task's check; those that it cannot decide are left out."""
    from prefloop.config.judges import ExecutionConfig
    from prefloop.judging.execution import ExecutionJudge

    if not corrections:
        return {}
    known = list({c.prompt_id: prompts[c.prompt_id] for c in corrections}.values())
    with ExecutionJudge(databases, ExecutionConfig()) as judge:
        judged = judge.judge(known, corrections, label="corrections")
    return {j.completion_ids[0]: _outcome(j) for j in judged if j.raw["status"] not in _UNDECIDED}


def _outcome(judgement: Judgement) -> str:
    if judgement.objectives.get("correct") == 1:
        return "right"
    status = judgement.raw["status"]
    return {"ok": "wrong", "not_refused": "wrong", "no_sql": "no query"}.get(status, "fails")
