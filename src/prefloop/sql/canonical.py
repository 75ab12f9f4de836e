"""One spelling for queries that mean the same: case, quotes, alias names and the order of AND set right."""

from __future__ import annotations

from functools import lru_cache

import sqlglot
from sqlglot import exp


@lru_cache(maxsize=16_384)
def canonical_sql(sql: str) -> str | None:
    """Canonical text of a SQLite query, or None where it cannot be parsed.

    Equal texts mean the same; queries that mean the same may still have different texts.

    >>> canonical_sql("select A.x from t as A where A.y=1 and A.x>2") == canonical_sql(
    ...     "SELECT b.x FROM t b WHERE b.x > 2 AND b.y = 1"
    ... )
    True
    """
    try:
        statements = [tree for tree in sqlglot.parse(sql, dialect="sqlite") if tree is not None]
    except (sqlglot.errors.SqlglotError, RecursionError):
        return None
    if len(statements) != 1:
        return None
    tree = _renamed(statements[0].copy())
    for conjunction in list(tree.find_all(exp.Where, exp.Having)):
        parts = sorted(
            conjunction.this.flatten() if isinstance(conjunction.this, exp.And) else [conjunction.this], key=_text
        )
        conjunction.set("this", exp.and_(*(part.copy() for part in parts), copy=False))
    return _text(tree)


@lru_cache(maxsize=16_384)
def masked_sql(sql: str) -> str | None:
    """Canonical text with every number and string a question mark, or None where it cannot be parsed.

    >>> masked_sql("SELECT x FROM t WHERE y = 'a' LIMIT 3") == masked_sql("select x from t where y = 'b' limit 5")
    True
    """
    canonical = canonical_sql(sql)
    if canonical is None:
        return None
    tree = sqlglot.parse_one(canonical, dialect="sqlite")
    for literal in list(tree.find_all(exp.Literal)):
        literal.replace(exp.Placeholder())
    return canonical_sql(_text(tree))  # the order of AND was that of the literals


def _text(tree: exp.Expression) -> str:
    return tree.sql(dialect="sqlite", normalize=True, identify=False, comments=False)


def _renamed(tree: exp.Expression) -> exp.Expression:
    """Table aliases become t1, t2, … in order of appearance; names lose their case and quotes."""
    for identifier in tree.find_all(exp.Identifier):
        column = identifier.parent
        if identifier.quoted and isinstance(column, exp.Column) and not column.table:
            continue  # SQLite reads "Live final" as a string where no column has that name
        identifier.set("quoted", False)
        identifier.set("this", identifier.this.lower())
    names: dict[str, str] = {}
    for table in tree.find_all(exp.Table):
        if table.alias:
            names.setdefault(table.alias, f"t{len(names) + 1}")
            table.set("alias", exp.TableAlias(this=exp.to_identifier(names[table.alias])))
    for column in tree.find_all(exp.Column):
        if column.table in names:
            column.set("table", exp.to_identifier(names[column.table]))
    return tree
