"""Box-score rows with their derived columns. Percentages are fractions to 3 decimals, NULL without attempts.

Formulas (Basketball-Reference glossary): possessions = FGA + 0.44·FTA − ORB + TOV; TS% = PTS / (2·(FGA +
0.44·FTA)); eFG% = (FGM + ½·3PM) / FGA; TOV% = TOV / (FGA + 0.44·FTA + TOV); ratings are points per 100
possessions; pace = possessions per 48 minutes; game score = PTS + 0.4·FGM − 0.7·FGA − 0.4·(FTA − FTM) + 0.7·ORB +
0.3·DRB + STL + 0.7·AST + 0.7·BLK − 0.4·PF − TOV; usage = 100·(FGA + 0.44·FTA + TOV)·(team minutes / 5) / (minutes ·
team (FGA + 0.44·FTA + TOV)).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prefloop.tasks.nba.simulate import INDEX, OVERTIME_S, REGULATION_S, STATS, Line, Side

CREATED = "2024-07-01 00:00:00"
"""One constant instead of a clock: the same league, the same bytes."""


def ratio(numerator: float, denominator: float, decimals: int = 3) -> float | None:
    """Rounded quotient; None where the denominator is 0."""
    return round(numerator / denominator, decimals) if denominator else None


def _counts(row: np.ndarray) -> dict[str, int]:
    found = {name: int(row[INDEX[name]]) for name in STATS}
    found["fgm"], found["fga"] = found["fg2m"] + found["fg3m"], found["fg2a"] + found["fg3a"]
    found["pts"] = 2 * found["fg2m"] + 3 * found["fg3m"] + found["ftm"]
    found["trb"] = found["orb"] + found["drb"]
    return found


def _shooting(c: dict[str, int]) -> list[Any]:
    return [
        *(c["fgm"], c["fga"], ratio(c["fgm"], c["fga"])),
        *(c["fg3m"], c["fg3a"], ratio(c["fg3m"], c["fg3a"])),
        *(c["ftm"], c["fta"], ratio(c["ftm"], c["fta"])),
        *(c["orb"], c["drb"], c["trb"], c["ast"], c["stl"], c["blk"], c["tov"], c["pf"]),
    ]


def _possessions(c: dict[str, int]) -> float:
    return c["fga"] + 0.44 * c["fta"] - c["orb"] + c["tov"]


def team_row(game_id: str, side: Side, other: Side, is_home: bool) -> list[Any]:
    """Columns of ``team_box_scores`` after id."""
    c, o = (_counts(s.totals.sum(axis=0)) for s in (side, other))
    possessions = (_possessions(c) + _possessions(o)) / 2
    minutes = (REGULATION_S + OVERTIME_S * (len(side.periods) - 1)) / 300
    offence, defence = (round(100 * x["pts"] / possessions, 1) for x in (c, o))
    effective = ratio(c["fgm"] + 0.5 * c["fg3m"], c["fga"])
    turnover = ratio(c["tov"], c["fga"] + 0.44 * c["fta"] + c["tov"])
    return [
        *(game_id, side.team, int(is_home), c["pts"], *_shooting(c)),
        *(ratio(c["pts"], 2 * (c["fga"] + 0.44 * c["fta"])), effective, ratio(c["trb"], c["trb"] + o["trb"])),
        *(ratio(c["ast"], c["fgm"]), ratio(c["stl"], possessions), ratio(c["blk"], o["fg2a"]), turnover),
        *(effective, turnover, ratio(c["orb"], c["orb"] + o["drb"]), ratio(c["fta"], c["fga"])),
        *(round(48 * possessions / minutes, 1), offence, defence, round(offence - defence, 1), CREATED),
    ]


def player_rows(game_id: str, side: Side, other: Side) -> list[list[Any]]:
    """Columns of ``player_box_scores`` after id, one row per listed player."""
    stats = iter(side.totals)
    team, opponent = (_counts(s.totals.sum(axis=0)) for s in (side, other))
    return [
        _did_not_play(game_id, side.team, line)
        if line.dnp_reason
        else _played(game_id, side, line, _counts(next(stats)), team, opponent)
        for line in side.lines
    ]


def _played(
    game_id: str, side: Side, line: Line, c: dict[str, int], team: dict[str, int], opponent: dict[str, int]
) -> list[Any]:
    person, minutes = line.person, line.seconds / 60
    doubles = sum(c[name] >= 10 for name in ("pts", "trb", "ast", "stl", "blk"))
    used, team_used = (x["fga"] + 0.44 * x["fta"] + x["tov"] for x in (c, team))
    share = minutes * 5 / (sum(other.seconds for other in side.playing) / 60)
    score = (
        *(c["pts"] + 0.4 * c["fgm"] - 0.7 * c["fga"] - 0.4 * (c["fta"] - c["ftm"]) + 0.7 * c["orb"],),
        *(0.3 * c["drb"] + c["stl"] + 0.7 * c["ast"] + 0.7 * c["blk"] - 0.4 * c["pf"] - c["tov"],),
    )
    return [
        *(game_id, person.name, person.slug, side.team, person.position, int(line.starter)),
        *(
            f"{line.seconds // 60}:{line.seconds % 60:02}",
            round(minutes, 1),
            *_shooting(c),
            c["pts"],
            line.plus_minus,
        ),
        *(ratio(c["pts"], 2 * (c["fga"] + 0.44 * c["fta"])), ratio(c["fgm"] + 0.5 * c["fg3m"], c["fga"])),
        *(ratio(100 * used, share * team_used, 1), ratio(100 * c["pts"], used, 1)),
        *(ratio(100 * opponent["pts"], _possessions(opponent), 1), round(sum(score), 1)),
        *(round(line.plus_minus / minutes * 10, 1), int(doubles >= 2), int(doubles >= 3), 0, None, CREATED),
    ]


def _did_not_play(game_id: str, team: str, line: Line) -> list[Any]:
    """Points may not be NULL, so they are 0; everything that was not tried is NULL."""
    person = line.person
    shooting = [0, 0, None] * 3 + [0] * 8
    identity = [game_id, person.name, person.slug, team, person.position, 0, "0:00", 0.0]
    return [*identity, *shooting, 0, 0, *[None] * 7, 0, 0, 1, line.dnp_reason, CREATED]
