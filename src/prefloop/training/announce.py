"""What is worth reading before the first step: what is trained on what, its memory, and one example.

Most mistakes in data show in an example as the model sees it, token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefloop.config.training import Tuning
from prefloop.errors import ModelError
from prefloop.models.free_memory import available_memory
from prefloop.models.group import Group, GroupStates
from prefloop.models.load import Policy
from prefloop.models.memory import largest_budget, plan_memory
from prefloop.training.ranks import Ranks

Show = Callable[[str], None]
"""Takes text to be read before training starts."""


def announce(
    show: Show | None,
    what: str,
    dropped: Mapping[str, int],
    forward: GroupStates,
    groups: Sequence[Group],
    policy: Policy,
    names: Sequence[str],
    config: Tuning,
    ranks: Ranks,
) -> int:
    """Show what will be trained; returns the token budget of a pass: the configured one, or less where memory is short.

    Args:
        show: None: say nothing, plan nothing, take the configured budget.
        what: units in words.
        dropped: what is not trained on, by reason.
        groups: one per unit; the first is the example.
        policy: what training starts from.
        names: of its completions, as for `annotated`.
    """
    if show is None:
        return config.tokens_per_batch
    lost = "".join(f"; dropped: {count:,} {reason}" for reason, count in dropped.items())
    show(f"{what}{lost}; {forward.layout} layout: {forward.why}")
    show(annotated(policy.tokenizer, groups[0], names))
    return _budget(show, forward, groups, policy, config, ranks)


def _budget(
    show: Show, forward: GroupStates, groups: Sequence[Group], policy: Policy, config: Tuning, ranks: Ranks
) -> int:
    """Tokens of a pass: as configured, or the most that fits, or where nothing seems to fit, one row at a time."""
    model = forward.base
    tokens = sum(group.tokens for group in groups)
    scored = sum(sum(group.scored) for group in groups)
    longest = max(group.longest for group in groups)
    size = max(longest, min(config.tokens_per_batch, tokens))
    own = 0 if policy.lineage.four_bit else policy.model.dtype.itemsize
    weights: dict[str, Any] = {"weight_bytes": own, "device": model.device.type}
    try:
        plan = plan_memory(model.config, config, size, round(size * scored / tokens), longest, **weights)
    except ModelError as error:  # no plan for such a model
        show(f"memory: {error}")
        return config.tokens_per_batch
    # Processes share a machine or shard a model in ways that the plan does not know: theirs is shown, not enforced.
    memory = available_memory(model.device) if ranks.world == 1 else None
    budget = config.tokens_per_batch
    if memory is not None and plan.total > memory:
        try:
            plan = largest_budget(
                model.config, config, memory, scored_share=scored / tokens, longest=longest, **weights
            )
            budget = plan.tokens
            show(f"memory is short: passes of {budget:,} tokens in place of {config.tokens_per_batch:,}")
        except ModelError as error:  # an estimate: it may still fit
            budget = longest
            show(f"memory: {error}; trying one row at a time")
    show(f"memory, estimated:\n{plan.text()}")
    return budget


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
