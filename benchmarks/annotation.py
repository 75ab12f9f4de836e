"""The annotation server under load, with many items, and at its start.

    python benchmarks/annotation.py [--parts load,saturation,size,start] [--rate 100] [--seconds 20] [--source RUN]

Load is offered open-loop by another process (`_annotation_load.py`): latency counts from when a request was due.
Server, generator and database share this machine's cores. PostgreSQL is measured where its programs are installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
from _annotation_project import Accounts, Server, kilobytes, make_project, postgresql, served, write_prompts

PARTS = ("load", "saturation", "size", "start")
GOAL_MS, PAGE_MS, MEMORY_MB, START_S = 500, 300, 400, 10
THINK_S = 0.5
STEP_S = 6.0
"""Seconds at each rate of the search for saturation."""
GROWTH = 1.5
"""From one rate to the next."""


@dataclass(frozen=True)
class Offered:
    """What came of a rate; latencies in milliseconds."""

    rate: float
    answered: float
    """Submissions answered per second."""
    submit: dict[str, float]
    next: dict[str, float]
    errors: int
    first_error: str
    late: float
    """99th percentile of how late the generator itself was."""

    @property
    def held(self) -> bool:
        """Whether the server kept up."""
        return not self.errors and self.submit["p99"] <= GOAL_MS


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, by commas")
    parser.add_argument("--rate", type=float, default=100, help="submissions per second offered")
    parser.add_argument("--seconds", type=float, default=20, help="of load")
    parser.add_argument("--most", type=float, default=600, help="highest rate of the search for saturation")
    parser.add_argument("--items", type=int, default=100_000, help="of the part 'size'")
    parser.add_argument("--raters", type=int, default=200, help="of the part 'size'")
    parser.add_argument("--judgements", type=int, default=20_000, help="of the part 'size'")
    parser.add_argument("--requests", type=int, default=40, help="of each page")
    parser.add_argument("--source", type=Path, help="run folder or file to start with; default 1,000 made-up prompts")
    parser.add_argument("--folder", type=Path, help="where databases are made; default the system's temporary folder")
    parser.add_argument("--json", type=Path, help="write everything there, too")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts has {sorted(unknown)[0]!r}: there are {', '.join(PARTS)}")
    found: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    print(f"{found['cores']} cores; load average before: {found['load_before']:.1f}\n")
    measures: dict[str, Callable[[argparse.Namespace, Path], Any]] = {"size": size, "start": start}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if {"load", "saturation"} & set(parts):
            found["load"] = load(options, parts, Path(folder))
        for name in measures:
            if name in parts:
                found[name] = measures[name](options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


# Load


def load(options: argparse.Namespace, parts: Sequence[str], folder: Path) -> dict[str, Any]:
    """Both databases at the rate asked for, and at higher ones until the server does not keep up."""
    print(
        f"Open-loop load: goal p99 of submit below {GOAL_MS} ms; a rater submits {THINK_S} s after asking for an item"
    )
    print("\n| database | offered/s | answered/s | submit p50 | p95 | p99 | max | next p50 | p95 | p99 | max ", end="")
    print("| errors | generator late p99 | held |\n|---|" + "---:|" * 12 + "---|")
    found = {}
    for name, place in databases(folder):
        rates = list(rates_of(options, parts))
        accounts = make_project(place, *sizes(rates, options.seconds))
        with served("--database", place) as server:
            found[name] = [asdict(one) for one in raised(name, server, accounts, rates, options.seconds)]
    print()
    for name, rows in found.items():
        best = max((row["rate"] for row in rows if not row["errors"] and row["submit"]["p99"] <= GOAL_MS), default=0)
        print(f"{name}: {best:g} submissions/s is the highest rate tried that held.")
    print()
    return found


def databases(folder: Path) -> Iterator[tuple[str, str]]:
    """Empty ones, by name."""
    yield "SQLite", str(folder / "load.db")
    with postgresql() as url:
        if url is not None:
            yield "PostgreSQL", url


def rates_of(options: argparse.Namespace, parts: Sequence[str]) -> Iterator[float]:
    rate = options.rate
    yield rate
    while "saturation" in parts and (rate := round(rate * GROWTH)) <= options.most:
        yield rate


def sizes(rates: Sequence[float], seconds: float) -> tuple[int, int]:
    """Items and raters: enough that nobody runs out, and that a rater is free whenever one is due to come."""
    verdicts = rates[0] * (seconds + 2) + sum(rates[1:]) * (STEP_S + 2)
    return round(verdicts / 2) + 200, max(50, round(rates[-1] * THINK_S * 4))


def raised(name: str, server: Server, accounts: Accounts, rates: Sequence[float], seconds: float) -> Iterator[Offered]:
    """One row for each rate, up to the first that is too much."""
    for rate in rates:
        row = offer(server, accounts, rate, seconds if rate == rates[0] else STEP_S)
        cells = [f"{one[key]:.0f}" for one in (row.submit, row.next) for key in ("p50", "p95", "p99", "max")]
        shown = [name, f"{rate:g}", f"{row.answered:.0f}", *cells, str(row.errors), f"{row.late:.0f}"]
        print(f"| {' | '.join(shown)} | {'yes' if row.held else 'no'} |", flush=True)
        if row.first_error:
            print(f"  first error: {row.first_error}", file=sys.stderr)
        yield row
        if not row.held:
            return


def offer(server: Server, accounts: Accounts, rate: float, seconds: float) -> Offered:
    """Let the other process ask."""
    wanted = {"url": server.url, "tokens": accounts.tokens, "rate": rate, "seconds": seconds, "think": THINK_S}
    command = [sys.executable, str(Path(__file__).with_name("_annotation_load.py"))]
    done = subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the load could not be offered: {done.stderr[-2_000:]}")
    said = json.loads(done.stdout)
    errors = said["errors"]
    latencies = (spread(said[name]) for name in ("submit", "next"))
    return Offered(rate, said["per_second"], *latencies, len(errors), (errors or [""])[0], spread(said["late"])["p99"])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Percentiles by nearest rank; infinite where there is nothing."""
    ordered = sorted(values) or [float("inf")]
    ranks = {name: max(-(-len(ordered) * share // 100), 1) for name, share in (("p50", 50), ("p95", 95), ("p99", 99))}
    return {name: ordered[rank - 1] for name, rank in ranks.items()} | {"max": ordered[-1]}


# Size


def size(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Pages, memory and disk of a large project on SQLite."""
    place = folder / "size.db"
    began = time.perf_counter()
    accounts = make_project(place, options.items, options.raters, options.judgements)
    found: dict[str, Any] = {"made_s": time.perf_counter() - began, "database_mb": kilobytes(place) / 1024}
    print(f"{options.items:,} items, {options.raters:,} raters, {options.judgements:,} judgements on SQLite:", end=" ")
    print(f"made in {found['made_s']:.0f} s, {found['database_mb']:.0f} MB\n")
    print(f"| page | requests | median ms | p95 ms | max ms | goal {PAGE_MS} ms |\n|---|---:|---:|---:|---:|---|")
    with served("--database", place) as server:
        before = server.megabytes()
        for page, sessions in {
            "/judge": accounts.sessions,
            "/mine": accounts.sessions,
            "/desk": (accounts.admin,),
        }.items():
            found[page] = row = spread(visits(server, page, sessions, options.requests))
            met = "met" if row["p95"] <= PAGE_MS else "missed"
            print(f"| {page} | {options.requests} | {row['p50']:.0f} | {row['p95']:.0f} | {row['max']:.0f} | {met} |")
        found |= {"memory_mb": server.megabytes(), "memory_at_start_mb": before, "start_s": server.first_answer_s}
    met = "met" if found["memory_mb"] <= MEMORY_MB else "missed"
    print(
        f"\nServer: {found['memory_mb']:.0f} MB resident after that (goal {MEMORY_MB} MB {met}), {before:.0f} MB at its"
    )
    print(f"start, which took {found['start_s']:.1f} s.\n")
    return found


def visits(server: Server, page: str, sessions: Sequence[str], requests: int) -> list[float]:
    """Milliseconds of requests one after another, by one person after another."""
    found = []
    with httpx2.Client(base_url=server.url, timeout=60) as http:
        for number in range(requests):
            headers = {"Cookie": f"prefloop={sessions[number % len(sessions)]}"}
            began = time.perf_counter()
            response = http.get(page, headers=headers)
            found.append(1000 * (time.perf_counter() - began))
            if response.status_code != 200:
                raise RuntimeError(f"{page} answered {response.status_code}: {response.text[:200]}")
    return found


# Start


def start(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """From the command to the first answer: with a new database, and with the one made then."""
    source = options.source or write_prompts(folder / "prompts.jsonl", 1_000)
    seconds: dict[str, list[float]] = {"new database": [], "existing database": []}
    for number in range(3):
        place = folder / f"start-{number}.db"
        for kind in seconds:
            with served(source, "--database", place) as server:
                seconds[kind].append(server.first_answer_s)
    print(f"From `prefloop annotate {source.name}` to the first HTTP 200 (goal {START_S} s), median of 3:\n")
    print("| start | seconds | goal |\n|---|---:|---|")
    for kind, found in seconds.items():
        median = statistics.median(found)
        print(f"| {kind} | {median:.1f} | {'met' if median <= START_S else 'missed'} |")
    return seconds


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
