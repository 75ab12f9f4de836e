"""The thirty teams, with Basketball-Reference codes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Team:
    """A franchise."""

    code: str
    city: str
    nickname: str
    arena: str
    conference: str

    @property
    def name(self) -> str:
        """Full name."""
        return f"{self.city} {self.nickname}"


_TABLE = """
ATL|Atlanta|Hawks|State Farm Arena|East
BOS|Boston|Celtics|TD Garden|East
BRK|Brooklyn|Nets|Barclays Center|East
CHI|Chicago|Bulls|United Center|East
CHO|Charlotte|Hornets|Spectrum Center|East
CLE|Cleveland|Cavaliers|Rocket Mortgage FieldHouse|East
DAL|Dallas|Mavericks|American Airlines Center|West
DEN|Denver|Nuggets|Ball Arena|West
DET|Detroit|Pistons|Little Caesars Arena|East
GSW|Golden State|Warriors|Chase Center|West
HOU|Houston|Rockets|Toyota Center|West
IND|Indiana|Pacers|Gainbridge Fieldhouse|East
LAC|Los Angeles|Clippers|Crypto.com Arena|West
LAL|Los Angeles|Lakers|Crypto.com Arena|West
MEM|Memphis|Grizzlies|FedExForum|West
MIA|Miami|Heat|Kaseya Center|East
MIL|Milwaukee|Bucks|Fiserv Forum|East
MIN|Minnesota|Timberwolves|Target Center|West
NOP|New Orleans|Pelicans|Smoothie King Center|West
NYK|New York|Knicks|Madison Square Garden|East
OKC|Oklahoma City|Thunder|Paycom Center|West
ORL|Orlando|Magic|Kia Center|East
PHI|Philadelphia|76ers|Wells Fargo Center|East
PHO|Phoenix|Suns|Footprint Center|West
POR|Portland|Trail Blazers|Moda Center|West
SAC|Sacramento|Kings|Golden 1 Center|West
SAS|San Antonio|Spurs|Frost Bank Center|West
TOR|Toronto|Raptors|Scotiabank Arena|East
UTA|Utah|Jazz|Delta Center|West
WAS|Washington|Wizards|Capital One Arena|East
"""


@cache
def teams() -> tuple[Team, ...]:
    """All teams, by code."""
    return tuple(Team(*line.split("|")) for line in _TABLE.strip().splitlines())
