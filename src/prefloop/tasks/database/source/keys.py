"""Foreign keys nobody declared: guessed by name, and kept only where the values say so too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from prefloop.tasks.database.source.profile import Profile
from prefloop.tasks.database.source.schema import ForeignKey, Reader, Schema, Table, quoted, reading
from prefloop.tasks.database.words import singular, words

CHECKED_VALUES = 1_000
"""Distinct values of a column that are looked up in its guessed parent."""

Profiles = Mapping[str, Mapping[str, Profile]]


def with_guessed_keys(connection: Reader, schema: Schema, profiles: Profiles) -> Schema:
    """The schema with the keys that names suggest and values confirm, marked as guessed.

    ``customer_id`` is taken for a key of ``customers.id``, and a column for a key of another table's key column of
    the same name, where every value (of the first `CHECKED_VALUES` distinct ones) occurs there.
    """
    known = {(key.table, key.column) for key in schema.keys}
    guessed = []
    for table in schema.tables:
        for column in table.columns:
            if (table.name, column.name) in known or (column.name,) == table.primary_key:
                continue
            for key in _suggested(schema, table, column.name, profiles):
                if _confirmed(connection, schema, key):
                    guessed.append(key)
                    break
    return replace(schema, keys=(*schema.keys, *guessed))


def _suggested(schema: Schema, table: Table, column: str, profiles: Profiles) -> list[ForeignKey]:
    """Parents by name, the best first: key of the same name, then the parent's name with its key's."""
    name, found = words(column), []
    for parent in schema.tables:
        if parent.name == table.name:
            continue
        for target in parent.columns:
            if not (target.name in parent.unique or _unique(parent, profiles[parent.name][target.name])):
                continue
            key = words(target.name)
            one, last = singular(words(parent.name)), words(parent.name).split()[-1]
            if name == key and key not in ("id", "name", "code", "key"):
                rank = 1
            elif name in (f"{one} {key}", f"{singular(last)} {key}", f"{words(parent.name)} {key}"):
                rank = 0
            else:
                continue
            found.append((rank, ForeignKey(table.name, column, parent.name, target.name, declared=False)))
    return [key for _, key in sorted(found, key=lambda item: (item[0], item[1].parent, item[1].parent_column))]


def _unique(table: Table, profile: Profile) -> bool:
    """Unique in all rows of a table without a declared key."""
    return not table.primary_key and profile.unique and profile.rows == table.rows


def _confirmed(connection: Reader, schema: Schema, key: ForeignKey) -> bool:
    column, target = quoted(key.column, schema.dialect), quoted(key.parent_column, schema.dialect)
    child, parent = quoted(key.table, schema.dialect), quoted(key.parent, schema.dialect)
    kinds = {_family(schema.table(t), c) for t, c in ((key.table, key.column), (key.parent, key.parent_column))}
    if len(kinds) > 1:
        return False  # engines would compare a number with a text, or refuse to
    with reading(f"column {child}.{column}", schema.dialect):
        some, lost = connection.execute(
            f"SELECT COUNT(*), COALESCE(SUM(CASE WHEN p.{target} IS NULL THEN 1 ELSE 0 END), 0) FROM "
            f"(SELECT DISTINCT {column} AS v FROM {child} WHERE {column} IS NOT NULL LIMIT {CHECKED_VALUES}) AS c "
            f"LEFT JOIN {parent} AS p ON p.{target} = c.v"
        ).fetchone()
    return bool(some) and not lost


def _family(table: Table, name: str) -> str:
    """Whether a column is declared as a number, a text, or something else."""
    kind = next(column.type for column in table.columns if column.name == name).lower()
    if any(word in kind for word in ("int", "num", "dec", "real", "float", "double", "serial")):
        return "number"
    return "text" if any(word in kind for word in ("char", "text", "clob", "string", "name")) else kind
