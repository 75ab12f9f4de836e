"""The report page: whole, self-contained, escaped, and alive in a real browser."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM as BROWSER
from browser import Browser

from prefloop.evaluation import charts, svg
from prefloop.evaluation.answers import Answers
from prefloop.evaluation.compare import evaluate
from prefloop.evaluation.metrics import HeldOutPair
from prefloop.evaluation.report import ReportContext, ShownAnswer, ShownQuestion, claim, render, write_report
from prefloop.evaluation.tables import shown_prompts
from prefloop.loop import reporting
from prefloop.loop.reporting import LISTED, LISTED_CHARACTERS
from prefloop.maths.statistics import seed_summary
from prefloop.records import Completion, Judgement, Prompt

SAMPLES = 4
FAMILIES = {
    "B": "games",
    "C": "records",
    "D": "player season",
    "E": "leaders",
    "F": "thresholds",
    "G": "single game",
    "H": "last n games",
    "J": "team ratings",
    "N": "unanswerable",
}
STATISTICS = {"points": "score", "assists": "dish out", "rebounds_total": "grab", "steals": "take"}
HOSTILE = "<script>document.title='owned'</script>"
Whole = tuple[dict[str, Any], ReportContext]


def example_prompts() -> list[Prompt]:
    prompts = []
    for i in range(216):
        statistic, word = list(STATISTICS.items())[i % len(STATISTICS)]
        text = f"How many {statistic.split('_')[0]} did Ilvo Maräc {word} per game in the 20{10 + i % 13} season ({i})?"
        meta = {
            "question": text,
            "template": f"t{i // 3}",
            "family": list(FAMILIES)[i % len(FAMILIES)],
            "register": ("question", "terse")[i % 2],
            "seen": i % 5 < 2,
            "trap": ("season label", "did-not-play rows", None)[i % 3],
            "gold_sql": sql(statistic, 2010 + i % 13),
        }
        prompts.append(Prompt.create(({"role": "user", "content": text},), "nba-sql", "test", meta))
    return prompts


def sql(statistic: str, season: int, played: bool = True) -> str:
    rest = " AND b.did_not_play = 0" if played else ""
    return (
        f"SELECT AVG(b.{statistic}) FROM player_box_scores b JOIN games g USING (game_id) "
        f"WHERE b.player_name = 'Ilvo Maräc' AND g.season = {season}{rest}"
    )


def example_answer(
    prompt: Prompt, side: str, index: int, right: bool, rng: random.Random
) -> tuple[Completion, Judgement]:
    season = int(re.search(r"20\d\d", prompt.meta["question"])[0]) + (0 if right else 1)
    query = sql("points", season, right)
    status = "ok" if right or rng.random() < 0.9 else "unknown_column"
    text = f"Plan: average points from player_box_scores; season {season}.\n```sql\n{query}\n```"
    tokens = tuple(rng.randrange(900) for _ in range(60 + rng.randrange(30) + (0 if right else 6)))
    identity = Completion.make_id(prompt.id, side, {}, 1, 0, index)
    completion = Completion(identity, prompt.id, index, 0, text, tokens, (), "stop", side, {}, 1)
    rows = [[round(rng.uniform(8, 31), 6)]] if status == "ok" else [["no such column: b.pts"]]
    raw = {"sql": query, "status": status, "rows": rows, "digest": f"{right}{rng.randrange(3)}"}
    objectives = {
        "correct": float(right),
        "valid": float(status == "ok"),
        "reasoning": rng.choice([1.0, 1.0, 0.75]),
        "verbosity": 1.0,
    }
    value = (objectives["correct"] + 0.2) / 1.2
    return completion, Judgement.create(prompt.id, (identity,), "execution", "score", value, objectives, raw=raw)


def example_side(prompts: list[Prompt], side: str) -> Answers:
    rng = random.Random(side)
    strength = {"before": 0.42, "after": 0.71}[side]
    families = {family: rng.uniform(-0.15, 0.15) for family in FAMILIES}

    def draw(prompt: Prompt, index: int) -> tuple[Completion, Judgement]:
        chance = strength + families[prompt.meta["family"]]
        return example_answer(prompt, side, index, rng.random() < chance, rng)

    greedy = [draw(prompt, -1) for prompt in prompts]
    sampled = [draw(prompt, index) for prompt in prompts[:60] for index in range(SAMPLES)]
    return Answers(*zip(*greedy, strict=True), *zip(*sampled, strict=True))


def shown(prompt: Prompt, sides: dict[str, Answers], place: int) -> ShownQuestion:
    answers = []
    for side in ("before", "after"):
        completion, judgement = sides[side].greedy[place], sides[side].greedy_judgements[place]
        right = judgement.objectives["correct"] == 1
        raw = judgement.raw
        answers.append(ShownAnswer(completion.text, raw["sql"], right, raw["status"], raw["rows"]))
    meta = prompt.meta
    return ShownQuestion(meta["question"], meta["template"], meta["gold_sql"], answers[0], answers[1], meta["family"])


def example() -> Whole:
    """A whole evaluation and its context, made of seeded chance."""
    rng = random.Random(7)
    prompts = example_prompts()
    sides = {side: example_side(prompts, side) for side in ("before", "after")}
    held_out = [HeldOutPair(p.meta["template"], rng.gauss(4, 5), rng.gauss(-0.5, 2)) for p in prompts]
    evaluation = evaluate(prompts, sides["before"], sides["after"], held_out, seed=1, draws=500, beta=0.1)
    names = ("execution_accuracy", "execution_accuracy_unseen", "valid_sql", "verbosity")
    evaluation["seeds"] = [{"seed": seed, **{name: evaluation[name] for name in names}} for seed in (1, 2, 3)]
    changes = ("gain", "gain", "difference", "length_ratio")
    evaluation["over_seeds"] = {
        name: seed_summary([row[name][change] for row in evaluation["seeds"]])
        for name, change in zip(names, changes, strict=True)
    }
    lead = {"estimate": 0.12, "ci_low": 0.06, "ci_high": 0.18}
    evaluation["baselines"] = {
        name: {"accuracy": value, "gain": value - 0.42, "ci_low": 0.02, "ci_high": 0.2, "tuned_lead": lead}
        for name, value in (("sft_on_chosen", 0.55), ("best_of_k", 0.49), ("majority_vote", 0.53))
    }
    questions = [shown(prompt, sides, place) for place, prompt in enumerate(prompts)]
    place = {prompt.id: i for i, prompt in enumerate(prompts)}
    history = [
        {
            "step": step,
            "loss": 0.69 * 0.985**step + rng.gauss(0, 0.03),
            "rewards/margins": 0.02 * step + rng.gauss(0, 0.1),
            "rewards/accuracies": min(1, 0.5 + 0.006 * step + rng.gauss(0, 0.05)),
        }
        for step in range(80)
    ]
    context = ReportContext(
        name="nba-sql",
        shown=[questions[place[p.id]] for p in shown_prompts(prompts, 10, 1)],
        fixed=[q for q in questions if q.after.right and not q.before.right],
        broken=[q for q in questions if q.before.right and not q.after.right],
        margins=[pair.margin for pair in held_out],
        lengths={side: [len(c.token_ids) for c in sides[side].greedy] for side in sides},
        drops={
            "prompts": 640,
            "kept pairs": 614,
            "answer repeated": 1893,
            "pair too similar": 12,
            "prompt with tied answers": 171,
        },
        diagnostics={"pairs": 614, "chosen_longer": 0.4812, "token_ratio": 0.9876, "margin_mean": None},
        history=history,
        families=FAMILIES,
        command="prefloop run recipe.yaml --seeds 3 --baselines",
        recipe="name: nba-sql\nseed: 1\ntraining:\n  objective: dpo\n  beta: 0.1\n",
        versions={"threads": "2", "prefloop": "0.1.0", "python": "3.11.9", "torch": "2.11.0"},
        lineage={"initial": "4be1f0f1cbd3c1e1", "tuned": "9a2c7fd0e4a5b6c7"},
        hashes={"prompts.parquet": hashlib.sha256(b"prompts").hexdigest()},
        audit={"test": {"accepted": 216, "gold is empty": 31}},
    )
    return evaluation, context


@pytest.fixture(scope="module")
def whole() -> Whole:
    return example()


@pytest.fixture(scope="module")
def page(whole: Whole) -> str:
    return render(*whole)


VOID = {"meta", "link", "br", "input", "img", "hr"}


class Outline(HTMLParser):
    """What a page holds; fails where tags are not properly nested."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def found(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def inside(self, tag: str) -> list[str]:
        return [data for name, data in self.texts if name == tag]


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


class TestPage:
    def test_is_well_formed_with_every_section(self, outline: Outline) -> None:
        sections = [attributes["id"] for attributes in outline.found("section")]
        assert sections == [
            "figures",
            "methods",
            "seeds",
            "families",
            "answers",
            "preferences",
            "side-by-side",
            "changed",
            "reproduce",
        ]
        links = {attributes["href"] for attributes in outline.found("a")}
        assert links == {f"#{section}" for section in sections}
        ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        assert len(outline.found("h1")) == 1
        assert outline.found("html")[0]["lang"] == "en"

    def test_claim_stands_first(self, outline: Outline, whole: Whole) -> None:
        row = whole[0]["execution_accuracy"]
        assert outline.inside("h1") == [claim(whole[0])]
        assert f"rose from {row['before']:.1%} to {row['after']:.1%}" in claim(whole[0])
        assert f"{100 * row['ci_low']:+.1f} to {100 * row['ci_high']:+.1f}" in claim(whole[0])

    def test_shows_ten_questions_and_every_change(self, outline: Outline, whole: Whole) -> None:
        mcnemar = whole[0]["execution_accuracy"]["mcnemar"]
        assert len(outline.found("article")) == 10
        assert len(outline.found("details")) == 10 + mcnemar["fixed"] + mcnemar["broken"] + 1
        badges = outline.inside("span")
        assert badges.count("✓ correct") >= mcnemar["fixed"] + mcnemar["broken"]

    def test_loads_nothing(self, outline: Outline, page: str) -> None:
        for tag, attributes in outline.tags:
            assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
            assert "src" not in attributes
            assert not [name for name in attributes if name == "style" or name.startswith("on")]
            assert attributes.get("href", "#").startswith("#")
        styles = "".join(outline.inside("style"))
        assert "url(" not in styles
        assert "@import" not in styles
        assert not re.search(r"https?://", page)

    def test_policy_allows_only_the_page_s_own_style_and_script(self, outline: Outline) -> None:
        policy = next(m["content"] for m in outline.found("meta") if m.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        for tag in ("style", "script"):
            (content,) = outline.inside(tag)
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy

    def test_figures_and_headings_are_accessible(self, outline: Outline) -> None:
        drawings = [a for a in outline.found("svg") if a.get("role") == "img"]
        assert len(drawings) == len(outline.found("figure")) == len(outline.found("figcaption")) == 6
        ids = {attributes.get("id") for _, attributes in outline.tags}
        for drawing in drawings:
            assert set(drawing["aria-labelledby"].split()) <= ids
        assert all(heading["scope"] in {"row", "col"} for heading in outline.found("th"))
        levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h[1-6]", tag)]
        assert all(after - before <= 1 for before, after in pairwise(levels))

    def test_knows_dark_print_and_small_screens(self, outline: Outline) -> None:
        style = "".join(outline.inside("style"))
        for feature in ("prefers-color-scheme: dark", "@media print", "max-width: 600px"):
            assert feature in style

    def test_says_how_to_reproduce(self, outline: Outline) -> None:
        pre = outline.inside("pre")
        assert "prefloop run recipe.yaml --seeds 3 --baselines" in pre
        assert any("objective: dpo" in text for text in pre)
        for text in ("9a2c7fd0e4a5b6c7", "2.11.0", hashlib.sha256(b"prompts").hexdigest()):
            assert text in outline.inside("code")

    def test_counts_what_was_dropped(self, outline: Outline) -> None:
        texts = outline.inside("text")
        assert texts[texts.index("answer repeated") + 1] == "1,893"
        order = ["kept pairs", "prompts", "answer repeated", "prompt with tied answers", "pair too similar"]
        assert [text for text in texts if text in order] == ["prompts", "kept pairs", *order[2:]]
        assert "gold is empty" in outline.inside("th")

    def test_same_figures_same_bytes(self, page: str, whole: Whole, tmp_path: Path) -> None:
        path = write_report(*whole, tmp_path / "new" / "report.html")
        assert path.read_text(encoding="utf-8") == page == render(*example())


def hostile(context: ReportContext) -> ReportContext:
    """The same context with an attack in everything that a model or a user may have written."""
    answer = ShownAnswer(
        f"Plan: {HOSTILE}\u202e.\n```sql\nSELECT 1\n```\nand so on {HOSTILE}",
        f"SELECT '{HOSTILE}' -- </pre>{HOSTILE}\x00",
        False,
        "ok",
        [[HOSTILE, None, 1.5], ['"><b onload=1>', "&amp;", "x" * 5000]],
        (HOSTILE, "b", "c"),
    )
    error = replace(answer, status="no_such_column", rows=[[f"no such column: {HOSTILE}"]], right=None)
    question = ShownQuestion(HOSTILE, HOSTILE, HOSTILE, answer, error, f'"{HOSTILE}')
    return replace(
        context,
        name=HOSTILE,
        shown=[question],
        fixed=[question],
        broken=[question],
        drops={HOSTILE: 3},
        diagnostics={HOSTILE: 0.5},
        command=HOSTILE,
        recipe=HOSTILE,
        lineage={HOSTILE: HOSTILE},
    )


class TestHostileAnswers:
    def test_nothing_written_by_a_model_is_markup(self, whole: Whole) -> None:
        evaluation, context = whole
        page = render(evaluation, hostile(context))
        outline = Outline(page)
        assert len(outline.found("script")) == 1
        assert not outline.found("b") or all(not attributes for attributes in outline.found("b"))
        assert HOSTILE not in page
        assert "&lt;script&gt;document.title=&#39;owned&#39;&lt;/script&gt;" in page

    def test_what_hides_or_reorders_is_spelled_out(self, whole: Whole) -> None:
        page = render(whole[0], hostile(whole[1]))
        assert "\u202e" not in page
        assert "⟨U+202E⟩" in page
        assert "\x00" not in page
        assert "⟨U+0000⟩" in page

    def test_the_whole_answer_is_shown(self, whole: Whole) -> None:
        texts = Outline(render(whole[0], hostile(whole[1]))).texts
        assert any(tag == "p" and data.startswith("and so on") for tag, data in texts)
        cells = [data for tag, data in texts if tag == "td"]
        assert {"NULL", "1.5", HOSTILE, "&amp;"} <= set(cells)
        assert "x" * 199 + "…" in cells
        assert any(tag == "p" and data.startswith("no such column") for tag, data in texts)
        assert "? unscored" in [data for tag, data in texts if tag == "span"]


@pytest.fixture(scope="module")
def largest(whole: Whole) -> Whole:
    changed = [*whole[1].fixed, *whole[1].broken]
    each = LISTED_CHARACTERS // LISTED
    long = [
        replace(
            q,
            gold_sql="1," * (each // 6),
            before=padded(q.before, each // 3),
            after=padded(q.after, each // 3),
        )
        for q in changed
    ]
    listed = (long * LISTED)[:LISTED]
    return whole[0], replace(whole[1], fixed=listed, broken=listed, changed={"fixed": 20_123, "broken": 10_456})


class TestManyQuestions:
    """What 100,000 prompts come down to: as many changed questions and as much text as a page may hold."""

    def test_the_page_stays_below_20_mb_and_says_what_it_leaves_out(self, largest: Whole) -> None:
        page = render(*largest)
        assert 3_000_000 < len(page.encode()) < 20_000_000
        outline = Outline(page)
        assert len([a for a in outline.found("details") if a.get("class") == "found"]) == 2 * LISTED
        assert "Broken (500 of 10,456)" in outline.inside("h3")
        assert any(
            "10,456 questions were broken and 20,123 fixed. Listed are 500" in text for text in outline.inside("p")
        )

    @pytest.mark.browser
    @pytest.mark.skipif(BROWSER is None, reason="needs a chromium or chrome on the path")
    def test_it_opens(self, largest: Whole, tmp_path: Path) -> None:
        with Browser(tmp_path / "profile") as browser:
            browser.open(write_report(*largest, tmp_path / "report.html").as_uri())
            assert browser.js("document.getElementById('count').textContent") == "1000 of 1000 questions"

    def test_a_draw_is_by_seed_in_order_and_within_the_text(self, whole: Whole) -> None:
        prompts = example_prompts()
        assert reporting._drawn(prompts, 1) == prompts
        many = [Prompt.create(({"role": "user", "content": str(i)},), "t", "test") for i in range(3 * LISTED)]
        drawn = reporting._drawn(many, 1)
        assert len(drawn) == LISTED
        assert drawn == sorted(drawn, key=many.index) == reporting._drawn(many, 1) != reporting._drawn(many, 2)
        questions = [replace(q, before=padded(q.before, LISTED_CHARACTERS // 3 - 2_000)) for q in whole[1].fixed[:6]]
        assert reporting._within(questions) == questions[:3]


def padded(answer: ShownAnswer, size: int) -> ShownAnswer:
    return replace(
        answer,
        text="Plan: x.\n```sql\n" + "1," * (size // 2) + "\n```",
        sql="1," * (size // 2),
    )


class TestPartialEvaluations:
    def test_one_seed_no_baselines_nothing_sampled_no_training_yet(self, whole: Whole) -> None:
        evaluation, context = whole
        bare = {k: v for k, v in evaluation.items() if k not in ("seeds", "over_seeds", "baselines")}
        bare |= {"sampled_accuracy": {"n": 0, "k": 0}, "pass_at_k": {"n": 0, "k": 0}}
        bare |= {"preference_accuracy": {"n": 0}, "execution_accuracy_unseen": {"n": 0}}
        bare["power"] = {**bare["power"], "warning": "Too few questions.", "minimum_detectable_gain": None}
        del bare["majority_vote"]
        empty = replace(context, margins=[], history=[], drops={}, shown=[], fixed=[], broken=[], audit={}, hashes={})
        outline = Outline(render(bare, empty))
        sections = [attributes["id"] for attributes in outline.found("section")]
        assert "methods" not in sections
        assert "seeds" not in sections
        assert outline.inside("text").count("no data") == 3
        assert any("Too few questions." in data for _, data in outline.texts)

    def test_claims_follow_the_interval(self, whole: Whole) -> None:
        def said(low: float | None, high: float | None, gain: float) -> str:
            row = {**whole[0]["execution_accuracy"], "ci_low": low, "ci_high": high, "gain": gain}
            return claim({"execution_accuracy": row})

        assert " rose from " in said(0.01, 0.2, 0.1)
        assert " fell from " in said(-0.2, -0.01, -0.1)
        assert " did not change beyond chance, from " in said(-0.01, 0.2, 0.1)
        assert "(−10.0 points, 95% interval −20.0 to −1.0)" in said(-0.2, -0.01, -0.1)
        assert "no interval" in said(None, None, 0.1)


def attributes(drawing: str, tag: str) -> list[dict[str, str]]:
    return [dict(re.findall(r'([\w-]+)="([^"]*)"', found)) for found in re.findall(rf"<{tag} [^>]*>", drawing)]


class TestCharts:
    def test_positions_are_shares_of_the_width_inside_the_edges(self) -> None:
        """2% free on each side: 0 lies at 2%, ½ at 50%, 1 at 98%."""
        row = charts.Change("E", 0.5, 1.0, (0.0, 0.5), None, 7)
        drawing = charts.lanes("Families", [row])
        assert [(m["cx"], m["class"]) for m in attributes(drawing, "circle")] == [
            ("50.00%", "mark before"),
            ("98.00%", "mark after"),
        ]
        (whisker,) = [line for line in attributes(drawing, "line") if "whisker" in line["class"]]
        assert (whisker["x1"], whisker["x2"]) == ("2.00%", "50.00%")
        assert "50% → 100% (n = 7)" in drawing

    def test_forest_of_changes_that_are_all_zero_has_an_axis(self) -> None:
        drawing = charts.forest("Gain", [charts.Effect("all", 0.0, 0.0, 0.0)])
        assert "all" in drawing
        assert "nan" not in drawing

    def test_forest_scale_holds_zero_and_all_intervals(self) -> None:
        """From +5 to +15 points the scale is 0 to 15 by 5: estimate +10 at ⅔, so 2 + 96 · ⅔ = 66%."""
        drawing = charts.forest("Gain", [charts.Effect("all", 0.10, 0.05, 0.15)])
        assert attributes(drawing, "circle")[0]["cx"] == "66.00%"
        (whisker,) = [line for line in attributes(drawing, "line") if "whisker" in line["class"]]
        assert (whisker["x1"], whisker["x2"]) == ("34.00%", "98.00%")

    def test_margins_split_at_zero(self) -> None:
        """−3, −1, 0, 1, 2: two below, two above; a column is red-outlined exactly where it lies below 0."""
        drawing = charts.margins("Margins", [-3.0, -1.0, 0.0, 1.0, 2.0])
        assert "◀ ranked wrong: 40%" in drawing
        assert "ranked right: 40% ▶" in drawing
        columns = attributes(drawing, "rect")
        assert [c["class"] for c in columns] == ["bar wrong"] * 2 + ["bar after"] * 3
        (zero,) = [line for line in attributes(drawing, "line") if line["class"] == "axis"]
        middle = float(zero["x1"].rstrip("%"))
        for column in columns:
            left = float(column["x"].rstrip("%"))
            assert (left < middle) == (column["class"] == "bar wrong")

    def test_lengths_share_one_scale(self) -> None:
        """Twice as many answers of one length: the column is twice as tall."""
        drawing = charts.lengths("Length", [10, 10, 12], [11])
        heights = [float(c["height"]) for c in attributes(drawing, "rect")]
        assert heights == [charts.TALLEST, charts.TALLEST / 2, charts.TALLEST / 2]
        assert "before: median 10" in drawing
        assert "after: median 11" in drawing

    def test_bars_are_proportional(self) -> None:
        drawing = charts.bars("Lost", [charts.Bar("kept", 200, True), charts.Bar("tie", 50)])
        assert [(r["width"], r["class"]) for r in attributes(drawing, "rect")] == [
            ("100.00%", "bar after"),
            ("25.00%", "bar lost"),
        ]

    def test_curves_fill_their_own_panel(self) -> None:
        drawing = charts.curves("Training", {"Loss": [2.0, 1.0, 0.0], "One step": [1.0]})
        lines = attributes(drawing, "polyline")
        assert [line["points"] for line in lines] == ["0.00,0.00 50.00,50.00 100.00,100.00"] * 2
        assert "One step" not in drawing

    def test_moving_average_is_clipped_at_the_ends(self) -> None:
        """40 steps reach 2 to each side: the first is the mean of 0, 1, 2, the last that of 37, 38, 39."""
        smooth = svg.moving_average(list(range(40)))
        assert (smooth[0], smooth[1], smooth[20], smooth[39]) == (1, 1.5, 20, 38)

    def test_labels_are_escaped(self) -> None:
        drawing = charts.bars(HOSTILE, [charts.Bar(HOSTILE, 1)])
        assert "<script" not in drawing

    @pytest.mark.parametrize("draw", [charts.lanes, charts.forest, charts.margins, charts.bars])
    def test_no_data(self, draw: Any) -> None:
        assert "no data" in draw("Empty", [])

    def test_bins_hold_every_value_once(self) -> None:
        rng = random.Random(4)
        for _ in range(50):
            values = [rng.gauss(0, 10 ** rng.uniform(-3, 3)) for _ in range(rng.randrange(1, 200))]
            edges = svg.bin_edges(values, 40)
            assert edges[0] <= min(values)
            assert edges[-1] > max(values)
            assert sum(svg.bin_counts(values, edges)) == len(values)


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium or chrome on the path")
class TestBrowser:
    """The page as a real browser leaves it once its script has run."""

    @staticmethod
    def document(path: Path, query: str, profile: Path) -> Outline:
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
            "--disable-background-networking --disable-component-update --disable-dev-shm-usage --dump-dom"
        )
        command = [CHROMIUM, *flags.split(), f"--user-data-dir={profile}", f"{path.as_uri()}{query}"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return Outline(found.stdout)

    @staticmethod
    def visible(outline: Outline) -> list[dict[str, str | None]]:
        return [item for item in outline.found("details") if item.get("class") == "found" and "hidden" not in item]

    def test_script_runs_and_the_page_is_whole(self, whole: Whole, tmp_path: Path) -> None:
        outline = self.document(write_report(*whole, tmp_path / "r.html"), "", tmp_path / "profile")
        mcnemar = whole[0]["execution_accuracy"]["mcnemar"]
        changed = mcnemar["fixed"] + mcnemar["broken"]
        assert len(self.visible(outline)) == changed
        assert f"{changed} of {changed} questions" in outline.inside("output")
        (bar,) = [attributes for attributes in outline.found("div") if attributes.get("id") == "filter"]
        assert "hidden" not in bar
        assert len(outline.found("svg")) > 6
        assert outline.inside("title")[0] == "nba-sql: before and after preference tuning"

    def test_filter_by_words_and_family(self, whole: Whole, tmp_path: Path) -> None:
        context = whole[1]
        wanted = [q for q in [*context.broken, *context.fixed] if "rebounds" in q.question and q.family == "D"]
        assert wanted
        path = write_report(*whole, tmp_path / "r.html")
        outline = self.document(path, "?words=GRAB%20rebounds&family=D", tmp_path / "profile")
        shown = self.visible(outline)
        assert len(shown) == len(wanted)
        assert {item["data-family"] for item in shown} == {"D"}
        total = len(context.broken) + len(context.fixed)
        assert f"{len(wanted)} of {total} questions" in outline.inside("output")

    def test_hostile_answers_do_nothing(self, whole: Whole, tmp_path: Path) -> None:
        context = replace(hostile(whole[1]), name="hostile")
        outline = self.document(
            write_report(whole[0], context, tmp_path / "r.html"), "?words=%3Cscript%3E", tmp_path / "profile"
        )
        assert outline.inside("title")[0].startswith("hostile")
        assert len(outline.found("script")) == 1
        assert len(self.visible(outline)) == 2
