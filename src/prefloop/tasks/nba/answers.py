"""The answer format: one line of plan in plain words, then one fenced SQL block; or a refusal without SQL."""

from __future__ import annotations

REFUSAL_WORDS = ("cannot be answered", "cannot answer", "not in the database", "no data on")


def render_answer(plan: str, sql: str | None) -> str:
    """The answer as text.

    >>> print(render_answer("number of games from games.", "SELECT COUNT(*) FROM games"))
    Plan: number of games from games.
    ```sql
    SELECT COUNT(*) FROM games
    ```
    """
    return f"Plan: {plan}" if sql is None else f"Plan: {plan}\n```sql\n{sql}\n```"


def plan_of(answer: str) -> str:
    """What stands before the SQL block, without its label."""
    return answer.split("```", 1)[0].removeprefix("Plan:").strip()


def is_refusal(answer: str) -> bool:
    """Whether the answer says that the database cannot tell, and gives no SQL block."""
    return "```" not in answer and any(words in answer.lower() for words in REFUSAL_WORDS)
