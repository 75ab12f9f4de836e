"""The page on which a person reads two models' answers side by side, openly or blind.

One self-contained HTML file: its own style sheet and script are the only ones that its Content-Security-Policy lets
run, and it can reach no network. The rows travel as JSON; the script puts them on the page as text, never as markup.
The same rows give the same bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite
from typing import Any, Literal

from prefloop.evaluation import wording
from prefloop.evaluation.pages import asset, policy_source, templates
from prefloop.records import Message, canonical_json, content_id

TEMPLATE, STYLES = "reading.html.j2", ("report.css", "reading.css")
SCRIPTS = ("reading_text.js", "reading_marks.js", "reading.js")
MOST_BYTES = 16_000_000
"""Of the rows on a page, which a browser then opens at once; of more rows a part is drawn."""
UNCATEGORISED = "uncategorised"
UNSAFE = re.compile("[<>&\u2028\u2029\u007f-\u009f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What could end a script element, is no UTF-8, or reorders what a reader of the source sees."""


@dataclass(frozen=True)
class ReadingRow:
    """One prompt, the answers of models a and b, and what the judge said of them."""

    prompt: tuple[Message, ...]
    a: str
    b: str
    verdict: Literal["a", "b", "tie", "unscored"]
    probability: float | None
    """That b is better, 0..1; None where the judge gives none."""
    inconsistent: bool
    """The judge's two orders disagreed."""
    category: str
    scores_a: dict[str, float]
    """Score and objectives by name; what is not finite is shown as missing."""
    scores_b: dict[str, float]
    tokens_a: int
    tokens_b: int


def reading_page(
    rows: Sequence[ReadingRow], *, name_a: str, name_b: str, summary: Sequence[tuple[str, str]], title: str
) -> str:
    """The page as HTML. It opens from disk; ``#blind&verdict=tie&item=3`` behind its address opens it in that state.

    In blind mode names, scores and verdicts are hidden and each item's sides are shuffled by a hash of the item, so
    they are the same whenever the page is opened. Marks a reader makes stay in their browser until downloaded.

    Args:
        rows: in the order in which they are read. Where they are more than `MOST_BYTES` a part is drawn by their
            hashes, and the page says of how many.
        summary: label and value of the figures at the top; hidden in blind mode, as is the title.
    """
    from markupsafe import Markup

    environment = templates()
    environment.filters["visible"] = wording.visible
    items = _items(rows)
    kept = _within(items)
    if len(kept) < len(items):
        summary = [*summary, ("shown on this page", f"{len(kept):,} of {len(items):,}, drawn by chance")]
    style, script = "".join(map(asset, STYLES)), "".join(map(asset, SCRIPTS))
    names = (name_a, name_b) if name_a != name_b else (f"{name_a} (a)", f"{name_b} (b)")
    return environment.get_template(TEMPLATE).render(
        title=title,
        names=names,
        summary=summary,
        categories=sorted({item["category"] for item in kept}),
        data=Markup(_data(kept, names)),
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src {policy_source(style)}; script-src {policy_source(script)}; "
        "base-uri 'none'; form-action 'none'",
    )


def _items(rows: Sequence[ReadingRow]) -> list[dict[str, Any]]:
    """The rows as the script reads them, each with an id of its own."""
    met: Counter[str] = Counter()
    items = []
    for row in rows:
        identity = content_id("reading", _json([list(row.prompt), row.a, row.b]))
        met[identity] += 1
        items.append(_item(row, identity if met[identity] == 1 else f"{identity}-{met[identity]}"))
    return items


def _within(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many items as `MOST_BYTES` allow, in their order: those whose ids, which are hashes, come first."""
    places = sorted(range(len(items)), key=lambda place: items[place]["id"])
    sizes = accumulate(len(_json(items[place]).encode()) for place in places)
    kept = {place for place, size in zip(places, sizes, strict=True) if size <= MOST_BYTES}
    return [item for place, item in enumerate(items) if place in kept]


def _data(items: Sequence[dict[str, Any]], names: tuple[str, str]) -> str:
    """What the script reads, as JSON that cannot end the element it stands in."""
    page = content_id("reading page", [item["id"] for item in items])
    return _json({"page": page, "names": {"a": names[0], "b": names[1]}, "rows": items})


def _item(row: ReadingRow, identity: str) -> dict[str, Any]:
    return {
        "id": identity,
        "swapped": int(content_id("side", identity), 16) % 2 == 1,
        "prompt": [{"role": message["role"], "content": message["content"]} for message in row.prompt],
        "a": row.a,
        "b": row.b,
        "verdict": row.verdict,
        "probability": _finite(row.probability),
        "inconsistent": row.inconsistent,
        "category": row.category or UNCATEGORISED,
        "scores": _scores(row.scores_a, row.scores_b),
        "tokens": {"a": row.tokens_a, "b": row.tokens_b},
    }


def _scores(a: Mapping[str, float], b: Mapping[str, float]) -> list[dict[str, Any]]:
    """By name, in the order given."""
    return [{"name": name, "a": _finite(a.get(name)), "b": _finite(b.get(name))} for name in dict.fromkeys([*a, *b])]


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _json(value: Any) -> str:
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", canonical_json(value))
