"""What a finished loop prints: what it claims, a line per round, and why rounds were held back."""

from __future__ import annotations

from pathlib import Path

from prefloop.evaluation.rounds_report import claim, rounds_markdown, seeds_markdown
from prefloop.store.files import read_json


def show_rounds(root: Path) -> None:
    """Print the claim, the table of rounds and where to look further."""
    found = read_json(root / "rounds.json")
    print(claim(found))
    print()
    print(rounds_markdown(found))
    if found["seeds"]:
        print(seeds_markdown(found))
    best = root / f"rounds/{found['best']}/checkpoint" if found["best"] else None
    print(f"\nThe best round's checkpoint: {best or 'none, no round was better than the start'}")
    print(f"Everything is in {root}/ ; open {root / 'report.html'} in a browser.")
