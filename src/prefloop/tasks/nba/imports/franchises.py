"""Which team a code or a name of another source is, in the codes of Basketball-Reference."""

from __future__ import annotations

from functools import cache

from prefloop.store.rows import BadRowError
from prefloop.tasks.nba.teams import teams

_OTHER_CODES = {"BKN": "BRK", "CHA": "CHO", "PHX": "PHO", "GS": "GSW", "NY": "NYK", "NO": "NOP", "SA": "SAS"}
_OTHER_CODES |= {"UTAH": "UTA", "WSH": "WAS"}
_OTHER_NAMES = {
    "Charlotte Bobcats": "CHA",
    "LA Clippers": "LAC",
    "New Jersey Nets": "NJN",
    "New Orleans Hornets": "NOH",
    "New Orleans/Oklahoma City Hornets": "NOK",
    "Seattle SuperSonics": "SEA",
    "Vancouver Grizzlies": "VAN",
    "Washington Bullets": "WSB",
}
"""Names that no team of the league has today, and another spelling."""
FIRST_HORNETS_ENDED, BOBCATS_ENDED = 2002, 2014
"""Last seasons (end years) of the first Charlotte Hornets, code CHH, and of the Bobcats, code CHA."""


@cache
def _names() -> dict[str, str]:
    return {team.name.casefold(): team.code for team in teams()} | {n.casefold(): c for n, c in _OTHER_NAMES.items()}


def code_of(name: str, season: int) -> str:
    """The code of a team by its full name, in a season (end year).

    >>> code_of("CHARLOTTE HORNETS", 2001), code_of("Charlotte Hornets", 2019), code_of("SEATTLE SUPERSONICS", 2001)
    ('CHH', 'CHO', 'SEA')

    Raises:
        BadRowError: no team has that name.
    """
    found = _names().get(" ".join(name.split()).casefold())
    if found is None:
        raise BadRowError(f"no team is called that ({name!r})")
    return "CHH" if found == "CHO" and season <= FIRST_HORNETS_ENDED else found


def code_from(code: str, season: int) -> str:
    """The code of a team by that of the NBA's statistics or of ESPN, in a season (end year).

    >>> code_from("CHA", 2019), code_from("CHA", 2010), code_from("BKN", 2019)
    ('CHO', 'CHA', 'BRK')

    Raises:
        BadRowError: no team has that code.
    """
    if code == "CHA" and season <= BOBCATS_ENDED:
        return "CHH" if season <= FIRST_HORNETS_ENDED else code
    found = _OTHER_CODES.get(code, code)
    if found not in {team.code for team in teams()} | set(_OTHER_NAMES.values()):
        raise BadRowError(f"no team has that code ({code!r})")
    return found
