"""The comparator: worked examples, top-k with ties, and the properties any such comparison must have."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.errors import ConfigError
from prefloop.sql.compare import ComparisonSpec, compare, compare_everywhere

RANKED = [("A", 30), ("B", 30), ("C", 2)]
KEYS = {"order": "keys", "order_keys": (1,)}
TOP = {"top_k": 1, "order_keys": (1,)}

CASES = [
    ("float noise", [(0.30000000000000004,)], [(0.3,)], {}, True, "exact"),
    ("int and float", [(1,)], [(1.0,)], {}, True, "exact"),
    ("int and float in two columns", [(1, 1.5)], [(1.0, 1.5)], {}, True, "exact"),
    ("number and text", [(1,)], [("1",)], {}, False, "values"),
    ("number and text, loose", [(1,)], [("1",)], {"loose_types": True}, True, "exact"),
    ("rounded average", [(27.68,)], [(27.7,)], {}, False, "rounded"),
    ("rounded average, asked for", [(27.68,)], [(27.7,)], {"decimals": 1}, True, "exact"),
    ("rounded fraction", [(0.474,)], [(0.47,)], {}, False, "rounded"),
    ("duplicate rows", [("A",), ("A",), ("B",)], [("A",), ("B",)], {}, False, "subset_rows"),
    ("duplicate rows, distinct", [("A",), ("A",), ("B",)], [("B",), ("A",)], {"distinct": True}, True, "exact"),
    ("columns swapped", [("BOS", 60), ("LAL", 55)], [(60, "BOS"), (55, "LAL")], {}, True, "permuted"),
    ("columns swapped, fixed", [("BOS", 60)], [(60, "BOS")], {"columns": "fixed"}, False, "values"),
    ("extra column", [("BOS",), ("LAL",)], [("BOS", 60), ("LAL", 55)], {}, True, "superset"),
    ("extra column, forbidden", [("BOS",)], [("BOS", 60)], {"extra_columns": "forbid"}, False, "shape"),
    ("lost association", [("A", 1), ("B", 2)], [("A", 2), ("B", 1)], {}, False, "values"),
    ("wrong order, asked for", [("A", 2), ("B", 1)], [("B", 1), ("A", 2)], KEYS, False, "order"),
    ("order inside a tie", [("A", 30), ("B", 30)], [("B", 30), ("A", 30)], KEYS, True, "exact"),
    ("strict order inside a tie", [("A", 3), ("B", 3)], [("B", 3), ("A", 3)], {"order": "strict"}, False, "values"),
    ("NULL and zero", [(None,)], [(0,)], {}, False, "values"),
    ("NULL and NULL", [(None,)], [(None,)], {}, True, "exact"),
    ("one column for two", [(5, 5)], [(5,)], {}, False, "shape"),
    ("both empty", [], [], {}, False, "empty"),
    ("both empty, allowed", [], [], {"may_be_empty": True}, True, "empty"),
    ("one empty", [(1,)], [], {}, False, "shape"),
    ("top 1 with a tie", RANKED, [("B", 30)], TOP, True, "exact"),
    ("top 1, wrong", RANKED, [("C", 2)], TOP, False, "values"),
    ("top 1, too many", RANKED, [("A", 30), ("B", 30)], TOP, False, "shape"),
    ("top 1 with all ties", RANKED, [("B", 30), ("A", 30)], {**TOP, "ties": "include_ties"}, True, "exact"),
    ("top 1 without its key", RANKED, [("B",)], {**TOP, "optional": (1,)}, True, "permuted"),
    ("lowest first", [("A", 3), ("B", 1)], [("B", 1)], {**TOP, "descending": False}, True, "exact"),
    ("fewer rows than k", [("A", 3)], [("A", 3)], {**TOP, "top_k": 5}, True, "exact"),
    ("missing row", [(1,), (2,), (3,)], [(1,), (2,)], {}, False, "subset_rows"),
    ("additional row", [(1,), (2,)], [(1,), (2,), (3,)], {}, False, "extra_rows"),
    ("accents composed", [("Dončić",)], [("Donc\u030cic\u0301",)], {}, True, "exact"),
    ("case", [("bos",)], [("BOS",)], {}, False, "values"),
    ("case folded", [("bos",)], [("BOS",)], {"case": "fold"}, True, "exact"),
    ("bytes and text", [(b"a",)], [("a",)], {}, False, "values"),
    ("not a number", [(float("nan"),)], [(float("nan"),)], {}, True, "permuted"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("gold", "predicted", "spec", "equal", "kind"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_worked_examples(gold: list, predicted: list, spec: dict, equal: bool, kind: str) -> None:
    verdict = compare(gold, predicted, ComparisonSpec(**spec))
    assert verdict.equal is equal, verdict
    if equal and kind in {"exact", "permuted"}:
        assert verdict.kind in {"exact", "permuted"}
    else:
        assert verdict.kind == kind, verdict


def test_row_overlap_by_hand() -> None:
    verdict = compare([("A",), ("A",), ("B",)], [("A",), ("C",)])
    assert (verdict.row_precision, verdict.row_recall) == (1 / 2, 1 / 3)


CELLS = st.none() | st.integers(-3, 3) | st.floats(-2, 2, width=16) | st.sampled_from(["a", "b", "é"])
TABLES = st.integers(1, 3).flatmap(lambda width: st.lists(st.tuples(*[CELLS] * width), min_size=1, max_size=6))


@given(TABLES, st.randoms())
def test_reflexive_and_blind_to_row_and_column_order(rows: list, rng: random.Random) -> None:
    shuffled = rng.sample(rows, len(rows))
    order = rng.sample(range(len(rows[0])), len(rows[0]))
    turned = [tuple(row[c] for c in order) for row in shuffled]
    assert compare(rows, rows).kind == "exact"
    assert compare(rows, turned).equal
    assert compare(turned, rows).equal  # symmetric


@given(TABLES)
def test_a_duplicated_row_breaks_equality(rows: list) -> None:
    assert not compare(rows, [*rows, rows[0]]).equal
    assert compare(rows, [*rows, rows[0]], ComparisonSpec(distinct=True)).equal


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=2, max_size=5, unique=True))
def test_swapping_two_cells_of_a_column_breaks_equality(rows: list) -> None:
    (a, x), (b, y), *rest = rows
    if a != b and x != y and {(a, y), (b, x)}.isdisjoint(rows):
        assert not compare(rows, [(a, y), (b, x), *rest], ComparisonSpec(columns="fixed")).equal


def test_specs_round_trip_and_unknown_fields_are_errors() -> None:
    spec = ComparisonSpec(decimals=1, top_k=3, order_keys=(1,))
    assert spec.to_dict() == {"decimals": 1, "top_k": 3, "order_keys": (1,)}
    assert ComparisonSpec.from_dict({"decimals": 1, "top_k": 3, "order_keys": [1]}) == spec
    for wrong in ({"order_by": "x"}, {"order": "sorted"}, {"top_k": 3}):
        with pytest.raises(ConfigError, match="comparison"):
            ComparisonSpec.from_dict(wrong)


def test_a_list_of_values_is_no_answer() -> None:
    """Each database finds its gold somewhere in the list, but in another column: a query that reads no table."""
    golds, listed = [[(3,)], [(5,)]], [[(3, 5)], [(3, 5)]]
    assert [verdict.equal for verdict in map(compare, golds, listed)] == [True, True]
    assert [verdict.equal for verdict in compare_everywhere(golds, listed)] == [True, False]
    assert not compare([(3,)], [tuple(range(200))]).equal


def test_the_same_columns_may_be_matched_in_another_order_on_both() -> None:
    """On the second database both columns hold the same, so its first matching is the identity: not a reason."""
    golds = [[("BOS", 60)], [(60, 60)]]
    predicted = [[(60, "BOS")], [(60, 60)]]
    verdicts = compare_everywhere(golds, predicted)
    assert [verdict.equal for verdict in verdicts] == [True, True]
    assert {verdict.assignment for verdict in verdicts} == {(1, 0)}
    top = ComparisonSpec(top_k=1, order_keys=(1,))
    assert all(v.equal for v in compare_everywhere([[("a", 2), ("b", 1)]] * 2, [[(2, "a")], [(2, "a")]], top))
