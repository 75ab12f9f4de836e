"""What goes into which optimizer step and which forward pass: deterministic by (seed, epoch), few padding
tokens.

A plan is computed whole before training, so the position in it is one number and a resumed run goes on
exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefloop.errors import DataError

WINDOW = 64
"""Batches that are sorted by length together: enough to pad little, few enough to keep an epoch shuffled."""


def sorted_batches(lengths: Sequence[int], budget: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of examples in batches of at most `budget` tokens, padding included; each example once.

    Shuffled, cut into windows of about `WINDOW` batches, sorted by length inside a window, cut, and the
    batches shuffled. Examples of one length stay in shuffled order, so that a set of few batches mixes
    between epochs, too. An example longer than the budget is a batch of its own.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    per_window = max(1, WINDOW * budget * len(lengths) // max(1, sum(lengths)))
    batches: list[list[int]] = []
    for start in range(0, len(order), per_window):
        window = sorted(order[start : start + per_window].tolist(), key=lambda i: lengths[i])
        batches += _filled(window, lengths, budget)
    return [batches[i] for i in generator.permutation(len(batches))]


def sorted_passes(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """All indices in forward passes of at most `budget` tokens, padding included, longest last.

    For passes without gradient, where order is free.
    """
    return _filled(sorted(range(len(lengths)), key=lambda i: (lengths[i], i)), lengths, budget)


def _filled(ordered: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Consecutive batches of `ordered` (ascending in length), each as full as the budget allows."""
    batches: list[list[int]] = []
    for index in ordered:
        if not batches or (len(batches[-1]) + 1) * lengths[index] > budget:
            batches.append([])
        batches[-1].append(index)
    return batches


def optimizer_steps(pairs: Sequence[int], batch_pairs: int, seed: int, epoch: int) -> list[list[int]]:
    """Prompts (by index) of each optimizer step: at least `batch_pairs` pairs, the last step what is left.

    A prompt's pairs stay in one step (InstructGPT, 2203.02155, section 3.5: spread out, they overfit), so a
    step may exceed `batch_pairs` by the last prompt's pairs. What is in a step depends on no token budget.

    Args:
        pairs: number of pairs of each prompt.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(pairs))
    steps: list[list[int]] = []
    for index in order.tolist():
        if not steps or sum(pairs[i] for i in steps[-1]) >= batch_pairs:
            steps.append([])
        steps[-1].append(index)
    return steps


def step_plan(training: Sequence[int], sizes: Sequence[int], per_step: int, epochs: int, seed: int) -> list[list[int]]:
    """Units of every optimizer step of all epochs, each epoch in an order of its own (see `optimizer_steps`).

    Args:
        training: units to train on.
        sizes: examples of each of them: a prompt's pairs, or 1.
        per_step: examples of a step.
    """
    return [
        [training[i] for i in step] for epoch in range(epochs) for step in optimizer_steps(sizes, per_step, seed, epoch)
    ]


def cut(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Split one step into forward passes of at most `budget` tokens: sorted by length, each as full as may be.

    Packed rows have no padding, so only the number of passes counts; sorted, since short rows are attended to
    together. A row longer than the budget goes alone.

    >>> cut([10, 1000, 12, 11], budget=1020)
    [[0, 3, 2], [1]]
    """
    passes: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if not passes or lengths[i] > room:
            passes.append([])
            room = budget
        passes[-1].append(i)
        room -= lengths[i]
    return passes


def split(count: int, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on and indices held out, both ascending; at least one each if anything is held out.

    Raises:
        DataError: fewer than two, but some are to be held out.
    """
    if not held_out:
        return list(range(count)), []
    if count < 2:
        raise DataError(f"nothing can be held out of {count}: give more data, or set training.held_out=0")
    kept = max(1, min(count - 1, round(held_out * count)))
    chosen = set(np.random.default_rng([seed, count]).permutation(count)[:kept].tolist())
    return [i for i in range(count) if i not in chosen], sorted(chosen)
