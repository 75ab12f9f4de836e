"""Draws docs/figures/objective-*.svg: each loss and its pushes against the margin, by `prefloop.maths` itself.

    python docs/make_objective_figures.py

Nothing here knows a formula: curves are what the training objectives return, pushes what autograd makes of them. A
push is the negative gradient: above 0 a gradient step makes the answer likelier (or raises its score). A test fails
when a figure is stale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from prefloop.maths import objectives as loss
from prefloop.maths.advantages import policy_gradient_loss
from prefloop.maths.objectives import PairLogps
from prefloop.maths.rankings import all_pairs, bradley_terry, plackett_luce
from prefloop.maths.unpaired import kto

FOLDER = Path(__file__).with_name("figures")
POINTS = 129
WIDTH, HEIGHT = 200, 130
"""Of the plot in a panel, in pixels."""
CELL_WIDTH, CELL_HEIGHT = 270, 220
LEFT, TOP, HEAD, FOOT = 44, 46, 72, 12
"""Of the plot in its cell; above and below all cells."""

STYLES = {
    "loss": ("#222222", ""),
    "push on the chosen answer": ("#0072b2", "7 3"),
    "push on the rejected answer": ("#d55e00", "2 3"),
    "push on the middle answer": ("#009e73", "9 3 2 3"),
    "push": ("#0072b2", "7 3"),
}
"""Colour (Okabe and Ito's, told apart with any colour vision) and dashes of each curve."""


@dataclass(frozen=True)
class Panel:
    """One set of axes: curves by name over the same places."""

    title: str
    note: str
    x: Tensor
    curves: dict[str, Tensor]
    bounds: tuple[float, float] = (-2.2, 3.4)
    """Of the vertical axis; curves are cut there."""
    x_ticks: Sequence[float] = (-4, -2, 0, 2, 4)
    y_ticks: Sequence[float] = (-2, -1, 0, 1, 2, 3)


def margins(low: float = -4.0, high: float = 4.0) -> Tensor:
    """Places of a curve, exact in binary, so that kinks fall alike on every machine."""
    return low + torch.arange(POINTS, dtype=torch.float64) * ((high - low) / (POINTS - 1))


def pair_panel(
    title: str, note: str, losses: Callable[[PairLogps], Tensor], level: float = 0.0, **axes: object
) -> Panel:
    """A pairwise objective over the margin: one token per answer, and both answers move by half the margin.

    Args:
        level: log-probability of both answers at margin 0; the reference's is 0.
    """
    x = margins()
    chosen, rejected = ((level + sign * x / 2).requires_grad_() for sign in (1, -1))
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    found = losses(PairLogps(chosen, rejected, zeros, zeros, ones, ones))
    return Panel(title, note, x, _curves(found, {"chosen": chosen, "rejected": rejected}), **axes)


def score_panel(title: str, note: str, losses: Callable[[Tensor, Tensor], Tensor], share: float = 0.5) -> Panel:
    """A reward model's loss over the difference of two scores, of which the chosen answer moves `share`."""
    x = margins()
    chosen, rejected = (share * x).requires_grad_(), ((share - 1) * x).requires_grad_()
    curves = _curves(losses(chosen, rejected), {"chosen": chosen, "rejected": rejected})
    return Panel(title, note, x, curves)


def ranking_panel(title: str, note: str, losses: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Panel:
    """Three answers with scores x, 0, −x: places along x are as many prompts."""
    x = margins()
    scores = torch.stack([x, 0 * x, -x], 1).requires_grad_()
    tiers, prompts = torch.arange(3).repeat(POINTS), torch.arange(POINTS).repeat_interleave(3)
    found = losses(scores.view(-1), tiers, prompts)
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    names = ("chosen", "middle", "rejected")
    curves = {f"push on the {name} answer": -gradient[:, i] for i, name in enumerate(names)}
    return Panel(title, note, x, {"loss": found.detach(), **curves}, (-2.4, 4.4), y_ticks=(-2, 0, 2, 4))


def single_panel(title: str, note: str, losses: Callable[[Tensor], Tensor], **axes: object) -> Panel:
    """A loss of one answer over `x`."""
    x = axes.pop("x", margins()).clone().requires_grad_()
    found = losses(x)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    curves = {"loss": found.detach(), "push": -gradient}
    return Panel(title, note, x.detach(), curves, **axes)


def _curves(losses: Tensor, answers: dict[str, Tensor]) -> dict[str, Tensor]:
    gradients = torch.autograd.grad(losses.sum(), list(answers.values()))
    pushes = {f"push on the {name} answer": -found for name, found in zip(answers, gradients, strict=True)}
    return {"loss": losses.detach(), **pushes}


def pairs() -> str:
    """Objectives on pairs that compare with a reference."""
    fine = {"bounds": (-0.4, 2.0), "y_ticks": (0, 0.5, 1, 1.5, 2)}
    panels = [
        pair_panel("dpo", "", lambda p: loss.dpo(p, 1.0)),
        pair_panel("dpo, smoothed", "label_smoothing 0.2", lambda p: loss.dpo(p, 1.0, 0.2)),
        pair_panel("robust", "label_smoothing 0.2", lambda p: loss.robust(p, 1.0, 0.2)),
        pair_panel("ipo", "least at 1/(2β)", lambda p: loss.ipo(p, 1.0)),
        pair_panel("hinge", "no push beyond 1/β", lambda p: loss.hinge(p, 1.0)),
        pair_panel("dpo-norm", "margin per token", lambda p: loss.dpo_norm(p, 1.0)),
        pair_panel("dpop", "penalty 1", lambda p: loss.dpop(p, 1.0, 1.0)),
        pair_panel("apo-zero", "finer vertical scale", lambda p: loss.apo_zero(p, 1.0), **fine),
        pair_panel("apo-down", "finer vertical scale", lambda p: loss.apo_down(p, 1.0), **fine),
        pair_panel("nca", "", lambda p: loss.nca(p, 1.0)),
        pair_panel("sppo", "hard win rates", lambda p: loss.sppo(p, 1.0)),
        pair_panel("dpo at a tie", "soft label ½", lambda p: loss.dpo(p, 1.0, 0.5)),
    ]
    return drawing("Pairwise objectives", "margin Δ = r_w − r_l; β = 1, r_w = Δ/2, r_l = −Δ/2", panels)


def reference_free() -> str:
    """Objectives on pairs without a reference."""
    panels = [
        pair_panel("simpo", "beta 2, gamma_beta_ratio 0.5", lambda p: loss.simpo(p, 2.0, 0.5), -2.5),
        pair_panel("cpo", "beta 1", lambda p: loss.cpo(p, 1.0), -2.5),
        pair_panel("orpo", "beta 1, NLL included", lambda p: loss.orpo(p, 1.0), -2.5),
    ]
    return drawing("Objectives without a reference", "ℓ_w − ℓ_l, one token each, about a mean of −2.5", panels)


def unpaired() -> str:
    """KTO."""

    def losses(good: bool, z: float) -> Callable[[Tensor], Tensor]:
        return lambda r: kto(r, torch.full(r.shape, good), torch.tensor(z, dtype=r.dtype), 1.0)

    axes = {"bounds": (-0.5, 1.2), "y_ticks": (-0.5, 0, 0.5, 1)}
    panels = [
        single_panel("kto, a good answer", "z = 0", losses(True, 0.0), **axes),
        single_panel("kto, a bad answer", "z = 0", losses(False, 0.0), **axes),
        single_panel("kto, a good answer", "z = 2: others rose, too", losses(True, 2.0), **axes),
    ]
    return drawing("KTO", "log-ratio r of the answer; β = 1, both λ 1", panels)


def rankings() -> str:
    """Three answers as one ranking, and as three pairs."""

    def pairwise(scores: Tensor, tiers: Tensor, prompts: Tensor) -> Tensor:
        better, worse, weights = all_pairs(tiers, prompts)
        losses = bradley_terry(scores[better], scores[worse])
        return torch.zeros(POINTS, dtype=scores.dtype).index_add(0, prompts[better], weights * losses)

    panels = [
        ranking_panel("plackett-luce", "K = 3", lambda s, t, g: plackett_luce(s, t, g, POINTS)),
        ranking_panel("all-pairs", "K = 3, each pair weighs ⅓", pairwise),
    ]
    return drawing("Rankings of three", "x; the scores of the three answers are x, 0 and −x", panels)


def reward() -> str:
    """Reward-model losses on scores."""
    panels = [
        score_panel("bradley-terry", "", bradley_terry),
        score_panel("with a margin", "m = 1", lambda w, r: bradley_terry(w, r, margins=torch.ones_like(w))),
        score_panel("soft label", "p = 0.8: least at ln 4", lambda w, r: bradley_terry(w, r, target=0.8)),
        score_panel("tie", "p = ½", lambda w, r: bradley_terry(w, r, target=0.5)),
        score_panel("with centring", "c = 0.1, s_l = 0", lambda w, r: bradley_terry(w, r, centring=0.1), 1.0),
        score_panel("plackett-luce, two tied", "ties by Efron", _tied),
    ]
    return drawing("Reward-model losses", "s_w − s_l", panels)


def _tied(first: Tensor, second: Tensor) -> Tensor:
    prompts = torch.arange(POINTS).repeat_interleave(2)
    return plackett_luce(torch.stack([first, second], 1).view(-1), torch.zeros_like(prompts), prompts, POINTS)


def policy_gradient() -> str:
    """The clipped token loss, and the KL term alone."""

    def losses(advantage: float, high: float = 0.2, kl: float = 0.0) -> Callable[[Tensor], Tensor]:
        def found(x: Tensor) -> Tensor:
            zeros, owner = torch.zeros_like(x), torch.arange(POINTS)
            return policy_gradient_loss(
                x, zeros, zeros, zeros + advantage, owner, clip_low=0.2, clip_high=high, kl_weight=kl
            )[0]

        return found

    axes = {"x": margins(-1, 1), "bounds": (-2.4, 2.4), "x_ticks": (-1, -0.5, 0, 0.5, 1), "y_ticks": (-2, -1, 0, 1, 2)}
    panels = [
        single_panel("grpo, A = 1", "clipped at 1.2", losses(1.0), **axes),
        single_panel("dapo, A = 1", "clipped at 1.28", losses(1.0, 0.28), **axes),
        single_panel("A = −1", "clipped at 0.8", losses(-1.0), **axes),
        single_panel("KL term alone", "k3, weight 1, reference at 0", losses(0.0, kl=1.0), **axes),
    ]
    return drawing("Policy-gradient loss of one token", "log(π / π_old) of the token", panels)


def sft() -> str:
    """Cross-entropy of a token, and what a token weighs in answers of other lengths where answers weigh the same."""

    def of_two_logits(lead: Tensor) -> Tensor:
        logps = torch.stack([lead, torch.zeros_like(lead)], 1).log_softmax(1)[:, 0]
        return torch.stack([loss.cross_entropy(logp[None], torch.ones_like(logp[None])) for logp in logps])

    lengths = torch.arange(1, 41, dtype=torch.float64)
    sums = (-lengths).requires_grad_()
    (gradient,) = torch.autograd.grad(loss.nll(sums, lengths).sum(), sums)
    axes = {"bounds": (0.0, 1.05), "x_ticks": (1, 10, 20, 30, 40), "y_ticks": (0, 0.5, 1)}
    panels = [
        single_panel("loss of one token", "over its logit's lead on one rival", of_two_logits),
        Panel("per answer: each token", "over the tokens of the answer", lengths, {"push": -gradient}, **axes),
    ]
    return drawing("Supervised fine-tuning", "logit lead, and length", panels)


def drawing(title: str, across: str, panels: Sequence[Panel]) -> str:
    """Panels, three to a row, on a light card, with one legend."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    columns = 2 if len(panels) in (2, 4) else 3
    width = columns * CELL_WIDTH + 20
    height = HEAD + -(-len(panels) // columns) * CELL_HEIGHT + FOOT
    parts = [_text(20, 28, f"{title} over {across}", 15, bold=True), *_legend(names, columns)]
    for i, panel in enumerate(panels):
        parts.append(_drawn(panel, 10 + i % columns * CELL_WIDTH, HEAD + i // columns * CELL_HEIGHT))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" font-family="Helvetica, Arial, sans-serif">\n<title>{escape(title)}</title>\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff" stroke="#d0d0d0"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _legend(names: Sequence[str], columns: int) -> list[str]:
    parts, x = [], 20.0
    for name in names:
        colour, dashes = STYLES[name]
        parts.append(f'<path d="M{x:g} 52h26" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>')
        shown = name if columns == 3 else name.replace("on the ", "on ").removesuffix(" answer")
        parts.append(_text(x + 32, 56, shown, 12))
        x += 44 + 6.6 * len(shown)
    return parts


def _drawn(panel: Panel, left: float, top: float) -> str:
    (low, high), first, last = panel.bounds, panel.x[0].item(), panel.x[-1].item()

    def across(x: float) -> float:
        return (x - first) / (last - first) * WIDTH

    def down(y: float) -> float:
        return (high - y) / (high - low) * HEIGHT

    parts = [_text(LEFT, 20, panel.title, 14, bold=True), _text(LEFT, 37, panel.note, 12, colour="#555555")]
    for tick in panel.y_ticks:
        y = TOP + down(tick)
        shade = "#888888" if tick == 0 else "#e4e4e4"
        parts.append(f'<path d="M{LEFT} {_round(y)}h{WIDTH}" stroke="{shade}"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{tick:g}".replace("-", "−"), 12, "end", "#555555"))
    for tick in panel.x_ticks:
        x = LEFT + across(tick)
        parts.append(f'<path d="M{_round(x)} {TOP + HEIGHT}v4" stroke="#888888"/>')
        parts.append(_text(x, TOP + HEIGHT + 18, f"{tick:g}".replace("-", "−"), 12, "middle", "#555555"))
    # An inner svg cuts what leaves it, so a parabola ends at the frame.
    parts.append(f'<svg x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}">')
    for name, values in panel.curves.items():
        colour, dashes = STYLES[name]
        places = zip(panel.x.tolist(), values.clamp(low - 9, high + 9).tolist(), strict=True)
        points = " ".join(f"{_round(across(x))},{_round(down(y))}" for x, y in places)
        line = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
        parts.append(f'<polyline points="{points}" fill="none" {line}/>')
    parts.append("</svg>")
    return f'<g transform="translate({left:g} {top:g})">' + "\n".join(part for part in parts if part) + "</g>"


def _text(x: float, y: float, words: str, size: int, anchor: str = "start", colour: str = "#222222", *, bold=False):
    weight = ' font-weight="bold"' if bold else ""
    place = f'x="{_round(x)}" y="{_round(y)}"'
    return words and (
        f'<text {place} font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'
    )


def _round(value: float) -> str:
    return f"{round(value, 1) + 0.0:g}"


FIGURES: dict[str, Callable[[], str]] = {
    "objective-pairs.svg": pairs,
    "objective-reference-free.svg": reference_free,
    "objective-unpaired.svg": unpaired,
    "objective-rankings.svg": rankings,
    "objective-reward.svg": reward,
    "objective-policy-gradient.svg": policy_gradient,
    "objective-sft.svg": sft,
}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
