"""When two cells are the same value, under a question's comparison spec."""

from __future__ import annotations

import math
import unicodedata
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefloop.sql.compare import ComparisonSpec


def canonical(cell: Any, spec: ComparisonSpec) -> Any:
    """The cell as it is compared: numbers as int or float, texts as NFC."""
    if isinstance(cell, bool | int | float | Decimal):
        number = int(cell) if isinstance(cell, bool | int) else float(cell)
        return _rounded(number, spec.decimals)
    if isinstance(cell, str):
        return _canonical_text(cell, spec)
    return cell


def _canonical_text(text: str, spec: ComparisonSpec) -> Any:
    text = unicodedata.normalize("NFC", text)
    text = text.strip() if spec.trim else text
    if spec.loose_types:
        try:
            return _rounded(float(text), spec.decimals)
        except ValueError:
            pass
    return text.casefold() if spec.case == "fold" else text


def _rounded(number: int | float, decimals: int | None) -> int | float:
    if decimals is None or isinstance(number, int) or not math.isfinite(number):
        return number
    return round(number, decimals)


def equal(x: Any, y: Any, spec: ComparisonSpec) -> bool:
    """Whether two canonical cells are one value: numbers within the tolerance, NULL only with NULL."""
    if is_number(x) and is_number(y):
        if isinstance(x, int) and isinstance(y, int):
            return x == y
        if math.isnan(x) or math.isnan(y):
            return math.isnan(x) and math.isnan(y)
        # half a unit in the last place apart is rounding noise, not another value
        slack = 10.0**-spec.decimals * 1e-6 if spec.decimals is not None else spec.abs_tol
        return math.isclose(x, y, rel_tol=spec.rel_tol, abs_tol=max(slack, spec.abs_tol))
    return type(x) is type(y) and x == y


def rounds_to(x: Any, y: Any, spec: ComparisonSpec) -> bool:
    """Whether they are equal after rounding to the coarser precision of the two."""
    if equal(x, y, spec):
        return True
    if not (is_number(x) and is_number(y) and math.isfinite(x) and math.isfinite(y)):
        return False
    places = min(_places(x), _places(y))
    return bool(math.isclose(round(x, places), round(y, places), rel_tol=1e-9, abs_tol=1e-12))


def _places(value: float) -> int:
    exponent = Decimal(repr(value)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def sort_key(cell: Any) -> tuple[int, Any]:
    """A total order over cells: NULL, numbers, text, bytes."""
    if cell is None:
        return (0, 0)
    if is_number(cell):
        return (1, math.inf if isinstance(cell, float) and math.isnan(cell) else cell)
    return (2, cell) if isinstance(cell, str) else (3, bytes(cell))


def is_number(cell: Any) -> bool:
    """Whether a canonical cell is one."""
    return isinstance(cell, int | float)
