"""The agreement of judges with people as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MISSING = "–"
PEOPLE = (
    ("Krippendorff's alpha", "alpha"),
    ("two raters say the same", "same"),
    ("Cohen's kappa, mean of pairs", "kappa"),
    ("a rater against the others", "accuracy"),
    ("the longer answer wins", "longer_wins"),
)
LABEL, CELL = 30, 22


def agreement_text(found: Mapping[str, Any]) -> str:
    """Lines of at most 120 columns for what `prefloop.evaluation.agreement.agreement` returns."""
    people = found["people"]
    lines = [
        f"{people['pairs']:,} pairs of {people['prompts']:,} prompts, {len(people['raters'])} raters; "
        f"{people['unanimous']:,} unanimous, {people['ties']:,} tied. Brackets: 95% intervals over prompts.",
        "",
        f"{'people':<{LABEL}}{'estimate':<{CELL}}n",
        *(f"{label:<{LABEL}}{_cell(people[key]):<{CELL}}{people[key]['n']:,}" for label, key in PEOPLE),
        "",
        _row("against people", "accuracy", "kappa", "alpha with raters"),
        *(_row(name, *(_cell(f[key]) for key in ("accuracy", "kappa", "alpha"))) for name, f in _judges(found)),
        "",
        _row("the longer answer wins", "by the judge", "by people", "difference"),
        *(
            _row(name, *(_cell(f["length"][key]) for key in ("judge", "people", "difference")))
            for name, f in _judges(found)
        ),
        "",
        _row("calibration", "Brier", "Brier, tempered", "ECE", "ECE, tempered"),
        *(_row(name, *_calibration(f["calibration"])) for name, f in _judges(found)),
        "",
        *(_counts(name, figures) for name, figures in _judges(found)),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _judges(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return list(found["judges"].items())


def _row(label: str, *cells: str) -> str:
    return f"{label[: LABEL - 1]:<{LABEL}}" + "".join(f"{cell:<{CELL}}" for cell in cells)


def _cell(figure: Mapping[str, Any]) -> str:
    """``0.675 [0.64, 0.71]``."""
    if figure["estimate"] is None:
        return MISSING
    bounds = "" if figure["ci_low"] is None else f" [{figure['ci_low']:.2f}, {figure['ci_high']:.2f}]"
    return f"{figure['estimate']:.3f}{bounds}"


def _calibration(found: Mapping[str, Any]) -> list[str]:
    keys = ("brier", "brier_tempered", "ece", "ece_tempered")
    return [_cell(found[key]) if found else MISSING for key in keys]


def _counts(name: str, figures: Mapping[str, Any]) -> str:
    decided, compared = figures["accuracy"]["n"], figures["length"]["judge"]["n"]
    text = f"{name}: {figures['judged']:,} pairs judged, {figures['ties']:,} tied"
    text += f"; accuracy on {decided:,}, length on {compared:,}"
    if figures["calibration"]:
        text += f"; temperature {figures['calibration']['temperature']:.2f}"
        text += f"; Brier of a coin {figures['calibration']['brier_half']:.3f}"
    for key, said in (("unscored", "unscored"), ("not_judged", "not judged")):
        if figures[key]:
            text += f"; {figures[key]:,} {said}"
    return text
