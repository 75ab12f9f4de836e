"""The page of all rounds: whole, self-contained, escaped, and read in a real browser. All figures here are made up."""

from __future__ import annotations

import base64
import copy
import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from browser import CHROMIUM, Browser
from test_report import Outline, attributes

from prefloop.config.loop import GuardsConfig
from prefloop.evaluation import rounds_charts
from prefloop.evaluation.rounds_charts import Level, Line, Point, over_distance, plot
from prefloop.evaluation.rounds_report import (
    RoundsContext,
    claim,
    render_rounds,
    rounds_markdown,
    write_rounds_report,
)
from prefloop.loop.guards import best, ends, judge_round, promoted

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
HOSTILE = "</style><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
CONTEXT = RoundsContext(
    name="rlhf-nba",
    command="prefloop loop rlhf-nba --seeds 3",
    recipe="name: rlhf-nba\nseed: 1\nloop:\n  name: rlhf\n  rounds: 3\n",
    versions={"prefloop": "0.1.0", "python": "3.11.9", "torch": "2.11.0", "threads": "2"},
)


def est(estimate: float, half: float = 0.04) -> dict[str, float]:
    return {"estimate": estimate, "ci_low": estimate - half, "ci_high": estimate + half}


def start() -> dict[str, Any]:
    return {
        "round": 0,
        "lineage": {"start": None, "policy": "4be1f0f1cbd3c1e1", "reference": None},
        "accuracy": est(0.54),
        "gain_start": None,
        "gain_previous": None,
        "watched": {"accuracy": 0.55, "gain_start": None, "gain_previous": None},
        "valid": 0.999,
        "length": {"mean": 88.5, "ratio_start": 1.0},
        "diversity": {"distinct_2": 0.41, "duplicates": 0.22},
        "guards": [],
        "promoted": True,
    }


def tuned(number: int, accuracy: float, last: float, longer: float, top: float, kl: float) -> dict[str, Any]:
    """A made-up round whose figures drift as published third rounds did."""
    return {
        "round": number,
        "lineage": {
            "start": f"{number - 1}a2c7fd0e4a5b6c7",
            "policy": f"{number}a2c7fd0e4a5b6c7",
            "reference": "4be1f0f1cbd3c1e1",
        },
        "data": {
            "prompts": 640,
            "pairs": 3840 - 120 * number,
            "drops": {"answer repeated": 900 + 150 * number, "comparison tied": 81},
            "diagnostics": {
                "chosen_longer": 0.48 + 0.05 * number,
                "token_ratio": 1 + 0.06 * number,
                "margin_mean": 0.52 - 0.11 * (number - 1),
                "score_length_correlation": 0.1 * number,
            },
            "overlap": {"rounds": 0, "evaluation": 0},
        },
        "judge": {"name": "raters", "accuracy": est(0.82, 0.03), "maximum_share": top, "tie_rate": 0.05, "spread": 0.3},
        "reward_model": {
            "held_out_prompts_and_raters": est(0.74, 0.03),
            "against_truth": est(0.79 - 0.02 * number, 0.03),
            "brier": 0.17,
            "ece": 0.03,
            "temperature": 1.4,
            "pairs": 3500,
        },
        "training": {"steps": 60, "final_loss": -0.0123, "kl": kl, "displacement": None},
        "accuracy": est(accuracy),
        "gain_start": est(accuracy - 0.54),
        "gain_previous": est(accuracy - last),
        "watched": {
            "accuracy": accuracy + 0.01,
            "gain_start": est(accuracy - 0.54),
            "gain_previous": est(accuracy - last),
            "length": {"mean": 88.5 * longer, "ratio_start": longer},
        },
        "valid": 0.998,
        "length": {"mean": 88.5 * longer, "ratio_start": longer},
        "diversity": {"distinct_2": 0.41 - 0.05 * number, "duplicates": 0.22 + 0.06 * number},
    }


def looks(fall: float, last: int) -> list[dict[str, Any]]:
    """Reward rises with √KL; accuracy rises, and falls after √KL = 3 by `fall` for each unit."""
    rows = []
    for i in range(last + 1):
        distance = 0.3 * i
        accuracy = 0.54 + 0.06 * min(distance, 3) - fall * max(0.0, distance - 3)
        figures = {
            "questions": 200,
            "kl": distance**2,
            "proxy": 0.4 * distance - 0.2,
            "accuracy": accuracy,
            "length": 88 + i,
        }
        rows.append({"round": 1 + i // 10, "iteration": 5 * i, **figures})
    return rows


def example() -> dict[str, Any]:
    """Three made-up rounds as ``rounds.json`` has them: two gain, the third is held back and ends the loop."""
    every = [start()]
    for figures in (
        (1, 0.63, 0.54, 1.08, 0.31, 6.2),
        (2, 0.69, 0.63, 1.31, 0.52, 14.9),
        (3, 0.65, 0.69, 1.62, 0.84, 23.4),
    ):
        found = tuned(*figures)
        findings = judge_round(found, every, GuardsConfig())
        every.append({**found, "guards": [asdict(one) for one in findings], "promoted": promoted(findings)})
    rounds = {
        "schema": 1,
        "method": "rlhf",
        "name": "rlhf-nba",
        "rounds": every,
        "best": best(every),
        "stopped": {"round": 3, "reason": ends(findings)},
        "baselines": {
            "sft_on_chosen": {
                "label": "SFT on the chosen answers of each round",
                "accuracy": est(0.66),
                "gain": est(0.12),
                "lead": est(0.02),
            },
            "best_of_k": {
                "label": "best of 8 by the reward model",
                "accuracy": est(0.61),
                "gain": est(0.07),
                "lead": est(0.02),
            },
            "long_dpo": {
                "label": "one long DPO run, as many judgements",
                "accuracy": est(0.67),
                "gain": est(0.13),
                "lead": est(0.02),
            },
        },
        "curves": {"guards on": looks(0.0, 14), "guards off": looks(0.05, 24)},
    }
    seeds = []
    for seed in (1, 2, 3):
        headline = [{k: one[k] for k in ("round", "accuracy", "gain_start", "length", "promoted")} for one in every]
        seeds.append({"seed": seed, "rounds": headline, "best": 2, "stopped": rounds["stopped"] if seed == 1 else None})
    return {**rounds, "seeds": seeds}


@pytest.fixture(scope="module")
def rounds() -> dict[str, Any]:
    return example()


@pytest.fixture(scope="module")
def page(rounds: dict[str, Any]) -> str:
    return render_rounds(rounds, CONTEXT)


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


def bare(rounds: dict[str, Any]) -> dict[str, Any]:
    """As little as a loop writes: a start and a round without judge, reward model, guards, curves, seeds."""
    kept = ("round", "lineage", "accuracy", "gain_start", "watched", "promoted")
    every = [{name: one[name] for name in kept} for one in rounds["rounds"][:2]]
    return {
        "schema": 1,
        "method": "iterative-dpo",
        "name": "bare",
        "rounds": every,
        "best": 1,
        "stopped": None,
        "baselines": {},
        "curves": {},
    }


def cells(outline: Outline, tag: str = "td") -> list[str]:
    return [text for name, text in outline.texts if name == tag]


class TestPage:
    def test_is_well_formed_with_every_section(self, outline: Outline) -> None:
        sections = [attributes["id"] for attributes in outline.found("section")]
        assert sections == ["rounds", "charts", "distance", "guards", "seeds", "details", "reproduce"]
        assert [attributes["href"] for attributes in outline.found("a")] == [f"#{section}" for section in sections]
        ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        assert len(outline.found("h1")) == 1
        levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h[1-6]", tag)]
        assert all(after - before <= 1 for before, after in pairwise(levels))

    def test_claim_stands_first_and_the_reason_to_end_after_it(self, outline: Outline, rounds: dict[str, Any]) -> None:
        assert outline.inside("h1") == [claim(rounds)]
        assert claim(rounds) == (
            "Round 2 of 3 is the best: accuracy rose from 54.0% to 69.0% (+15.0 points, 95% interval +11.0 to +19.0); "
            "a guard ended the loop after round 3."
        )
        assert any(rounds["stopped"]["reason"] in text for text in outline.inside("p"))

    def test_loads_nothing(self, outline: Outline, page: str) -> None:
        for tag, found in outline.tags:
            assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "script"}
            assert "src" not in found
            assert not [name for name in found if name == "style" or name.startswith("on")]
        styles = "".join(outline.inside("style"))
        assert "url(" not in styles
        assert "@import" not in styles
        assert not re.search(r"https?://", page)

    def test_policy_allows_only_the_page_s_own_style(self, outline: Outline) -> None:
        policy = next(m["content"] for m in outline.found("meta") if m.get("http-equiv") == "Content-Security-Policy")
        (style,) = outline.inside("style")
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"

    def test_every_round_has_its_row(self, outline: Outline) -> None:
        assert [text for text in cells(outline, "th") if re.fullmatch("Start|Round [123]", text)][:4] == [
            "Start",
            "Round 1",
            "Round 2",
            "Round 3",
        ]
        badges = outline.inside("span")
        assert badges.count("★ best") == 2  # in the table of rounds and above its guards
        assert badges.count("✗ not promoted") == 2
        texts = cells(outline)
        assert {"+15.0", "×1.62", "69.0%"} <= set(texts)
        assert "+11.0 to +19.0" in outline.inside("small")

    def test_every_finding_is_told_with_its_verdict(self, outline: Outline, rounds: dict[str, Any]) -> None:
        texts, badges = cells(outline), outline.inside("span")
        for one in rounds["rounds"]:
            for guard in one["guards"]:
                assert guard["text"] in texts
        stops = [guard for one in rounds["rounds"] for guard in one["guards"] if guard["verdict"] == "stop"]
        assert badges.count("■ stop") == 2 * len(stops) == 2  # at a glance, and in its round

    def test_simpler_means_stand_beside_it(self, outline: Outline) -> None:
        names = cells(outline, "th")
        assert names.index("best of 8 by the reward model") < names.index("this loop, round 2")
        assert any("SFT on the chosen answers of each round: 66.0%" in text for text in outline.inside("li"))

    def test_over_optimisation_is_named(self, outline: Outline) -> None:
        """Both peak at KL 3² = 9; without guards accuracy fell by 21 points from there."""
        assert outline.inside("span").count("over-optimised") == 1
        assert any(cell.startswith("21.0") for cell in cells(outline))

    def test_seeds_stand_side_by_side(self, outline: Outline) -> None:
        assert outline.inside("td").count("all rounds run") == 2
        assert "69.0 to 69.0" in outline.inside("small")  # the mean of three alike, by Student's interval

    def test_lineage_recipe_and_command(self, outline: Outline) -> None:
        codes = outline.inside("code")
        assert {"4be1f0f1cbd3c1e1", "2a2c7fd0e4a5b6c7", "2.11.0"} <= set(codes)
        assert CONTEXT.command in outline.inside("pre")
        assert CONTEXT.recipe in outline.inside("pre")

    def test_same_rounds_same_bytes(self, page: str, rounds: dict[str, Any], tmp_path: Path) -> None:
        kept = copy.deepcopy(rounds)
        path = write_rounds_report(rounds, CONTEXT, tmp_path / "new" / "report.html")
        assert path.read_text(encoding="utf-8") == page == render_rounds(example(), CONTEXT)
        assert rounds == kept


class TestPartialRounds:
    def test_as_little_as_there_can_be(self, rounds: dict[str, Any]) -> None:
        outline = Outline(render_rounds(bare(rounds), CONTEXT))
        assert [a["id"] for a in outline.found("section")] == ["rounds", "charts", "details", "reproduce"]
        assert outline.inside("text").count("no data") == 2
        assert outline.inside("h1")[0].endswith("; 1 round was run.")

    def test_the_start_alone(self, rounds: dict[str, Any]) -> None:
        alone = {**bare(rounds), "rounds": [start()], "best": 0}
        assert Outline(render_rounds(alone, CONTEXT)).inside("h1") == [
            "No round did better than the start, whose accuracy is 54.0%; no round was run."
        ]

    def test_guards_that_are_off_are_said_to_be(self, rounds: dict[str, Any]) -> None:
        off = copy.deepcopy(rounds)
        for i, one in enumerate(off["rounds"][1:], 1):
            findings = judge_round(one, off["rounds"][:i], GuardsConfig(enabled=False))
            one |= {"guards": [asdict(found) for found in findings], "promoted": promoted(findings)}
        texts = Outline(render_rounds({**off, "stopped": None, "best": 2}, CONTEXT)).texts
        assert ("strong", "Guards were switched off.") in texts
        assert any("would end, but guards are off" in text for _, text in texts)

    @pytest.mark.parametrize(
        ("low", "high", "said"),
        [(0.01, 0.2, "rose from"), (-0.2, -0.01, "fell from"), (-0.1, 0.1, "did not change beyond chance, from")],
    )
    def test_claims_follow_the_interval(self, rounds: dict[str, Any], low: float, high: float, said: str) -> None:
        found = bare(rounds)
        found["rounds"][1] = {**found["rounds"][1], "gain_start": {"estimate": 0.0, "ci_low": low, "ci_high": high}}
        assert f"accuracy {said} 54.0%" in claim(found)


def hostile(rounds: dict[str, Any]) -> dict[str, Any]:
    """The same rounds with an attack in every string."""

    def attacked(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            labels = name in ("baselines", "curves", "drops")
            return {(f"{key}{HOSTILE}" if labels else key): attacked(v, key) for key, v in value.items()}
        if isinstance(value, list):
            return [attacked(v) for v in value]
        return f"{value}{HOSTILE}\u202e" if isinstance(value, str) and name != "verdict" else value

    return attacked(rounds)


class TestHostileText:
    def test_nothing_in_the_figures_is_markup(self, rounds: dict[str, Any]) -> None:
        context = replace(CONTEXT, name=HOSTILE, command=HOSTILE, recipe=HOSTILE, versions={HOSTILE: HOSTILE})
        page = render_rounds(hostile(rounds), context)
        outline = Outline(page)
        assert not outline.found("script")
        assert not outline.found("img")
        assert "<script" not in page
        assert "\u202e" not in page
        assert "⟨U+202E⟩" in page

    def test_a_row_of_markdown_stays_one_row(self, rounds: dict[str, Any]) -> None:
        broken = copy.deepcopy(rounds)
        broken["baselines"]["best_of_k"]["label"] = "a | b\nc"
        lines = rounds_markdown(broken).splitlines()
        assert len(lines) == len(rounds_markdown(rounds).splitlines())
        assert "| a \\| b c |" in lines[-2]


class TestMarkdown:
    def test_table(self, rounds: dict[str, Any]) -> None:
        lines = rounds_markdown(rounds).splitlines()
        assert lines[2] == "| start | 54.0% [50.0, 58.0] | – | – | ×1.00 |  |  |"
        assert lines[4] == "| **2** | 69.0% [65.0, 73.0] | +15.0 [+11.0, +19.0] | 75.0% [72.0, 78.0] | ×1.31 | yes |  |"
        assert lines[5].endswith("| ×1.62 | no: against the round before, answer length, KL, judge's maximum |  |")
        assert (
            lines[6]
            == "| SFT on the chosen answers of each round | 66.0% [62.0, 70.0] | +12.0 [+8.0, +16.0] |  |  |  | +2.0 [−2.0, +6.0] |"
        )
        assert {line.count(" | ") for line in lines[2:]} == {6}

    def test_without_a_reward_model_the_judge_is_told(self, rounds: dict[str, Any]) -> None:
        judged = copy.deepcopy(rounds)
        judged["rounds"][1]["reward_model"] = None
        assert "| 82.0% [79.0, 85.0] |" in rounds_markdown(judged).splitlines()[3]


class TestCharts:
    def test_positions_are_shares_of_the_frame(self) -> None:
        """Rounds 0, 1, 2 lie at 14, 55 and 96%; of 0 to 1 in 190 pixels, 0.25 lies 142.5 below the top at 22."""
        drawing = plot(
            "T", [Line("a", [Point(0, 0.0), Point(1, 0.25), Point(2, 1.0)])], [], [(0, "0"), (1, "1"), (2, "2")], str
        ).svg
        marks = [(one["x"], one["y"]) for one in attributes(drawing, "svg") if "y" in one and "width" not in one]
        assert marks == [("14.00%", "212"), ("55.00%", "164.5"), ("96.00%", "22")]
        assert attributes(drawing, "polyline")[0]["points"] == "0.00,190 50.00,142.5 100.00,0"

    def test_levels_and_intervals_lie_inside_the_scale(self) -> None:
        drawing = plot("T", [Line("a", [Point(0, 0.5, 0.4, 0.6)])], [Level("b", 0.93)], [(0, "start")], str)
        for found in attributes(drawing.svg, "line"):
            assert 22 <= float(found["y1"]) <= 212
        assert [(key.kind, key.label) for key in drawing.keys] == [("series", "a"), ("level", "b: 0.93")]

    def test_rings_are_rounds_that_were_not_promoted(self, page: str) -> None:
        assert page.count("point s0 ring") == 3  # of accuracy, length and judge

    def test_few_values_are_told_and_many_are_not(self) -> None:
        def told(count: int) -> int:
            places = [(float(i), str(i)) for i in range(count)]
            line = Line("a", [Point(i, i / 10) for i in range(count)], told=True)
            return plot("T", [line], [], places, str).svg.count('class="value"')

        assert (told(8), told(9)) == (8, 0)

    def test_distance_is_on_a_square_root_scale(self) -> None:
        """KL 0, 4 and 16 lie at equal steps; a KL estimated below 0 lies at 0."""
        rows = [{"kl": kl, "proxy": kl} for kl in (0.0, 4.0, 16.0)] + [{"kl": None, "proxy": 1.0}]
        drawing = over_distance("T", {"on": rows, "off": [{"kl": -0.3, "proxy": 2.0}]}, "proxy").svg
        first, second = (one["points"] for one in attributes(drawing, "polyline"))
        across = [float(corner.split(",")[0]) for corner in first.split()]
        assert across == [0.0, 50.0, 100.0] == [25 * sqrt(kl) for kl in (0, 4, 16)]
        assert second.startswith("0.00,")

    def test_no_data(self) -> None:
        assert "no data" in over_distance("T", {}, "proxy").svg
        assert "no data" in plot("T", [Line("a", [])], [], [(0, "start")], str).svg

    def test_all_values_equal(self) -> None:
        assert "nan" not in plot("T", [Line("a", [Point(0, 1.0), Point(1, 1.0)])], [], [(0, "0"), (1, "1")], str).svg

    def test_labels_are_escaped(self) -> None:
        drawing = plot(HOSTILE, [Line(HOSTILE, [Point(0, 1.0)])], [], [(0, HOSTILE)], lambda value: HOSTILE)
        assert "<script" not in drawing.svg

    def test_there_is_a_mark_for_every_style(self) -> None:
        assert len(rounds_charts.MARKS) == rounds_charts.STYLES


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, rounds: dict[str, Any]) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("page")
    write_rounds_report(rounds, CONTEXT, folder / "report.html")
    write_rounds_report(hostile(rounds), replace(CONTEXT, name=HOSTILE, recipe=HOSTILE), folder / "hostile.html")
    with Browser(folder / "profile") as browser:
        browser.folder = folder
        yield browser


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium or chrome on the path")
class TestBrowser:
    @pytest.mark.parametrize("width", [390, 760, 1280])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_fits_loads_nothing_and_complains_of_nothing(self, browser: Browser, width: int, scheme: str) -> None:
        browser.shape(width, 900, scheme)
        url = (browser.folder / "report.html").as_uri()
        browser.open(url)
        assert browser.js("document.documentElement.scrollWidth") == width
        assert [one for one in browser.requests if one not in (url, "about:blank")] == []
        assert browser.console == []

    def test_colours_follow_the_reader(self, browser: Browser) -> None:
        seen = []
        for scheme in ("light", "dark"):
            browser.shape(1280, 900, scheme)
            browser.open((browser.folder / "report.html").as_uri())
            seen.append(browser.js("getComputedStyle(document.querySelector('.series.s0')).stroke"))
        assert seen[0] != seen[1]
        assert "none" not in seen

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_nothing(self, browser: Browser, scheme: str) -> None:
        browser.shape(1280, 900, scheme)
        browser.open((browser.folder / "report.html").as_uri())
        browser.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        browser.js(AXE.read_text(encoding="utf-8") + "; 0")
        found = browser.js("axe.run().then((all) => all.violations.map((one) => one.id + ' ' + one.nodes[0].html))")
        assert found == []

    def test_what_is_folded_is_printed(self, browser: Browser) -> None:
        browser.open((browser.folder / "report.html").as_uri())
        height = "document.querySelector('details table').getBoundingClientRect().height"
        browser.send("Emulation.setEmulatedMedia", media="print")
        assert browser.js(height) > 100
        assert browser.js("getComputedStyle(document.querySelector('nav')).display") == "none"
        browser.send("Emulation.setEmulatedMedia", media="")

    def test_hostile_text_does_nothing(self, browser: Browser) -> None:
        browser.open((browser.folder / "hostile.html").as_uri())
        assert browser.js("document.title").startswith("</style><script>")
        assert browser.js("document.querySelectorAll('script, img').length") == 0
        assert browser.console == []
