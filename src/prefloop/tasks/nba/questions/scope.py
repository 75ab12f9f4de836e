"""When, against whom, where: the narrowings a question may carry, in words, in plans and in SQL."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from prefloop.tasks.nba.questions.query import Clause

LATEST = "(SELECT MAX(season) FROM games)"
MONTHS = {
    10: "October",
    11: "November",
    12: "December",
    1: "January",
    2: "February",
    3: "March",
    4: "April",
}
FILTERS = ("opponent", "venue", "month", "role", "result")


@dataclass(frozen=True)
class Calendar:
    """What a league's games are spread over."""

    years: tuple[int, ...]
    """Seasons, by end year."""
    months: tuple[int, ...] = tuple(MONTHS)
    playoffs: bool = True

    @property
    def forms(self) -> dict[str, float]:
        """How a season may be said, and how often: "last season" needs one, "career" more than one."""
        found = {"": 4, "label": 3, "end": 1.5, "this": 1.5}
        if max(self.years) - 1 in self.years:
            found["last"] = 2
        return found | ({"career": 1.5} if len(self.years) > 1 else {})


@dataclass(frozen=True)
class Scope:
    """The narrowings of one question. None or an empty string: not said, so the policy's default holds."""

    season: str = ""
    """How the season is said: ``label`` (2022-23), ``end`` (2023 season), ``this``, ``last``, ``career``."""
    year: int = 0
    """End year, for ``label`` and ``end``."""
    phase: str = ""
    """``regular`` or ``playoffs`` when said; the default is the regular season."""
    opponent: str = ""
    """Team code."""
    venue: str = ""
    """``home`` or ``away``."""
    month: int = 0
    role: str = ""
    """``starter`` or ``bench`` (players)."""
    result: str = ""
    """``wins`` or ``losses``."""

    @property
    def shape(self) -> tuple[str, ...]:
        """Which narrowings are said, without their values: what a template is made of."""
        said = [f"{f.name}={self.season}" if f.name == "season" else f.name for f in fields(self)]
        return tuple(
            name for name, f in zip(said, fields(self), strict=True) if f.name != "year" and getattr(self, f.name)
        )


def season_clauses(scope: Scope) -> list[Clause]:
    """Season and phase conditions on ``games g``."""
    clauses = []
    if scope.season in {"label", "end"}:
        wrong = scope.year - 1 if scope.season == "label" else 0
        clauses.append(
            Clause(
                "season",
                f"g.season = {scope.year}",
                f"season {scope.year}",
                f"g.season = {wrong}" if wrong else "",
                f"season {wrong}" if wrong else "",
            )
        )
    elif scope.season == "last":
        clauses.append(Clause("season", f"g.season = {LATEST} - 1", "previous season"))
    elif scope.season != "career":
        clauses.append(Clause("season", f"g.season = {LATEST}", "latest season"))
    if scope.phase == "playoffs":
        clauses.append(Clause("phase", "g.game_type <> 'Regular Season'", "playoffs"))
    else:
        clauses.append(Clause("phase", "g.game_type = 'Regular Season'", "regular season"))
    return clauses


def filter_clauses(scope: Scope, team: str) -> list[Clause]:
    """The other conditions; `team` is the SQL of the subject's team code, e.g. ``p.team``."""
    found = []
    if scope.opponent:
        sql = f"'{scope.opponent}' IN (g.home_team, g.away_team)"
        found.append(Clause("filter", sql, f"against {scope.opponent}"))
    if scope.venue:
        side, words = ("home", "home games") if scope.venue == "home" else ("away", "road games")
        found.append(Clause("filter", f"g.{side}_team = {team}", words))
    if scope.month:
        found.append(Clause("subject", f"substr(g.game_date, 6, 2) = '{scope.month:02}'", f"in {MONTHS[scope.month]}"))
    if scope.role:
        sql = f"p.is_starter = {int(scope.role == 'starter')}"
        found.append(Clause("subject", sql, "as starter" if scope.role == "starter" else "off the bench"))
    if scope.result:
        sign = "=" if scope.result == "wins" else "<>"
        sql = f"(g.home_team = {team}) {sign} (g.home_score > g.away_score)"
        found.append(Clause("subject", sql, f"in {scope.result}"))
    return found


def phrase(scope: Scope, register: str, team_words: dict[str, tuple[str, ...]], style: int) -> str:
    """The narrowings in words, joined by spaces; `style` picks among equal wordings."""
    say = _curated if register == "curated" else _typed
    return " ".join(say(scope, team_words, style))


def _curated(scope: Scope, team_words: dict[str, tuple[str, ...]], style: int) -> list[str]:
    words = []
    if scope.role:
        words.append("as a starter" if scope.role == "starter" else "off the bench")
    if scope.opponent:
        words.append(f"against the {team_words[scope.opponent][1]}")
    if scope.venue:
        words.append("at home" if scope.venue == "home" else "on the road")
    if scope.result:
        words.append(f"in {scope.result}")
    if scope.month:
        words.append(f"in {MONTHS[scope.month]}")
    if scope.phase:
        words.append("in the playoffs" if scope.phase == "playoffs" else "in the regular season")
    label = f"{scope.year - 1}-{scope.year % 100:02}"
    words.append(
        {
            "": "",
            "label": (f"in the {label} season", f"in {label}", f"during the {label} season")[style % 3],
            "end": f"in the {scope.year} season",
            "this": "this season",
            "last": "last season",
            "career": "in his career",
        }[scope.season]
    )
    return [word for word in words if word]


def _typed(scope: Scope, team_words: dict[str, tuple[str, ...]], style: int) -> list[str]:
    label = f"{scope.year - 1}-{scope.year % 100:02}"
    words = []
    if scope.opponent:
        words.append(("vs " + team_words[scope.opponent][style % 3]).lower())
    if scope.venue:
        words.append(scope.venue if style % 2 else {"home": "at home", "away": "on the road"}[scope.venue])
    if scope.role:
        words.append("as starter" if scope.role == "starter" else "off bench")
    if scope.result:
        words.append(f"in {scope.result}")
    if scope.month:
        words.append(MONTHS[scope.month].lower())
    if scope.phase:
        words.append(("playoffs", "postseason")[style % 2] if scope.phase == "playoffs" else "regular season")
    words.append(
        {
            "": "",
            "label": label,
            "end": f"{scope.year} season",
            "this": "this season",
            "last": "last season",
            "career": ("career", "all-time")[style % 2],
        }[scope.season]
    )
    return [word for word in words if word]


def draw_scope(rng: np.random.Generator, allowed: str, calendar: Calendar, team: str, codes: list[str]) -> Scope:
    """A scope with a season form and zero to two of the allowed narrowings.

    Args:
        allowed: letters of what the intent may carry: s season, c career, p phase, o opponent, v venue,
            m month, r role, w result.
        calendar: seasons and months to draw from.
        team: the subject's own code, which cannot be its opponent.
        codes: team codes to draw opponents from.
    """
    values: dict[str, object] = {}
    if "s" in allowed:
        forms = {form: share for form, share in calendar.forms.items() if form != "career" or "c" in allowed}
        shares = np.array(list(forms.values()))
        values["season"] = str(rng.choice(list(forms), p=shares / shares.sum()))
        values["year"] = int(rng.choice(calendar.years)) if values["season"] in {"label", "end"} else 0
    if "p" in allowed and rng.random() < 0.22:
        values["phase"] = "playoffs" if rng.random() < 0.6 and calendar.playoffs else "regular"
    options = [letter for letter in "ovmrw" if letter in allowed]
    if values.get("phase") == "playoffs":
        options = [letter for letter in options if letter in "vw"]
    count = min(len(options), int(rng.choice([0, 1, 2], p=[0.52, 0.40, 0.08])))
    for letter in rng.permutation(options)[:count] if options else []:
        values |= _narrowing(str(letter), rng, team, codes, calendar.months)
    return Scope(**values)  # type: ignore[arg-type]  # the keys are this dataclass's own fields


def _narrowing(
    letter: str, rng: np.random.Generator, team: str, codes: list[str], months: tuple[int, ...]
) -> dict[str, object]:
    if letter == "o":
        return {"opponent": str(rng.choice([code for code in codes if code != team]))}
    if letter == "m":
        return {"month": int(rng.choice(months))}
    name, values = {
        "v": ("venue", ("home", "away")),
        "r": ("role", ("starter", "bench")),
        "w": ("result", ("wins", "losses")),
    }[letter]
    return {name: str(rng.choice(values))}
