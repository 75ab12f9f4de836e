"""What a prompt says before the question: the answer format, the policies, and as much schema as asked for."""

from __future__ import annotations

POLICY_VERSION = 1

FORMAT = """You answer questions about an NBA database in SQLite.
Answer with one line that starts with "Plan:" and says in plain words what is computed from which tables and which \
games count, then one query in a fenced sql block. If the database cannot answer, say in the plan that it cannot be \
answered and why, and give no query."""

POLICIES = f"""Policies (version {POLICY_VERSION}):
- no season said: the latest season in the database; "career" means all seasons; 2022-23 is season 2023
- no phase said: the regular season; "playoffs" and "postseason" are every other game_type
- averages count games played only (did_not_play = 0); percentages are made over attempted, from sums
- "last n games" are the newest n games, those a player played, of any season and phase
- leaders in averages need 10 games (3 where a filter narrows the games), in percentages 40 attempts
- round averages to 1 decimal and fractions to 3; a threshold never met counts 0"""


def system_message(schema: str) -> str:
    """The system message for ``none`` (empty: the policy was trained on the task), ``names`` or ``ddl``."""
    if schema == "none":
        return ""
    from prefloop.tasks.nba.schema import ddl, table_columns

    if schema == "ddl":
        text = ddl()
    else:
        text = "\n".join(f"{table}({', '.join(columns)})" for table, columns in table_columns().items())
    return f"{FORMAT}\n\n{POLICIES}\n\nSchema:\n{text}"
