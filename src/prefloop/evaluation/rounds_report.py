"""The page of all rounds of a loop, and their table in Markdown.

One self-contained HTML file without a script: it loads nothing, runs offline, and escapes all it shows. The same rounds
and context give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.evaluation import wording
from prefloop.evaluation.pages import asset, policy_source, templates
from prefloop.evaluation.rounds import UNMEASURED, over_optimisation
from prefloop.evaluation.rounds_charts import Chart, Level, Line, Point, over_distance, plot, rounds_places
from prefloop.evaluation.rounds_details import at, change, details, figure, parts, share, times
from prefloop.evaluation.wording import MISSING, bounds, percent, points
from prefloop.maths.statistics import seed_summary
from prefloop.store.files import write_text

TEMPLATE, STYLES = "rounds.html.j2", ("report.css", "rounds.css")
METHODS = {"rlhf": "RLHF", "iterative-dpo": "Iterative DPO", "self-rewarding": "Self-rewarding"}
SEVERITY = ("stop", "hold", "warn", "ok")
Round = Mapping[str, Any]


@dataclass(frozen=True)
class RoundsContext:
    """What the page shows beside ``rounds.json``."""

    name: str
    command: str
    recipe: str
    """The resolved recipe as YAML."""
    versions: Mapping[str, str]


def write_rounds_report(rounds: Mapping[str, Any], context: RoundsContext, out: Path) -> Path:
    """Render the page and write it whole or not at all.

    Args:
        rounds: what stands in ``rounds.json`` (``docs/loop.md``).

    Raises:
        StoreError: the page cannot be written.
    """
    write_text(out, render_rounds(rounds, context))
    return out


def render_rounds(rounds: Mapping[str, Any], context: RoundsContext) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    environment = templates()
    forms = {
        "percent": percent,
        "points": points,
        "share": share,
        "change": change,
        "number": figure,
        "times": times,
        "parts": parts,
    }
    environment.filters |= forms | {"visible": lambda value: wording.visible(str(value)), "svg": Markup}
    style = "".join(map(asset, STYLES))
    every = rounds["rounds"]
    guarded = [(one, _guards(one)) for one in every if one.get("guards")]
    return environment.get_template(TEMPLATE).render(
        r=rounds,
        c=context,
        at=at,
        claim=claim(rounds),
        method=METHODS.get(rounds["method"], rounds["method"]),
        best=_best(rounds),
        charts=_charts(rounds),
        details=details(every),
        guards=guarded,
        matrix=_matrix([one["guards"] for one, _ in guarded]),
        off=any(guard.get("acted") is False for one in every for guard in one.get("guards") or ()),
        over={label: over_optimisation(rows) for label, rows in (rounds.get("curves") or {}).items()},
        seeds=_seeds(rounds.get("seeds") or ()),
        style=Markup(style),
        policy=f"default-src 'none'; style-src {policy_source(style)}; base-uri 'none'; form-action 'none'",
    )


def claim(rounds: Mapping[str, Any]) -> str:
    """The page's first sentence: the best round, what it gained, how surely, and how the loop ended."""
    every, best = rounds["rounds"], _best(rounds)
    count = len(every) - 1
    ended = f"all {count} rounds were run" if count > 1 else f"{count or 'no'} round was run"
    if rounds.get("stopped"):
        ended = f"a guard ended the loop after round {rounds['stopped']['round']}"
    before, after = (at(one, "accuracy", "estimate") for one in (every[0], best))
    gain = best.get("gain_start")
    if best["round"] == 0 or gain is None:
        return f"No round did better than the start, whose accuracy is {percent(before)}; {ended}."
    low, high = gain["ci_low"], gain["ci_high"]
    moved = "rose" if low > 0 else "fell" if high < 0 else "did not change beyond chance,"
    interval = f"{points(gain['estimate'])} points, 95% interval {bounds(low, high)}"
    change = f"accuracy {moved} from {percent(before)} to {percent(after)} ({interval})"
    return f"Round {best['round']} of {count} is the best: {change}; {ended}."


def rounds_markdown(rounds: Mapping[str, Any]) -> str:
    """The table of rounds for a page of findings, with its heading row and a line for every baseline."""
    judge = "judge or reward model [95% CI]"
    baselines = list((rounds.get("baselines") or {}).values())
    head = ["round", "accuracy [95% CI]", "gain on start [95% CI]", judge, "length ratio", "promoted"]
    head += ["the loop's lead [95% CI]"] if baselines else []
    lines = [_row(head), "|---" * len(head) + "|"]
    for one in rounds["rounds"]:
        model = at(one, "reward_model", "against_truth") or at(one, "judge", "accuracy")
        start = one["round"] == 0
        name = "start" if start else f"**{one['round']}**" if one["round"] == rounds["best"] else str(one["round"])
        cells = (_bracketed(one.get("accuracy"), percent), _bracketed(one.get("gain_start"), points))
        ratio = times(at(one, "length", "ratio_start"))
        row = [name, *cells, _bracketed(model, percent), ratio, "" if start else _why(one)]
        lines.append(_row([*row, ""] if baselines else row))
    for baseline in baselines:
        cells = (_bracketed(baseline["accuracy"], percent), _bracketed(baseline["gain"], points))
        lines.append(_row((baseline["label"], *cells, "", "", "", _bracketed(baseline["lead"], points))))
    return "\n".join(lines) + "\n"


def seeds_markdown(rounds: Mapping[str, Any]) -> str:
    """Every seed's accuracies by round, the gain of its best round, and their means with Student's intervals."""
    seeds = _seeds(rounds["seeds"])
    head = ("seed", *(f"round {name}" if name else "start" for name in seeds["rounds"]), "gain of the best round")
    lines = [_row(head), "|---" * len(head) + "|"]
    for row in seeds["rows"]:
        cells = (percent(row["accuracies"][n]) if n in row["accuracies"] else MISSING for n in seeds["rounds"])
        lines.append(_row((str(row["seed"]), *cells, f"{_bracketed(row['gain'], points)} (round {row['best']})")))
    cells = (_bracketed(seeds["accuracies"][n], percent) for n in seeds["rounds"])
    lines.append(_row(("mean", *cells, _bracketed(seeds["gain"], points))))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _why(one: Round) -> str:
    """Whether a round was promoted, and if not, which guards held it back."""
    if one.get("promoted"):
        return "yes"
    names = [g["name"] for g in one.get("guards") or () if g["verdict"] in ("hold", "stop")]
    return f"no: {', '.join(names)}" if names else "no"


def _bracketed(found: Mapping[str, Any] | None, form: Callable[[float], str]) -> str:
    """An estimate with its interval in brackets, as findings write it.

    >>> _bracketed({"estimate": 0.612, "ci_low": 0.57, "ci_high": 0.65}, percent)
    '61.2% [57.0, 65.0]'
    """
    if found is None:
        return MISSING
    ends = (form(found[end]).removesuffix("%") for end in ("ci_low", "ci_high"))
    return f"{form(found['estimate'])} [{', '.join(ends)}]"


def _best(rounds: Mapping[str, Any]) -> Round:
    return next(one for one in rounds["rounds"] if one["round"] == rounds["best"])


def _guards(one: Round) -> list[Mapping[str, Any]]:
    """The most severe first, else in their own order."""
    return sorted(one["guards"], key=lambda guard: SEVERITY.index(guard["verdict"]))


def _matrix(found: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, list[str | None]]:
    """Verdict of every guard in every round, None where it had nothing to look at."""
    verdicts = [
        {guard["name"]: guard["verdict"] for guard in guards if guard["name"] != UNMEASURED} for guards in found
    ]
    names = dict.fromkeys(name for one in sorted(verdicts, key=len, reverse=True) for name in one)
    return {name: [one.get(name) for one in verdicts] for name in names}


def _charts(rounds: Mapping[str, Any]) -> dict[str, Chart]:
    every = rounds["rounds"]
    places = rounds_places(every)
    levels = [Level(b["label"], b["accuracy"]["estimate"]) for b in (rounds.get("baselines") or {}).values()]
    judges = [
        _line("judge, right over wrong", every, "judge", "accuracy"),
        _line("reward model, right over wrong", every, "reward_model", "against_truth"),
        _line("answers with the judge's highest score", every, "judge", "maximum_share"),
    ]
    coin = [Level("a coin", 0.5)]
    drawn = {
        "accuracy": plot("Accuracy", [_line("this loop", every, "accuracy", told=True)], levels, places, percent),
        "length": plot("Length", [_line("this loop", every, "length", "ratio_start", told=True)], [], places, times),
        "judge": plot("Judge", judges, coin if any(one.points for one in judges[:2]) else [], places, percent),
    }
    if curves := rounds.get("curves"):
        drawn["proxy"] = over_distance("Proxy reward", curves, "proxy")
        drawn["truth"] = over_distance("True accuracy", curves, "accuracy")
    return drawn


def _line(label: str, every: Sequence[Round], *path: str, told: bool = False) -> Line:
    """A figure of every round that has it; a ring where the round was not promoted."""
    found = []
    for one in every:
        value, hollow = at(one, *path), one["round"] > 0 and not one.get("promoted")
        if isinstance(value, Mapping):
            found.append(Point(one["round"], value["estimate"], value["ci_low"], value["ci_high"], hollow))
        elif value is not None:
            found.append(Point(one["round"], value, hollow=hollow))
    return Line(label, found, told)


def _seeds(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy of every round by seed, the gain of each seed's best round, and their means over seeds."""
    if not seeds:
        return {}
    rows = []
    for place, seed in enumerate(seeds, 1):
        best = _best(seed)
        rows.append(
            {
                "seed": seed.get("seed", place),
                "accuracies": {one["round"]: at(one, "accuracy", "estimate") for one in seed["rounds"]},
                "best": best["round"],
                "gain": best.get("gain_start"),
                "length": at(best, "length", "ratio_start"),
                "stopped": at(seed, "stopped", "reason"),
            }
        )
    gains = [row["gain"]["estimate"] if row["gain"] else 0.0 for row in rows]  # the start gains nothing on itself
    names = sorted({name for row in rows for name in row["accuracies"]})
    accuracies = {name: _over_seeds([row["accuracies"].get(name) for row in rows], 0.0) for name in names}
    return {"rows": rows, "rounds": names, "accuracies": accuracies, "gain": _over_seeds(gains, -1.0)}


def _over_seeds(values: Sequence[float | None], least: float) -> dict[str, float | None] | None:
    """The mean with Student's interval, cut to what is possible (`least` to 1); None of fewer than two seeds."""
    found = seed_summary(values)
    low, high = found["ci_low"], found["ci_high"]
    if low is None or high is None:
        return None
    return {"estimate": found["mean"], "ci_low": max(low, least), "ci_high": min(high, 1.0)}
