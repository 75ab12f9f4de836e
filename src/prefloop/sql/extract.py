"""The query in an answer."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"```[ \t]*sqlite3?[ \t]*\n(.*?)```|```[ \t]*sql[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def extract_sql(text: str) -> str | None:
    """The last finished fenced ``sql`` block, without surrounding space and final semicolons.

    An unfinished fence is no block: what was cut off must not run.

    >>> extract_sql("Plan: count.\\n```sql\\nSELECT 1;\\n```")
    'SELECT 1'
    >>> extract_sql("```sql\\nSELECT 1") is None
    True
    """
    found = [first or second for first, second in _BLOCK.findall(text)]
    return found[-1].strip().rstrip("; \n\t") or None if found else None
