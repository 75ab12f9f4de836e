"""Does the plan say what the SQL does? Claims of both, as small labelled facts, and how far they agree.

Both sides are read into the same labels (``season:2023``, ``phase:regular``, ``against:LAL``, ``played``,
``average`` …): the plan by a lexicon, the SQL from its syntax tree. Agreement is F1 over the two sets, the
static plan-query agreement that needs neither gold nor database.
"""

from __future__ import annotations

import re
from functools import lru_cache

import sqlglot
from sqlglot import exp

TABLES = ("player_box_scores", "team_box_scores", "game_play_by_play")
NOT_SUMMED = ("double_double", "triple_double", "won")
"""Flags whose sum is a count."""

_MONTHS = ["October", "November", "December", "January", "February", "March", "April"]
_MONTH_NUMBER = dict(zip(_MONTHS, ("10", "11", "12", "01", "02", "03", "04"), strict=True))

_LEXICON: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), label)
    for pattern, label in (
        (r"\b(player_box_scores|team_box_scores|game_play_by_play)\b", r"table:\1"),
        (r"\bseason (\d{4})\b", r"season:\1"),
        (r"\blatest season\b", "season:latest"),
        (r"\bprevious season\b", "season:previous"),
        (r"\bregular season\b", "phase:regular"),
        (r"\bplayoffs\b", "phase:playoffs"),
        (r"\bagainst ([A-Z]{3})\b", r"code:\1"),
        (r"\bteam ([A-Z]{3})\b", r"code:\1"),
        (r"\bhome games\b", "venue:home"),
        (r"\broad games\b", "venue:away"),
        (r"\bas starter\b", "role:1"),
        (r"\boff the bench\b", "role:0"),
        (r"\bin wins\b", "result:wins"),
        (r"\bin losses\b", "result:losses"),
        (r"\bgames played only\b", "played"),
        (r"\bon (\d{4}-\d{2}-\d{2})\b", r"date:\1"),
        (r"\btop (\d+)\b", r"limit:\1"),
        (r"\blast (\d+) games\b", r"limit:\1"),
        (r"\baverage (?!by)", "average"),
        (r"\btotal\b", "sum"),
        (r"\bmade over attempted\b", "ratio"),
    )
)
_PLAYER = re.compile(r"; player ([^;]+?)(?:;|\.$|$)")
_MONTH = re.compile(rf"\bin ({'|'.join(_MONTHS)})\b")


def plan_agreement(plan: str, sql: str) -> float | None:
    """F1 of the plan's claims and the query's, in 0..1; None where the SQL cannot be parsed.

    >>> plan_agreement(
    ...     "average points from player_box_scores; season 2023.",
    ...     "SELECT AVG(points) FROM player_box_scores JOIN games g USING (game_id) WHERE g.season = 2023",
    ... )
    1.0
    """
    done = query_claims(sql)
    if done is None:
        return None
    said = plan_claims(plan)
    if not said and not done:
        return 1.0
    return 2 * len(said & done) / (len(said) + len(done))


def plan_claims(plan: str) -> frozenset[str]:
    """What a plan in plain words claims."""
    found = {match.expand(label) for pattern, label in _LEXICON for match in pattern.finditer(plan)}
    found |= {f"name:{match[1].strip()}" for match in _PLAYER.finditer(plan)}
    found |= {f"month:{_MONTH_NUMBER[match[1]]}" for match in _MONTH.finditer(plan)}
    return frozenset(found)


@lru_cache(maxsize=16_384)
def query_claims(sql: str) -> frozenset[str] | None:
    """What a query does, in the same labels; None where it cannot be parsed."""
    try:
        tree = sqlglot.parse_one(sql, dialect="sqlite")
    except (sqlglot.errors.SqlglotError, RecursionError):
        return None
    found: set[str] = set()
    for node in tree.walk(prune=lambda n: isinstance(n, exp.Exists)):  # "without X" is said apart
        found |= _node_claims(node)
    return frozenset(found)


def _node_claims(node: exp.Expression) -> set[str]:
    if isinstance(node, exp.Table):
        return {f"table:{node.name}"} if node.name in TABLES else set()
    if isinstance(node, exp.EQ | exp.NEQ | exp.GT):
        return _comparison(node)
    if isinstance(node, exp.In):
        return _membership(node)
    if isinstance(node, exp.Limit) and isinstance(node.expression, exp.Literal):
        return {f"limit:{node.expression.this}"}
    if isinstance(node, exp.Avg):
        return {"average"} if isinstance(node.this, exp.Column | exp.Case) else set()
    if isinstance(node, exp.Div) and node.find(exp.Sum):
        return {"ratio"}
    if (
        isinstance(node, exp.Sum)
        and isinstance(node.this, exp.Column)
        and node.find_ancestor(exp.Div, exp.Having) is None
    ):
        return set() if node.this.name in NOT_SUMMED else {"sum"}
    return set()


def _comparison(node: exp.Binary) -> set[str]:
    left, right = node.this, node.expression
    if not isinstance(left, exp.Column):
        return _odd_comparison(node, left, right)
    column, equal = left.name, isinstance(node, exp.EQ)
    if column == "season":
        return {f"season:{_season(right)}"}
    if isinstance(right, exp.Column) and column in {"home_team", "away_team"} and right.name == "team":
        return set() if node.find_ancestor(exp.EQ, exp.NEQ) else {f"venue:{column[:4]}"}
    if not isinstance(right, exp.Literal):
        return set()
    value = right.this
    return {
        "game_type": {f"phase:{'regular' if equal == (value == 'Regular Season') else 'playoffs'}"},
        "player_name": {f"name:{value}"},
        "team": {f"code:{value}"},
        "offensive_team": {f"code:{value}"},
        "home_team": {f"code:{value}", "venue:home"},
        "away_team": {f"code:{value}", "venue:away"},
        "game_date": {f"date:{value}"},
        "is_starter": {f"role:{value}"},
        "did_not_play": {"played"} if equal and value == "0" else set(),
        "minutes_decimal": {"played"} if isinstance(node, exp.GT) else set(),
    }.get(column, set())


def _odd_comparison(node: exp.Binary, left: exp.Expression, right: exp.Expression) -> set[str]:
    """``substr(game_date, 6, 2) = '01'`` and ``(home_team = team) = (home_score > away_score)``."""
    if isinstance(left, exp.Substring) and isinstance(right, exp.Literal):
        return {f"month:{right.this}"}
    scores = {column.name for column in right.find_all(exp.Column)} >= {"home_score", "away_score"}
    if scores and node.find_ancestor(exp.Where) is not None:
        return {"result:wins" if isinstance(node, exp.EQ) else "result:losses"}
    return set()


def _membership(node: exp.In) -> set[str]:
    if isinstance(node.this, exp.Literal):
        return {f"code:{node.this.this}"}
    if isinstance(node.this, exp.Column) and node.this.name == "game_type":
        return {"phase:playoffs"}
    return set()


def _season(value: exp.Expression) -> str:
    if isinstance(value, exp.Literal):
        return str(value.this)
    return "previous" if isinstance(value, exp.Sub) or value.find(exp.Sub) else "latest"
