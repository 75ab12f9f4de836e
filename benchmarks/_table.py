"""Runs the cases of `benchmarks/training.py`; of each what was measured, for JSON, and its lines in Markdown."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import _flat
import _limit
import _memory
import _trl
import torch
import transformers
from _beside import Bench, Beside, Side, fastest, free
from _sizes import CASES, SIZES, Case

from prefloop.progress import set_quiet

Result = tuple[dict[str, Any], list[str]]


class Run:
    """One run of the benchmark: a size, and pilots that several cases share."""

    def __init__(self, size: str, rounds: int, steps: int) -> None:
        set_quiet(True)
        transformers.utils.logging.disable_progress_bar()
        self.size, self.rounds, self.steps = SIZES[size], rounds, steps
        self.bench = cache(lambda name: Bench(self.size, CASES[name], rounds, steps))
        self.budgets = cache(self._budgets)
        self.micro_batches = cache(self._micro_batches)

    def heading(self) -> str:
        """What was measured on what."""
        with torch.device("meta"):
            made = transformers.AutoModelForCausalLM.from_config(self.size.config(**self.size.shape))
        place = torch.cuda.get_device_name() if self.size.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
        return (
            f"{made.num_parameters() / 1e6:,.1f}M parameters, vocabulary {self.size.shape['vocab_size']:,}, "
            f"{self.size.dtype}, LoRA on all linear layers but the head, {place}; torch {torch.__version__}, "
            f"transformers {transformers.__version__}, TRL {_trl.VERSION}; {self.rounds} rounds of {self.steps} "
            "optimizer steps after one to warm up; medians (least to most)"
        )

    def case(self, name: str) -> Result:
        """Measure one case."""
        kinds = {"limit": self._limit, "memory": self._memory, "flat": self._flat}
        result = kinds[name]() if name in kinds else self._beside(CASES[name])
        if name not in ("dpo-long", "limit"):  # which share their data and pilots with `memory`
            self.bench.cache_clear()
        free()
        return result

    def _budgets(self, name: str) -> dict[int, float]:
        _say(f"{name}: pilot of our tokens per pass")
        return self.bench(name).budgets()

    def _micro_batches(self, name: str) -> dict[int, float]:
        _say(f"{name}: pilot of TRL's micro-batches")
        return self.bench(name).micro_batches()

    def _beside(self, case: Case) -> Result:
        bench = self.bench(case.name)
        ours, theirs = self.budgets(case.name), self.micro_batches(case.name)
        _say(f"{case.name}: rounds")
        tuned = bench.beside(fastest(ours), bench.setting(fastest(theirs)), self.rounds)
        default = bench.beside(fastest(ours), bench.setting(_trl.DEFAULT_MICRO_BATCH, defaults=True), self.rounds)
        goal = case.goals[self.size.device == "cuda"]
        difference = max(tuned.difference, default.difference)
        result = {
            "ratio": tuned.ratio,
            "ratios": tuned.ratios,
            "ceiling": tuned.ceiling,
            "goal": goal,
            "met": tuned.ratio >= goal,
            "curves_agree": difference <= self.size.tolerance,
            "curve_difference": difference,
            "weight_difference": tuned.apart,
            "tuned": _plain(tuned),
            "defaults": _plain(default),
            "pilot": {"tokens_per_pass": ours, "micro_batch": theirs},
        }
        return result, self._beside_lines(case, tuned, default, result)

    def _beside_lines(self, case: Case, tuned: Beside, default: Beside, result: dict[str, Any]) -> list[str]:
        tokens = f"P {self.size.scaled(case.prompt)}, C {self.size.scaled(case.completion)}, K {case.answers}"
        pilot = result["pilot"]
        steps = len(tuned.ours.losses)
        verdict = "agree" if result["curves_agree"] else "PART"
        return [
            f"{tokens}; {case.prompts} prompts, {case.examples} {'answers' if case.kind == 'grpo' else 'pairs'} "
            "per optimizer step",
            "",
            "| | setting | tokens per step | of them padding | s per step |",
            "|---|---|---|---|---|",
            *(_row(side) for side in (tuned.ours, tuned.peer, default.peer)),
            "",
            f"- **{_spread(tuned.ratios)} times tuned TRL**; computed ceiling {tuned.ceiling:.2f}; "
            f"goal {result['goal']}: {self._met(result['met'])}",
            f"- {_spread(default.ratios)} times TRL's defaults; computed ceiling {default.ceiling:.2f}",
            f"- loss curves {verdict}: over {steps} updates, loss {tuned.ours.losses[0]:.4f} to "
            f"{tuned.ours.losses[-1]:.4f}, they differ by at most {result['curve_difference']:.1e} (allowed "
            f"{self.size.tolerance:.0e}); the trained weights are apart by {tuned.apart:.1e} of the way they went",
            f"- pilot, s per step by our tokens per pass: {_pilot(pilot['tokens_per_pass'])}; "
            f"s per example by TRL's micro-batch: {_pilot(pilot['micro_batch'])}",
        ]

    def _limit(self) -> Result:
        budget = fastest(self.budgets("dpo-long"))
        _say("limit: rounds")
        found = _limit.limit(self.bench("dpo-long"), budget)
        met = found.ratio <= _limit.GOAL
        result = {**asdict(found), "ratio": found.ratio, "ratios": found.ratios, "goal": _limit.GOAL, "met": met}
        return result, [
            "| on the tokens of dpo-long | s per 1,000 unique tokens |",
            "|---|---|",
            f"| prefloop, DPO step with update, {found.budget:,} tokens per pass | {_spread(found.ours, 4)} |",
            f"| the model alone, forward and backward, fastest cut: {found.passes} | {_spread(found.plain, 4)} |",
            "",
            f"- **{_spread(found.ratios)} times the model alone**; goal at most {_limit.GOAL}: {self._met(met)}",
        ]

    def _memory(self) -> Result:
        budget, micro_batch = fastest(self.budgets("dpo-long")), fastest(self.micro_batches("dpo-long"))
        self.bench.cache_clear()  # the processes measured get this one's memory
        free()
        _say("memory: a process for each side and setting")
        theirs = _memory.peak(self.size, "trl", micro_batch)
        peaks = [_memory.peak(self.size, "ours", setting) for setting in self.size.budgets]
        ours = next(peak for peak in peaks if peak.setting == budget)
        below = [peak for peak in peaks if peak.gb <= theirs.gb]
        result = {
            "ours": [asdict(peak) for peak in peaks],
            "tuned": asdict(theirs),
            "ratio": ours.gb / theirs.gb,
            "goal": 1.0,
            "met": ours.gb <= theirs.gb,
        }
        best = min(below, key=lambda peak: peak.seconds, default=None)
        within = (
            f"not above TRL's we take {best.seconds:.2f} s per step ({best.setting:,} tokens per pass), "
            f"{theirs.seconds / best.seconds:.2f} times its speed"
            if best
            else "no budget of ours stays below TRL's"
        )
        kind = "allocated on the GPU" if self.size.device == "cuda" else "resident, everything imported counted"
        return result, [
            f"| dpo-long, each in its own process | peak GB, {kind} | s per step |",
            "|---|---|---|",
            *(f"| prefloop, {p.setting:,} tokens per pass | {p.gb:.2f} | {p.seconds:.2f} |" for p in peaks),
            f"| TRL {_trl.VERSION}, tuned, micro-batch {theirs.setting} | {theirs.gb:.2f} | {theirs.seconds:.2f} |",
            "",
            f"- **{result['ratio']:.2f} of tuned TRL's peak** at our fastest budget ({budget:,}); goal not above: "
            f"{self._met(result['met'])}",
            f"- {within}",
        ]

    def _flat(self) -> Result:
        _say(f"flat: up to {self.size.flat[-1]:,} pairs")
        costs = _flat.flat(self.size)
        growth = costs[-1].whole / costs[0].whole
        met = growth <= _flat.GOAL
        result = {"costs": [asdict(cost) for cost in costs], "ratio": growth, "goal": _flat.GOAL, "met": met}
        return result, [
            "| pairs | ms per pair | of that before the second step | each later step, per pair |",
            "|---|---|---|---|",
            *(f"| {c.pairs:,} | {c.whole:.3f} | {c.before:.3f} | {c.steps:.3f} |" for c in costs),
            "",
            f"- **{growth:.2f} times the cost per pair** from {costs[0].pairs:,} to {costs[-1].pairs:,} pairs; goal at "
            f"most {_flat.GOAL}: {self._met(met)}",
        ]

    def _met(self, met: bool) -> str:
        """At the size of a smoke test a figure says nothing."""
        return "not judged at this size" if self.size.name == "tiny" else ("met" if met else "MISSED")


def _say(what: str) -> None:
    """Where a long run is; the tables alone go to standard output."""
    print(f"[{time.strftime('%H:%M:%S')}] {what}", file=sys.stderr, flush=True)


def _plain(beside: Beside) -> dict[str, Any]:
    return {**asdict(beside), "ratio": beside.ratio, "ratios": beside.ratios}


def _row(side: Side) -> str:
    cells = (side.label, side.setting, f"{side.tokens:,.0f}", f"{side.padding:.0%}", _spread(side.seconds, 3))
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], digits: int = 2) -> str:
    median, least, most = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def _pilot(seconds: dict[int, float]) -> str:
    return ", ".join(f"{setting:,}: {value:.3g}" for setting, value in seconds.items())
