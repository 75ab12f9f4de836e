"""Are two query results the same answer? By values, not by text; what counts is said per question.

The comparison spec belongs to the question and is never inferred from the gold's text. Rows stay whole, columns
are matched injectively, numbers compare with a tolerance, NULL equals only NULL.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from prefloop.errors import ConfigError
from prefloop.sql.cells import canonical, equal, is_number, rounds_to, sort_key

Row = tuple[Any, ...]
EXTRA_COLUMNS = 2
"""Columns an answer may have beyond the gold's where extra ones are allowed: a listing of everything is no answer."""
NODE_CAP = 2_000
"""Column assignments tried before the verdict is ``undecided``."""

_CHOICES = {
    "order": ("none", "keys", "strict"),
    "columns": ("any_order", "fixed"),
    "extra_columns": ("allow", "forbid"),
    "ties": ("any_valid", "include_ties"),
    "case": ("exact", "fold"),
}


@dataclass(frozen=True)
class ComparisonSpec:
    """What counts as equal for one question."""

    order: str = "none"
    """``none`` bag of rows; ``keys`` sequence of sort keys, any order inside equal keys; ``strict``."""
    order_keys: tuple[int, ...] = ()
    """Positions of the sort keys in the gold's columns (for ``keys`` and `top_k`)."""
    descending: bool = True
    """Direction of the sort keys (for `top_k`)."""
    distinct: bool = False
    """Compare as sets."""
    columns: str = "any_order"
    extra_columns: str = "allow"
    """``allow`` up to `EXTRA_COLUMNS` more predicted columns (verdict ``superset``) or ``forbid`` them."""
    optional: tuple[int, ...] = ()
    """Gold columns that a prediction may leave out."""
    rel_tol: float = 1e-6
    abs_tol: float = 1e-9
    decimals: int | None = None
    """Compare numbers after rounding both to this many decimals."""
    top_k: int | None = None
    """The gold is the full ranking; the prediction its first k rows."""
    ties: str = "any_valid"
    """At the k-th place: ``any_valid`` k rows, or ``include_ties`` all of them."""
    may_be_empty: bool = False
    loose_types: bool = False
    """Numbers in text equal numbers (databases filled from CSV)."""
    case: str = "exact"
    trim: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"comparison.{name}: {getattr(self, name)!r} is none of {', '.join(choices)}")
        if self.top_k is not None and not self.order_keys:
            raise ConfigError("comparison.top_k needs order_keys: the gold columns that rank the rows")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ComparisonSpec:
        """Raises ConfigError for an unknown field."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise ConfigError(f"comparison: unknown field {unknown[0]!r}; known: {', '.join(sorted(known))}")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Only what differs from the defaults."""
        default = asdict(ComparisonSpec())
        return {key: value for key, value in asdict(self).items() if value != default[key]}


@dataclass(frozen=True)
class Verdict:
    """Outcome of one comparison."""

    equal: bool
    kind: str
    """``exact, permuted, superset, rounded, subset_rows, extra_rows, order, values, shape, empty, undecided``."""
    row_precision: float = 0.0
    row_recall: float = 0.0
    assignment: tuple[int | None, ...] | None = None
    """Predicted column for each gold column; None where an optional one is left out."""
    reason: str = ""


Assignment = tuple[int | None, ...]
"""Predicted column for each gold column; None where an optional one is left out."""


@dataclass(frozen=True)
class _Table:
    """Canonical rows and their columns."""

    rows: list[Row]
    width: int = field(default=0)

    def project(self, columns: Sequence[int]) -> list[Row]:
        return [tuple(row[c] for c in columns) for row in self.rows]


def compare_everywhere(
    golds: Sequence[Sequence[Row]], predicted: Sequence[Sequence[Row]], spec: ComparisonSpec | None = None
) -> list[Verdict]:
    """`compare` on several databases, where the same predicted columns have to be right on all of them.

    A query that lists many values is not right because each database finds its gold in another column.
    """
    pairs = list(zip(golds, predicted, strict=True))
    verdicts = [compare(gold, rows, spec) for gold, rows in pairs]
    found = {verdict.assignment for verdict in verdicts}
    if len(found) == 1 or not all(verdict.equal for verdict in verdicts):
        return verdicts
    for assignment in sorted(found, key=repr):
        again = [compare(gold, rows, spec, assignment) for gold, rows in pairs]
        if all(verdict.equal for verdict in again):
            return again
    return [verdicts[0], *(Verdict(False, "values", reason="right in other columns elsewhere") for _ in verdicts[1:])]


def compare(
    gold: Sequence[Row],
    predicted: Sequence[Row],
    spec: ComparisonSpec | None = None,
    assignment: Assignment | None = None,
) -> Verdict:
    """Compare a predicted result with the gold's.

    Args:
        gold: rows of equal width; with ``top_k`` the full ranking.
        predicted: rows of equal width.
        assignment: the only matching of columns to try; default any.

    >>> compare([("BOS", 60), ("LAL", 55)], [(60, "BOS"), (55, "LAL")]).kind
    'permuted'
    """
    spec = spec or ComparisonSpec()
    a, b = _table(gold, spec), _table(predicted, spec)
    if not a.rows and not b.rows:
        return Verdict(spec.may_be_empty, "empty", reason="" if spec.may_be_empty else "the gold is empty")
    if not a.rows or not b.rows:
        return Verdict(False, "shape", reason=f"{len(b.rows)} rows, not {len(a.rows)}")
    if spec.top_k is not None:
        return _compare_top(a, b, spec, assignment)
    verdict = _compare_tables(a, b, spec, assignment)
    if not verdict.equal and verdict.kind == "values" and _equal_when_rounded(a, b, spec):
        return Verdict(False, "rounded", verdict.row_precision, verdict.row_recall, reason="equal after rounding")
    return verdict


def _compare_tables(a: _Table, b: _Table, spec: ComparisonSpec, only: Assignment | None) -> Verdict:
    identity = tuple(range(a.width))
    if a.rows == b.rows and only in (None, identity):
        return Verdict(True, "exact", 1.0, 1.0, identity)
    required = [c for c in range(a.width) if c not in spec.optional]
    extra = EXTRA_COLUMNS if spec.extra_columns == "allow" else 0
    if not len(required) <= b.width <= a.width + extra:
        return Verdict(False, "shape", reason=f"{b.width} columns, not {a.width}")
    if len(a.rows) != len(b.rows):
        return _row_count_verdict(a, b, spec)
    wrong_order = False
    for tried, assignment in enumerate([only] if only else _assignments(a, b, spec, required)):
        if tried == NODE_CAP:
            return Verdict(False, "undecided", reason=f"more than {NODE_CAP} ways to match columns")
        kept = [c for c in range(a.width) if assignment[c] is not None]
        if spec.extra_columns == "forbid" and len(kept) < b.width:
            continue  # its further column is none of the optional ones
        left = a.project(kept)
        right = b.project([column for column in assignment if column is not None])
        if _rows_match(left, right, spec):
            if _order_matches(left, right, a.rows, spec):
                return Verdict(True, _kind(assignment, b.width), 1.0, 1.0, assignment)
            wrong_order = True
    if wrong_order:
        return Verdict(False, "order", 1.0, 1.0, reason="the rows are right, their order is not")
    precision, recall = _overlap(a, b, spec)
    return Verdict(False, "values", precision, recall, reason="no matching of columns makes the rows equal")


def _kind(assignment: Assignment, width: int) -> str:
    if width > len(assignment):
        return "superset"
    return "exact" if assignment == tuple(range(width)) else "permuted"


def _row_count_verdict(a: _Table, b: _Table, spec: ComparisonSpec) -> Verdict:
    precision, recall = _overlap(a, b, spec)
    kind = "subset_rows" if precision == 1 else "extra_rows" if recall == 1 else "shape"
    return Verdict(False, kind, precision, recall, reason=f"{len(b.rows)} rows, not {len(a.rows)}")


def _overlap(a: _Table, b: _Table, spec: ComparisonSpec) -> tuple[float, float]:
    """Bag precision and recall over the columns both have in the same place; diagnostics, not the verdict."""
    width = min(a.width, b.width)
    left = Counter(_key(row[:width], spec) for row in a.rows)
    right = Counter(_key(row[:width], spec) for row in b.rows)
    common = sum((left & right).values())
    return common / right.total(), common / left.total()


def _key(row: Row, spec: ComparisonSpec) -> Row:
    """A hashable stand-in: floats to 6 significant digits."""
    return tuple(float(f"{cell:.6g}") if isinstance(cell, float) and math.isfinite(cell) else cell for cell in row)


def _assignments(a: _Table, b: _Table, spec: ComparisonSpec, required: list[int]) -> Iterator[Assignment]:
    """Injective matchings of gold to predicted columns whose values agree as multisets, most natural first."""
    if spec.columns == "fixed":
        yield tuple(c if c < b.width else None for c in range(a.width))
        return
    candidates = {c: _column_candidates(a, b, c, spec) for c in range(a.width)}
    order = sorted(range(a.width), key=lambda c: (len(candidates[c]), c))

    def extend(position: int, chosen: dict[int, int | None]) -> Iterator[dict[int, int | None]]:
        if position == len(order):
            yield chosen
            return
        column = order[position]
        free = [c for c in candidates[column] if c not in chosen.values()]
        for candidate in free:
            yield from extend(position + 1, {**chosen, column: candidate})
        if column not in required:
            yield from extend(position + 1, {**chosen, column: None})

    for chosen in extend(0, {}):
        yield tuple(chosen[c] for c in range(a.width))


def _column_candidates(a: _Table, b: _Table, column: int, spec: ComparisonSpec) -> list[int]:
    values = sorted((row[column] for row in a.rows), key=sort_key)
    found = []
    for c in range(b.width):
        others = sorted((row[c] for row in b.rows), key=sort_key)
        if all(equal(x, y, spec) for x, y in zip(values, others, strict=True)):
            found.append(c)
    return sorted(found, key=lambda c: (c != column, c))


def _rows_match(left: list[Row], right: list[Row], spec: ComparisonSpec) -> bool:
    """Bags of rows are equal. Equality with a tolerance is not transitive: inside a group of rows that agree in
    everything but floats, one float column is matched by sorting, several by bipartite matching."""
    if spec.order == "strict":
        return all(_row_equal(x, y, spec) for x, y in zip(left, right, strict=True))
    groups: dict[Row, tuple[list[Row], list[Row]]] = {}
    for side, rows in enumerate((left, right)):
        for row in rows:
            exact = tuple(None if is_number(cell) else cell for cell in row)
            marks = tuple(is_number(cell) for cell in row)
            groups.setdefault((exact, marks), ([], []))[side].append(row)
    return all(len(x) == len(y) and _group_matches(x, y, spec) for x, y in groups.values())


def _group_matches(left: list[Row], right: list[Row], spec: ComparisonSpec) -> bool:
    x, y = (sorted(rows, key=lambda row: tuple(map(sort_key, row))) for rows in (left, right))
    if all(_row_equal(p, q, spec) for p, q in zip(x, y, strict=True)):
        return True
    if sum(map(is_number, x[0])) < 2:
        return False
    return _perfect_matching([[j for j, q in enumerate(y) if _row_equal(p, q, spec)] for p in x])


def _perfect_matching(edges: list[list[int]]) -> bool:
    """Whether every left node finds a right node of its own (augmenting paths)."""
    taken: dict[int, int] = {}

    def place(node: int, seen: set[int]) -> bool:
        for other in edges[node]:
            if other not in seen:
                seen.add(other)
                if other not in taken or place(taken[other], seen):
                    taken[other] = node
                    return True
        return False

    return all(place(node, set()) for node in range(len(edges)))


def _order_matches(left: list[Row], right: list[Row], gold: list[Row], spec: ComparisonSpec) -> bool:
    """With ``keys``: where the gold's sort keys are the same from row to row, the prediction has the same rows in any
    order. The keys are read from the whole gold: a prediction may leave their columns out."""
    if spec.order != "keys":
        return True
    starts = [i for i, row in enumerate(gold) if not i or not _same_keys(gold[i - 1], row, spec)]
    bounds = zip(starts, [*starts[1:], len(gold)], strict=True)
    return all(_rows_match(left[start:end], right[start:end], spec) for start, end in bounds)


def _same_keys(x: Row, y: Row, spec: ComparisonSpec) -> bool:
    return all(equal(x[key], y[key], spec) for key in spec.order_keys)


def _compare_top(a: _Table, b: _Table, spec: ComparisonSpec, only: Assignment | None) -> Verdict:
    """Every row better than the k-th key, none worse, and k rows in all (or all rows that tie at the k-th)."""
    assert spec.top_k is not None
    ranked = sorted(a.rows, key=lambda row: tuple(sort_key(row[k]) for k in spec.order_keys), reverse=spec.descending)
    k = min(spec.top_k, len(ranked))
    last = ranked[k - 1]

    def ties(row: Row) -> bool:
        return all(equal(row[c], last[c], spec) for c in spec.order_keys)

    better = [row for row in ranked[:k] if not ties(row)]
    level = [row for row in ranked if ties(row)]
    wanted = len(better) + len(level) if spec.ties == "include_ties" else k
    if len(b.rows) != wanted:
        return Verdict(False, "shape", reason=f"{len(b.rows)} rows, not {wanted}")
    for rows in _top_choices(better, level, b, wanted - len(better)):
        verdict = _compare_tables(_Table(rows, a.width), b, spec, only)
        if verdict.equal or verdict.kind in {"order", "shape", "undecided"}:
            return verdict
    precision, recall = _overlap(_Table(ranked[:k], a.width), b, spec)
    return Verdict(False, "values", precision, recall, reason=f"not a valid top {k}")


def _top_choices(better: list[Row], level: list[Row], b: _Table, count: int) -> Iterator[list[Row]]:
    """The ways to fill the last places: first the tied rows that the prediction names, then as ranked."""
    if count < len(level):
        named = [row for row in level if any(set(row) <= set(other) or row[0] in other for other in b.rows)]
        yield better + named[:count] if len(named) >= count else better + level[:count]
    yield better + level[:count]


def _equal_when_rounded(a: _Table, b: _Table, spec: ComparisonSpec) -> bool:
    """The same single cell or column after rounding to the coarser precision of the two."""
    if a.width != b.width or len(a.rows) != len(b.rows):
        return False
    pairs = list(zip(a.rows, b.rows, strict=True))
    return all(all(rounds_to(x, y, spec) for x, y in zip(p, q, strict=True)) for p, q in pairs)


def _table(rows: Sequence[Row], spec: ComparisonSpec) -> _Table:
    found = [tuple(canonical(cell, spec) for cell in row) for row in rows]
    if spec.distinct:
        found = list(dict.fromkeys(found))
    return _Table(found, len(found[0]) if found else 0)


def _row_equal(x: Row, y: Row, spec: ComparisonSpec) -> bool:
    return all(equal(p, q, spec) for p, q in zip(x, y, strict=True))
