"""The plan of an answer: told from a query, and compared with one.

Claims are small labels: ``table:orders``, ``average``, ``sum``, ``count``, ``limit:5``, ``value:Paris``. Of constants
a plan can only lack some: which of its words are constants, nobody can say without the query.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from sqlglot import exp

from prefloop.tasks.database.specs import parsed

_AGGREGATES: tuple[tuple[type[exp.Expression], str], ...] = (
    (exp.Avg, "average"),
    (exp.Sum, "sum"),
    (exp.Count, "count"),
    (exp.Max, "largest"),
    (exp.Min, "smallest"),
)
_WORDS = (
    (re.compile(r"\b(average|mean)\b", re.IGNORECASE), "average"),
    (re.compile(r"\b(total|sum)\b", re.IGNORECASE), "sum"),
    (re.compile(r"\b(number of|count)\b", re.IGNORECASE), "count"),
    (re.compile(r"\b(largest|maximum|max)\b", re.IGNORECASE), "largest"),
    (re.compile(r"\b(smallest|minimum|min)\b", re.IGNORECASE), "smallest"),
    (re.compile(r"\btop (\d+)\b", re.IGNORECASE), r"limit:\1"),
)


def plan_agreement(plan: str, sql: str, tables: Sequence[str], dialect: str) -> float | None:
    """F1 of the plan's claims and the query's, in 0..1; None where the SQL cannot be parsed.

    >>> plan_agreement(
    ...     "number of rows from pets; weight > 10.", "SELECT COUNT(*) FROM pets WHERE weight > 10", ["pets"], "sqlite"
    ... )
    1.0
    """
    done = _query_claims(sql, dialect)
    if done is None:
        return None
    plan = plan.replace("''", "'")  # a text as SQL spells it
    said = {match.expand(label) for pattern, label in _WORDS for match in pattern.finditer(plan)}
    said |= {f"table:{name.lower()}" for name in tables if _says(plan, name)}
    said |= {claim for claim in done if claim.startswith("value:") and _says(plan, claim[6:])}
    return 2 * len(said & done) / (len(said) + len(done)) if said or done else 1.0


def _says(plan: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", plan, re.IGNORECASE) is not None


@lru_cache(maxsize=16_384)
def _query_claims(sql: str, dialect: str) -> frozenset[str] | None:
    tree = parsed(sql, dialect)
    if tree is None:
        return None
    named = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    found = {f"table:{table.name.lower()}" for table in tree.find_all(exp.Table)} - {f"table:{name}" for name in named}
    found |= {label for kind, label in _AGGREGATES if tree.find(kind)}
    limit = tree.args.get("limit")
    if isinstance(limit, exp.Limit) and isinstance(limit.expression, exp.Literal):
        found.add(f"limit:{limit.expression.this}")
    where = list(tree.find_all(exp.Where, exp.Having))
    return frozenset(
        found | {f"value:{value.this}" for part in where for value in part.find_all(exp.Literal) if value.this}
    )


def plan_of_query(sql: str | None, dialect: str) -> str:
    """A plan in plain words that makes the query's claims.

    >>> plan_of_query(
    ...     "SELECT name, AVG(age) FROM pets WHERE kind = 'dog' GROUP BY name ORDER BY 2 DESC LIMIT 3", "sqlite"
    ... )
    "name and average age from pets; kind = 'dog'; for each name; by 2, descending; top 3."
    """
    if sql is None:
        return "this cannot be answered from the database."
    tree = parsed(sql, dialect)
    if tree is None:
        return f"{' '.join(sql.split())}."
    named = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    tables = sorted({table.name for table in tree.find_all(exp.Table)} - named, key=str.lower)
    tables = [name for name in tables if name.lower() not in named]
    parts = [f"{' and '.join(_told(column.unalias(), dialect) for column in tree.selects)} from {', '.join(tables)}"]
    parts += [_told(part.this, dialect) for part in tree.find_all(exp.Where)]
    if groups := tree.args.get("group"):
        parts.append(f"for each {', '.join(_told(column, dialect) for column in groups.expressions)}")
    parts += [f"only where {_told(part.this, dialect)}" for part in tree.find_all(exp.Having)]
    if order := tree.args.get("order"):
        keys = [f"{_told(k.this, dialect)}, {'de' if k.args.get('desc') else 'a'}scending" for k in order.expressions]
        parts.append(f"by {', then '.join(keys)}")
    limit = tree.args.get("limit")
    if isinstance(limit, exp.Limit):
        parts.append(f"top {limit.expression.sql(dialect=dialect)}")
    return "; ".join(part for part in parts if part) + "."


_NAMES = {exp.Avg: "average", exp.Sum: "total", exp.Max: "largest", exp.Min: "smallest"}


def _told(node: exp.Expression, dialect: str) -> str:
    """An expression with its aggregates in words and without table aliases."""

    def reworded(part: exp.Expression) -> exp.Expression:
        if isinstance(part, exp.Count):
            inner = part.this
            if isinstance(inner, exp.Distinct):
                return exp.Var(this=f"number of different {', '.join(_told(e, dialect) for e in inner.expressions)}")
            return exp.Var(
                this="number of rows" if isinstance(inner, exp.Star) else f"number of {_told(inner, dialect)}"
            )
        if name := _NAMES.get(type(part)):
            return exp.Var(this=f"{name} {_told(part.this, dialect)}")
        if isinstance(part, exp.Column) and part.table:
            return exp.Column(this=part.this.copy())
        return part

    return node.copy().transform(reworded).sql(dialect=dialect, comments=False)
