"""Which options each training objective reads, and its default beta. The losses: `prefloop.maths.objectives`."""

from __future__ import annotations

from typing import Literal

Objective = Literal[
    "dpo",
    "robust",
    "ipo",
    "hinge",
    "dpo-norm",
    "simpo",
    "orpo",
    "cpo",
    "dpop",
    "apo-zero",
    "apo-down",
    "nca",
    "sppo",
    "kto",
    "plackett-luce",
    "sft",
]

REFERENCED = frozenset({"beta", "reference", "nll_weight", "weighting", "rankings"})
"""Read by every pairwise objective that compares with a reference."""

OBJECTIVES: dict[str, frozenset[str]] = {
    "dpo": REFERENCED | {"label_smoothing", "label_scale", "ld_alpha"},
    "robust": REFERENCED | {"label_smoothing", "ld_alpha"},
    "ipo": REFERENCED | {"ipo_average"},
    "hinge": REFERENCED | {"ld_alpha"},
    "dpo-norm": REFERENCED,
    "simpo": frozenset({"beta", "gamma_beta_ratio", "nll_weight", "weighting", "rankings"}),
    "orpo": frozenset({"beta", "weighting", "rankings"}),
    "cpo": frozenset({"beta", "nll_weight", "weighting", "rankings"}),
    "dpop": REFERENCED | {"penalty", "ld_alpha"},
    "apo-zero": REFERENCED | {"ld_alpha"},
    "apo-down": REFERENCED | {"ld_alpha"},
    "nca": REFERENCED | {"ld_alpha"},
    "sppo": REFERENCED | {"ld_alpha"},
    "kto": frozenset({"beta", "reference", "lambda_good", "lambda_bad"}),
    "plackett-luce": frozenset({"beta", "reference"}),
    "sft": frozenset(),
}
"""Objective, and the options of the training section that change its loss."""

LOSS_OPTIONS = frozenset().union(*OBJECTIVES.values())
"""Options that some objective reads; for the others of them an objective refuses to be given."""

UNREFERENCED = frozenset({"simpo", "orpo", "cpo", "sft"})
"""Objectives that look at no reference."""

DEFAULT_BETA = {
    "dpo-norm": 5.0,
    "simpo": 2.0,
    "orpo": 0.1,
    "sppo": 0.001,
}
"""Beta where the recipe gives none; 0.1 for the others. Scales differ: per answer, per token, a weight, 1/eta."""
