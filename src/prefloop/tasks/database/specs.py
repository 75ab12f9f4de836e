"""What counts as equal for a question that came without a comparison: from its words, and from its gold's limit.

The rules, each counted in the audit:

* a question that asks for an order ("sorted by", "in alphabetical order", "from oldest to youngest") whose gold has
  one is compared by its sort keys; in others the order of rows means nothing, whatever the gold does;
* "to 2 decimal places" compares at 2 decimals;
* ``ORDER BY … LIMIT k`` is a top k: the answer is compared with the whole ranking, and any of the rows that tie for
  the last place will do. Sort keys that the gold does not show are added to what it is compared with, as columns
  that an answer may leave out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import sqlglot
from sqlglot import exp

RANKING_ROWS = 1_000
"""Rows of a ranking that are compared; a tie that goes on beyond them cannot be."""

_ORDERED = re.compile(
    r"\b(sort(ed|ing)?|order(ed)?( \w+){0,4} by|order(ed)? (alphabetically|chronologically)|arranged?|rank(ed|ing)?"
    r"|in (the )?(\w+ )?((alphabetic|chronologic|lexicographic|numeric)(al)?|ascending|descending|increasing|decreasing"
    r"|reverse)( \w+)* order|in (the )?order of|(in )?(ascending|descending)|from (the )?\w+est to (the )?\w+est"
    r"|from (the )?most \w+ to (the )?least|alphabetically|chronologically)\b",
    re.IGNORECASE,
)
_DECIMALS = re.compile(r"\b(\d|one|two|three|four) decimals?( places?| points?| digits?)?\b", re.IGNORECASE)
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}


@dataclass(frozen=True)
class Spec:
    """How one gold is compared."""

    comparison: dict[str, Any]
    compare_sql: str | None = None
    rules: tuple[str, ...] = field(default=())
    """Names of the rules that spoke."""


def infer(question: str, sql: str, dialect: str, start: dict[str, Any], ordered: bool = True) -> Spec:
    """The comparison of a question by the rules above.

    Args:
        start: what its layout says already; it is not overruled.
        ordered: False where the layout never compares the order.
    """
    comparison, rules = dict(start), []
    if "decimals" not in comparison and (found := _DECIMALS.search(question)):
        comparison["decimals"] = _NUMBERS.get(found[1].lower()) or int(found[1])
        rules.append("decimals that the question asks for")
    tree = parsed(sql, dialect)
    order = tree.args.get("order") if tree is not None else None
    if tree is None or order is None or {"order", "top_k"} & comparison.keys():
        return Spec(comparison, None, tuple(rules))
    asked = ordered and _ORDERED.search(question) is not None
    k = _limit(tree)
    if k is None and (not asked or tree.args.get("limit")):
        return Spec(comparison, None, tuple(rules))
    keyed = with_keys(tree)
    if keyed is None:
        return Spec(comparison, None, (*rules, "a sort key that cannot be shown: compared without it"))
    shown, keys, descending, added = keyed
    if k is not None and len(set(descending)) > 1:
        return Spec(comparison, None, (*rules, "a limit by keys of both directions: its rows as they are"))
    if added:
        comparison["optional"] = sorted({*comparison.get("optional", ()), *added})
    if asked and (k is None or k > 1):
        comparison |= {"order": "keys", "order_keys": keys}
        rules.append("order that the question asks for")
    compare_sql = None
    if k is not None:
        comparison |= {"top_k": k, "order_keys": keys}
        if not descending[0]:
            comparison["descending"] = False
        shown = shown.limit(max(RANKING_ROWS, 2 * k))
        compare_sql = shown.sql(dialect=dialect)
        rules.append("top k of a limit")
    elif added:
        compare_sql = shown.sql(dialect=dialect)
    return Spec(comparison, compare_sql, tuple(rules))


def parsed(sql: str, dialect: str) -> exp.Query | None:
    """The one query of a text, or None."""
    try:
        trees = [tree for tree in sqlglot.parse(sql, dialect=dialect) if tree is not None]
    except (sqlglot.errors.SqlglotError, RecursionError):
        return None
    return trees[0] if len(trees) == 1 and isinstance(trees[0], exp.Query) else None


def _limit(tree: exp.Query) -> int | None:
    """k of a plain ``LIMIT k``; None without one, or with an offset: that is a place in the ranking, not its top."""
    limit = tree.args.get("limit")
    if not isinstance(limit, exp.Limit) or tree.args.get("offset") or limit.args.get("offset"):
        return None
    return int(limit.expression.this) if isinstance(limit.expression, exp.Literal) and limit.expression.is_int else None


def with_keys(tree: exp.Query) -> tuple[exp.Query, list[int], list[bool], list[int]] | None:
    """The query without its limit and with all sort keys among its columns.

    Returns:
        The query; positions of the sort keys; whether each descends; positions that were added. None where a key
        cannot be shown: the query is a set operation, shows ``*``, or is DISTINCT.
    """
    shown = tree.copy()
    shown.set("limit", None)
    columns = list(shown.selects)
    if any(column.find(exp.Star) and not column.find(exp.Count) for column in columns):
        return None
    keys, descending, added = [], [], []
    for ordered in shown.args["order"].expressions:
        position = _position(ordered.this, columns)
        if position is None:
            if not isinstance(shown, exp.Select) or shown.args.get("distinct"):
                return None
            position = len(columns) + len(added)
            shown = shown.select(ordered.this.copy(), copy=False)
            added.append(position)
        keys.append(position)
        descending.append(bool(ordered.args.get("desc")))
    return shown, keys, descending, added


def _position(key: exp.Expression, columns: list[exp.Expression]) -> int | None:
    if isinstance(key, exp.Literal) and key.is_int:
        return int(key.this) - 1 if 0 < int(key.this) <= len(columns) else None
    wanted = _text(key)
    for i, column in enumerate(columns):
        if wanted in (_text(column.unalias()), column.alias.lower()):
            return i
        if (
            isinstance(key, exp.Column)
            and not key.table
            and isinstance(column, exp.Column)
            and column.name.lower() == key.name.lower()
        ):
            return i
    return None


def _text(node: exp.Expression) -> str:
    return node.sql(normalize=True, identify=False, comments=False).replace('"', "").lower()


def shape(sql: str, dialect: str) -> str:
    """The kind of a query, as a family: ``nested, join, group, top, aggregate, list``, or ``other``.

    >>> shape("SELECT COUNT(*) FROM a JOIN b ON a.x = b.x", "sqlite"), shape("SELECT x FROM a", "sqlite")
    ('join', 'list')
    """
    tree = parsed(sql, dialect)
    if tree is None:
        return "other"
    if not isinstance(tree, exp.Select) or len(list(tree.find_all(exp.Select))) > 1:
        return "nested"
    if tree.args.get("joins"):
        return "join"
    if tree.args.get("group"):
        return "group"
    if tree.args.get("limit"):
        return "top"
    return "aggregate" if any(column.find(exp.AggFunc) for column in tree.selects) else "list"


def skeleton(sql: str, dialect: str) -> str:
    """The query's text with its constants taken out: what questions of one template share."""
    tree = parsed(sql, dialect)
    if tree is None:
        return " ".join(sql.lower().split())
    blank = tree.transform(lambda node: exp.Placeholder() if isinstance(node, exp.Literal) else node)
    return blank.sql(dialect=dialect, normalize=True, identify=False, comments=False).lower()
