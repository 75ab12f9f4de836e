"""One example as the model sees it, token by token, before the first step: most mistakes in data show here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefloop.models.group import Group

Show = Callable[[str], None]
"""Takes text to be read before training starts."""


def annotated(tokenizer: Any, group: Group, names: Sequence[str]) -> str:
    """Prompt and completions with a bar between tokens, and what of them is scored.

    Args:
        names: of the completions; the last names all that follow.
    """
    lines = ["example, token by token", f"  prompt, {len(group.prompt_ids)} tokens, not scored:"]
    lines.append(f"    {_tokens(tokenizer, group.prompt_ids)}")
    unscored = group.unscored or (0,) * len(group.completions)
    for place, (ids, left) in enumerate(zip(group.completions, unscored, strict=True)):
        name = names[min(place, len(names) - 1)]
        end = "ends with " + _token(tokenizer, ids[-1]) if ids[-1] in tokenizer.all_special_ids else "without end token"
        skipped = f" after {left} that are read only" if left else ""
        lines.append(f"  {name}, {len(ids) - left} tokens scored{skipped}, {end}:")
        if left:
            lines.append(f"    ({_tokens(tokenizer, ids[:left])})")
        lines.append(f"    {_tokens(tokenizer, ids[left:])}")
    return "\n".join(lines)


def _tokens(tokenizer: Any, ids: Sequence[int]) -> str:
    return "|".join(_token(tokenizer, i) for i in ids)


def _token(tokenizer: Any, token_id: int) -> str:
    """A token as text, line breaks and tabs made visible."""
    return str(tokenizer.decode([token_id])).replace("\n", "⏎").replace("\t", "⇥")
