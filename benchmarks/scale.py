"""Data at size: every stage over 10⁴, 10⁵ and 10⁶ completions in a process of its own; time, memory, and the curve.

    python benchmarks/scale.py [--sizes 10000,100000,1000000] [--folder DIR] [--json scale.json] [--figure scale.svg]

Completions are judged by a cheap function, paired twice, exported and imported again, decontaminated and mixed; then a
finished run folder of as many records is shown and taken up again, and the report over a tenth as many test prompts is
written and opened in a browser, where there is one. Peak memory is what the system says of each process. Whether time
is linear is told by the exponent of CPU time between each size and the next.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import _scale_data
import _scale_figure
import _scale_run

SIZES = "10000,100000,1000000"
MEMORY_GB = 1.0
LINEAR = 1.1
RUN_S = 5.0
REPORT_MB, REPORT_S = 20, 3.0
TESTS_EVERY = 10
"""A run of so many completions has one test prompt."""
FOLDER = ("show a run", "resume a run")
MEASURED = Path(__file__).with_name("_scale_measured.py")


@dataclass(frozen=True)
class Measure:
    """One stage at one size."""

    stage: str
    rows: int
    seconds: float
    """By the clock on the wall, from the start of the process to its end."""
    cpu_seconds: float
    peak_gb: float
    torch: bool
    """Whether torch was imported."""


def stages(folder: Path) -> dict[str, list[str]]:
    """The commands of the chain, in order."""
    prompts, answers, judged = (str(folder / f"{name}.parquet") for name in ("prompts", "completions", "judgements"))
    ours, theirs, again, clean, mixed = (str(folder / n) for n in ("ours", "theirs", "again", "clean", "mixed"))
    other = "--set preferences.strategy=best-random --seed 2".split()
    return {
        "judge": ["judge", prompts, answers, "--judge", "_scale_data:judge", "--out", judged],
        "pair and export": ["prefer", prompts, answers, judged, "--out", ours],
        "pair otherwise": ["prefer", prompts, answers, judged, *other, "--out", theirs],
        "import": ["prefer", "--import", str(folder / "ours" / "preferences.jsonl"), "--out", again],
        "decontaminate": ["decontaminate", ours, "--against", str(folder / "test.parquet"), "--out", clean],
        "mix": ["mix", clean, theirs, "--weight", "0.7", "--weight", "0.3", "--out", mixed],
    }


def chain(folder: Path, rows: int, note: Callable[[Measure], None]) -> None:
    """Measure every stage at one size, and the run folder."""
    folder.mkdir(parents=True)
    _scale_data.make(folder, rows)
    for stage, words in stages(folder).items():
        note(measured(stage, rows, words))
    run = _scale_run.finished_run(folder / "run", folder, rows // TESTS_EVERY)
    note(measured("show a run", rows, ["show", str(run)]))
    note(measured("resume a run", rows, [*_scale_run.COMMAND, "--out", str(run), "--resume"]))


def measured(stage: str, rows: int, words: list[str]) -> Measure:
    """Run `prefloop` with these words in a process of its own."""
    print(f"[{time.strftime('%H:%M:%S')}] {rows:,}: {stage}", file=sys.stderr, flush=True)
    command = [sys.executable, str(MEASURED), "--quiet", *words]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed: {done.stderr[-2_000:]}")
    said = json.loads(done.stderr.splitlines()[-1])
    return Measure(stage, rows, seconds, said["cpu_seconds"], said["peak_gb"], said["torch"])


def opened(page: Path, profile: Path) -> float | None:
    """Seconds until a browser has loaded the page; None where there is no browser."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from browser import CHROMIUM, Browser

    if CHROMIUM is None:
        return None
    with Browser(profile) as browser:
        started = time.perf_counter()
        browser.open(page.resolve().as_uri())
        browser.js("document.querySelectorAll('details').length")
        return time.perf_counter() - started


def exponents(found: list[Measure]) -> dict[str, list[float]]:
    """By stage, the slope of log CPU seconds over log rows from each size to the next: 1 is linear, less is a process
    whose start still counts."""
    return {
        stage: [
            math.log(b.cpu_seconds / a.cpu_seconds) / math.log(b.rows / a.rows) for a, b in itertools.pairwise(same)
        ]
        for stage, same in _by_stage(found).items()
    }


def _by_stage(found: list[Measure]) -> dict[str, list[Measure]]:
    stages = dict.fromkeys(measure.stage for measure in found)
    return {stage: sorted((m for m in found if m.stage == stage), key=lambda m: m.rows) for stage in stages}


def print_tables(found: list[Measure], page: dict[str, float | None]) -> None:
    """Markdown on standard output."""
    print(
        "| stage | completions | s | CPU s | completions per CPU s | peak GB | torch |\n|---|---|---|---|---|---|---|"
    )
    for m in found:
        cells = (m.stage, f"{m.rows:,}", f"{m.seconds:.1f}", f"{m.cpu_seconds:.1f}", f"{m.rows / m.cpu_seconds:,.0f}")
        print(f"| {' | '.join(cells)} | {m.peak_gb:.2f} | {'imported' if m.torch else 'no'} |")
    print_exponents(found)
    peak = max(m.peak_gb for m in found)
    folder = max(m.seconds for m in found if m.stage in FOLDER and m.rows == found[-1].rows)
    print(f"- peak of all stages {peak:.2f} GB; goal below {MEMORY_GB}: {_met(peak < MEMORY_GB)}")
    print(f"- a run folder shown and resumed in at most {folder:.1f} s; goal below {RUN_S}: {_met(folder < RUN_S)}")
    if page:
        opening = page["seconds"]
        met = page["mb"] < REPORT_MB and (opening is None or opening < REPORT_S)
        shown = "no browser here" if opening is None else f"opened in {opening:.2f} s"
        print(f"- report over {page['prompts']:,} prompts: {page['mb']:.1f} MB, {shown}; goal {REPORT_MB} MB and "
              f"{REPORT_S} s: {_met(met)}")  # fmt: skip


def print_exponents(found: list[Measure]) -> None:
    """How time grows from each size to the next, where there are several."""
    sizes = sorted({m.rows for m in found})
    steps = [f"{a:,} to {b:,}" for a, b in itertools.pairwise(sizes)]
    if not steps:
        print()
        return
    print(f"\n| exponent of CPU time | {' | '.join(steps)} |\n|---|{'---|' * len(steps)}")
    slopes = exponents(found)
    for stage, some in slopes.items():
        print(f"| {stage} | {' | '.join(f'{slope:.2f}' for slope in some)} |")
    steepest = max(map(max, slopes.values()))
    print(f"\n- steepest exponent {steepest:.2f}; goal at most {LINEAR}: {_met(steepest <= LINEAR)}")


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


def main() -> None:
    """Measure, print tables and draw the curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=SIZES, help="completions, with commas between")
    parser.add_argument("--folder", type=Path, help="for the data, some 5 GB for 10^6; default a temporary one")
    parser.add_argument("--json", type=Path, help="also write what was measured")
    parser.add_argument("--figure", type=Path, help="also draw the curves, as SVG")
    options = parser.parse_args()
    found: list[Measure] = []
    page: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        for rows in sorted(int(size) for size in options.sizes.split(",")):
            folder = Path(work) / str(rows)
            chain(folder, rows, found.append)
            report = folder / "run" / "report.html"
            found.append(measured("report", rows, ["report", str(folder / "run")]))
            seconds = opened(report, Path(work) / "profile")
            page = {"prompts": rows // TESTS_EVERY, "mb": report.stat().st_size / 1e6, "seconds": seconds}
            shutil.rmtree(folder)
            if options.json:
                options.json.write_text(json.dumps({"stages": [asdict(m) for m in found], "report": page}, indent=1))
    print_tables(found, page)
    if options.figure:
        chained = {stage: same for stage, same in _by_stage(found).items() if stage not in (*FOLDER, "report")}
        seconds = {stage: [(m.rows, m.cpu_seconds) for m in same] for stage, same in chained.items()}
        memory = {stage: [(m.rows, m.peak_gb) for m in same] for stage, same in chained.items()}
        _scale_figure.write_figure(options.figure, seconds, memory, MEMORY_GB)


if __name__ == "__main__":
    main()
