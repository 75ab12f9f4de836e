"""The page on which a person reads two answers side by side: escaped, cut off from any network, and alive."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from test_report import Outline

from prefloop.evaluation import reading
from prefloop.evaluation.reading import ReadingRow, reading_page

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
SUMMARY = [("Win rate of tuned model", "61.3%"), ("Judge", "length")]
LONG_NAMES = {"name_a": "organisation/a-model-with-a-long-name-7B-Instruct-v0.2", "name_b": "runs/" + "9" * 60}
CATEGORIES = ("sums", "letters", "code")


def row(prompt: str = "Why?", a: str = "short", b: str = "a longer answer", **fields: object) -> ReadingRow:
    base = ReadingRow(
        ({"role": "user", "content": prompt},), a, b, "b", 0.8, False, "sums", {"score": 0.25}, {"score": -1.5}, 2, 3
    )
    return replace(base, **fields)


def example() -> list[ReadingRow]:
    """60 rows in which verdict, category and lengths go round in periods of 5, 3 and 4."""
    rows = []
    for i in range(60):
        verdict, inconsistent = [("a", False), ("b", False), ("tie", False), ("tie", True), ("unscored", False)][i % 5]
        tokens_b = (10, 12, 15, 6)[i % 4]
        text = f"Question {i}?", f"first answer {i}", f"second answer {i} with Größe" if i % 2 else f"second answer {i}"
        fields = {"verdict": verdict, "inconsistent": inconsistent, "category": CATEGORIES[i % 3]}
        probability = {"a": 0.2, "b": 0.9, "tie": 0.5, "unscored": None}[verdict]
        rows.append(row(*text, **fields, probability=probability, tokens_a=10, tokens_b=tokens_b))
    return rows


def written(rows: list[ReadingRow], **names: str) -> str:
    return reading_page(
        rows, **{"name_a": "base model", "name_b": "tuned model", "summary": SUMMARY, "title": "Base, tuned"} | names
    )


def data(page: str) -> dict:
    """What the page's script reads, cut out as a browser would: up to the next end tag."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script', page, re.DOTALL)[1])


class TestPage:
    def test_is_well_formed_and_loads_nothing(self) -> None:
        page = written(example())
        outline = Outline(page)
        for tag, attributes in outline.tags:
            assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "a"}
            assert "src" not in attributes
            assert not [name for name in attributes if name == "style" or name.startswith("on")]
        assert not re.search(r"https?://|url\(|@import", page)
        ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
        assert len(ids) == len(set(ids))

    def test_policy_allows_only_the_page_s_own_style_and_script(self) -> None:
        outline = Outline(written(example()))
        policy = next(m["content"] for m in outline.found("meta") if m.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        for tag, content in (("style", outline.inside("style")[0]), ("script", outline.inside("script")[-1])):
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy

    def test_same_rows_same_bytes(self) -> None:
        assert written(example()) == written(example())

    def test_sides_are_shuffled_by_item_alone(self) -> None:
        """Of 400 fair coins 160..240 fall on one side, but for one in 10,000 sets."""
        rows = [row(f"Question {i}?") for i in range(400)]
        found = data(written(rows))["rows"]
        assert 160 <= sum(item["swapped"] for item in found) <= 240
        alone = data(written(rows[7:8]))["rows"][0]
        assert (alone["id"], alone["swapped"]) == (found[7]["id"], found[7]["swapped"])

    def test_the_same_answers_twice_are_two_items(self) -> None:
        first, second = data(written([row(), row()]))["rows"]
        assert first["id"] != second["id"]

    def test_scores_of_either_side_are_joined_and_what_is_not_finite_is_missing(self) -> None:
        scores = row(scores_a={"z": 1.0, "nan": math.nan}, scores_b={"z": math.inf, "only b": 2.0})
        (item,) = data(written([replace(scores, probability=math.nan)]))["rows"]
        assert item["scores"] == [
            {"name": "z", "a": 1.0, "b": None},
            {"name": "nan", "a": None, "b": None},
            {"name": "only b", "a": None, "b": 2.0},
        ]
        assert item["probability"] is None

    def test_two_models_of_one_name_are_told_apart(self) -> None:
        assert data(written([row()], name_a="m", name_b="m"))["names"] == {"a": "m (a)", "b": "m (b)"}


class TestHostileRows:
    def test_nothing_in_a_row_or_a_name_is_markup(self) -> None:
        bad = row(HOSTILE, HOSTILE, HOSTILE, category=HOSTILE, scores_a={HOSTILE: 1.0})
        page = reading_page(
            [bad], name_a=HOSTILE, name_b='"><b>', summary=[(HOSTILE, HOSTILE)], title=HOSTILE + "\x00\u202e"
        )
        outline = Outline(page)
        assert len(outline.found("script")) == 2
        assert not outline.found("img")
        assert "<script>document" not in page
        assert "\x00" not in page
        assert "\u202e" not in page
        assert data(page)["rows"][0]["b"] == HOSTILE

    @settings(max_examples=60, deadline=None)
    @given(st.text(st.one_of(st.characters(exclude_categories=()), st.sampled_from("<>&/!-\u2028\u202e\ud800\udc00"))))
    def test_any_text_arrives_as_it_is(self, text: str) -> None:
        page = written([row(text, text, text)])
        page.encode("utf-8")
        (item,) = data(page)["rows"]
        joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        assert item["a"] == item["b"] == item["prompt"][0]["content"] == joined


Opened = Callable[..., Browser]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Opened:
    """Opens rows in a state of the page, with no marks from before."""
    chromium.send("Storage.clearDataForOrigin", origin="file://", storageTypes="local_storage")
    chromium.shape(1280, 900)

    def opened(rows: list[ReadingRow], state: str = "", **names: str) -> Browser:
        path = tmp_path / "reading.html"
        path.write_text(written(rows, **names), encoding="utf-8")
        chromium.open(f"{path.as_uri()}{state}")
        assert chromium.console == []
        assert chromium.requests == [f"{path.as_uri()}"]
        return chromium

    return opened


def text(browser: Browser, name: str) -> str:
    """What the reader sees of the element of this id."""
    return browser.js(f"(node => node.checkVisibility() ? node.innerText : '')(document.getElementById({name!r}))")


AFTER = "new Promise(done => { addEventListener('%s', () => setTimeout(done), { once: true, capture: true }); %s })"
"""An action whose event the page has heard once this ends."""


def everything(browser: Browser) -> str:
    return browser.js("document.body.innerText") + browser.js("document.title")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium or chrome on the path")
class TestReading:
    def test_shows_prompt_answers_verdict_and_scores(self, opened: Opened) -> None:
        browser = opened(example(), "#item=2")
        assert text(browser, "prompt") == "Question 1?"
        assert text(browser, "left-name") == "base model"
        assert text(browser, "right-text") == "second answer 1 with Größe"
        assert text(browser, "right-tokens") == "12 tokens"
        assert text(browser, "right-badge") == "✓ the judge's choice"
        assert text(browser, "left-badge") == ""
        assert text(browser, "tags").split("\n") == ["letters", "tuned model wins", "the judge gives tuned model 90%"]
        browser.js("document.getElementById('scores').open = true")
        assert "score\t0.25\t−1.5" in text(browser, "scores")

    def test_conversations_name_who_speaks(self, opened: Opened) -> None:
        turns = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), ("user", "Why?")]
        talk = tuple({"role": role, "content": content} for role, content in turns)
        shown = text(opened([row(prompt="", b="")]), "right-text"), text(opened([row(a=" \n ")]), "left-text")
        assert shown == ("empty", "only white space (3 characters)")
        prompt = text(opened([replace(row(), prompt=talk)]), "prompt")
        assert [line for line in prompt.split("\n") if line] == [part for turn in turns for part in turn]

    def test_keys_move_and_flip(self, opened: Opened) -> None:
        browser = opened(example())
        browser.press("j", "j", "ArrowRight", "k")
        assert (text(browser, "place"), text(browser, "count")) == ("Item 3", "3 of 60")
        assert text(browser, "status").startswith("Item 3, 3 of 60: tie")
        browser.press("f")
        assert (text(browser, "left-name"), text(browser, "left-text")) == ("tuned model", "second answer 2")
        browser.press("k", "ArrowLeft", "k", "k")
        assert text(browser, "place") == "Item 1"
        assert browser.js("location.hash") == "#item=1&flip"

    def test_keys_are_text_while_one_types_and_can_be_turned_off(self, opened: Opened) -> None:
        browser = opened(example())
        browser.press("/", "2", "j")
        assert browser.js("document.activeElement.id + document.getElementById('words').value") == "words2j"
        assert text(browser, "none") == "No item passes these filters."
        browser.press("Escape")
        browser.js("document.getElementById('clear').click(); document.getElementById('words').blur()")
        browser.press("j")
        browser.js("document.getElementById('help').open = true; document.getElementById('keys').click()")
        browser.press("j")
        assert text(browser, "place") == "Item 2"

    FILTERS = (
        ("verdict=a", lambda r: r.verdict == "a"),
        ("verdict=tie", lambda r: r.verdict == "tie" and not r.inconsistent),
        ("verdict=inconsistent", lambda r: r.inconsistent),
        ("verdict=unscored", lambda r: r.verdict == "unscored"),
        ("category=code&verdict=b", lambda r: (r.category, r.verdict) == ("code", "b")),
        ("length=longer", lambda r: r.tokens_b > r.tokens_a),
        ("length=shorter", lambda r: r.tokens_b < r.tokens_a),
        ("length=apart", lambda r: r.tokens_b in (15, 6)),
        ("words=GRÖSSE%20second", lambda r: False),
        ("words=GRÖßE%20second", lambda r: "Größe" in r.b),
        ("words=question%203", lambda r: "3" in r.prompt[0]["content"]),
        ("verdict=nonsense&category=none", lambda r: True),
    )

    def test_filters_let_through_what_they_say(self, opened: Opened) -> None:
        rows = example()
        browser = opened(rows)
        for state, passes in self.FILTERS:
            wanted = [i + 1 for i, found in enumerate(rows) if passes(found)]
            browser.js(AFTER % ("hashchange", f"location.hash = '#{state}'"))
            assert text(browser, "count") == (f"1 of {len(wanted)}" if wanted else "0 of 0"), state
            assert text(browser, "place") == (f"Item {wanted[0]}" if wanted else "")

    def test_a_chosen_filter_keeps_the_item_where_it_passes(self, opened: Opened) -> None:
        browser = opened(example(), "#item=12")
        change = "const v = document.getElementById('verdict'); v.value = 'b'; v.dispatchEvent(new Event('input'))"
        browser.js(f"{{ {change} }}")
        assert (text(browser, "place"), text(browser, "count")) == ("Item 12", "3 of 12")
        assert browser.js("location.hash") == "#item=12&verdict=b"

    def test_nothing_to_read(self, opened: Opened) -> None:
        browser = opened([])
        assert text(browser, "none") == "There is nothing to read: no prompt was answered by both."
        browser.press("j", "k", "f", "b", "1")
        assert browser.console == []

    def test_a_thousand_rows_put_one_item_on_the_page(self, opened: Opened) -> None:
        browser = opened([row(f"Question {i}?", "word " * 300, "word " * 300) for i in range(1000)])
        assert browser.js("document.querySelectorAll('*').length") < 250
        browser.js(AFTER % ("toggle", "document.getElementById('list').open = true"))
        assert browser.js("document.querySelectorAll('#list li').length") == 50
        browser.js("document.getElementById('more').click()")
        assert browser.js("document.querySelectorAll('#list li').length") == 100
        browser.js("document.querySelectorAll('#list li button')[70].click()")
        assert text(browser, "place") == "Item 71"


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium or chrome on the path")
class TestHostileText:
    def test_is_shown_and_does_nothing(self, opened: Opened) -> None:
        bad = row(HOSTILE, HOSTILE, HOSTILE, category=HOSTILE, scores_a={HOSTILE: 1.0})
        browser = opened([bad], title="calm")
        browser.press("b", "1", "b")
        browser.js(AFTER % ("toggle", "document.getElementById('list').open = true"))
        assert text(browser, "left-text") == text(browser, "prompt") == HOSTILE
        assert browser.js("document.title") == "calm"
        assert browser.js("document.querySelectorAll('script, img').length") == 2

    def test_what_hides_or_reorders_is_spelled_out_and_scripts_of_the_world_are_not(self, opened: Opened) -> None:
        family, persian = "👩‍👩‍👧 🏳️‍🌈", "می‌خواهم به خانه بروم"
        browser = opened([row("q", "a\u202eb\x00c\x1b[0m\ud800d\r\nnext\u200b", f"{persian}\n{family}")])
        assert text(browser, "left-text") == "a⟨U+202E⟩b⟨U+0000⟩c⟨U+001B⟩[0m⟨U+D800⟩d\nnext⟨U+200B⟩"
        assert text(browser, "right-text") == f"{persian}\n{family}"
        start = (
            "(() => { const r = document.createRange(), p = document.querySelector('#right-text .prose').firstChild;"
        )
        measure = f"{start} r.setStart(p, 0); r.setEnd(p, 1); return r.getBoundingClientRect().left; }})()"
        middle = "(({left, right}) => (left + right) / 2)(document.getElementById('right').getBoundingClientRect())"
        assert browser.js(measure) > browser.js(middle)  # the first Persian letter stands on the right

    def test_code_and_indentation_keep_their_spaces(self, opened: Opened) -> None:
        code = "SELECT a,\n       b\n\n\tFROM t"
        answer = f"  indented\n    more\n```sql\n{code}\n```\nafter ```not a fence``` here\n~~~\nopen"
        browser = opened([row(a=answer)])
        blocks = browser.js(
            "[...document.querySelectorAll('#left-text .text > *')].map(n => [n.tagName, n.textContent])"
        )
        assert blocks == [
            ["P", "  indented\n    more"],
            ["PRE", code],
            ["P", "after ```not a fence``` here"],
            ["PRE", "open"],
        ]
        spaces = browser.js("[...document.querySelectorAll('.text > *')].map(n => getComputedStyle(n).whiteSpace)")
        assert set(spaces) == {"pre-wrap"}

    @pytest.mark.parametrize("long", ["x" * 100_000, "line\n" * 20_000 + "end!!", "😀" * 50_000])
    def test_long_answers_are_folded(self, opened: Opened, long: str) -> None:
        browser = opened([row(a=long)])
        units = len(long.encode("utf-16-le")) // 2
        button = "document.querySelector('#left-text > button')"
        assert browser.js(f"{button}.textContent") == f"Show all {units:,} characters"
        shown = browser.js("document.querySelector('#left-text .text').textContent")
        assert long.startswith(shown)
        assert 500 < len(shown) <= 5000
        browser.js(f"{button}.click()")
        assert browser.js("document.querySelector('#left-text .text').textContent") == long
        assert browser.js("document.documentElement.scrollWidth") <= 1280
        browser.js(f"{button}.click()")
        assert browser.js("document.querySelector('#left-text .text').textContent") == shown

    def test_the_policy_stops_what_reaches_out(self, opened: Opened) -> None:
        browser = opened([row()])
        stopped = (
            "new Promise(done => { document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective),"
            " {once: true}); %s })"
        )
        assert browser.js(stopped % "fetch('http://127.0.0.1:9/').catch(() => 0)") == "connect-src"
        assert browser.js(stopped % "new Image().src = 'http://127.0.0.1:9/'") == "img-src"
        inline = "document.body.appendChild(document.createElement('script')).textContent = 'document.title = 1'"
        assert browser.js(stopped % inline) == "script-src-elem"


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium or chrome on the path")
class TestBlind:
    def test_nothing_tells_which_is_which(self, opened: Opened) -> None:
        browser = opened(example(), "#item=2&blind&verdict=b&length=longer&marked=disagreed")
        for _ in range(3):
            shown = everything(browser).lower()
            assert not [word for word in ("base", "tuned", "wins", "61.3", "90%", "score (") if word in shown]
            browser.press("j")
        assert text(browser, "count") == "5 of 60"
        assert browser.js("[...document.querySelectorAll('option.open')].every(o => o.disabled)")
        assert browser.js("document.getElementById('scores').hidden")
        assert browser.js("[...document.querySelectorAll('.answer')].map(n => n.dataset.side)") == ["", ""]

    def test_sides_follow_the_shuffle_and_the_flip(self, opened: Opened) -> None:
        rows = example()[:12]
        swapped = [item["swapped"] for item in data(written(rows))["rows"]]
        assert len(set(swapped)) == 2
        browser = opened(rows, "#blind")
        lefts = []
        for _ in rows:
            lefts.append(text(browser, "left-text").startswith("second"))
            browser.press("j")
        assert lefts == swapped
        browser.press("f")
        assert text(browser, "left-text").startswith("second") != swapped[-1]

    def test_a_tie_filter_opens_blind(self, opened: Opened) -> None:
        assert text(opened(example(), "#blind&verdict=tie"), "count") == "1 of 12"

    def mark(self, browser: Browser, rows: list[ReadingRow], choices: dict[int, str]) -> None:
        """Blind, from the first item on: press the key under which the chosen model stands."""
        swapped = [item["swapped"] for item in data(written(rows))["rows"]]
        for i in range(len(rows)):
            if choice := choices.get(i):
                key = "0" if choice == "tie" else "1" if (choice == "b") == swapped[i] else "2"
                browser.press(key)
            browser.press("j")

    def test_marks_are_held_against_the_judge(self, opened: Opened, tmp_path: Path) -> None:
        """Judge by item: a b tie tie unscored, and round. Reader: item 1 a, 2 b, 3 a, 4 tie, 5 b (unscored), 7 a, 8 tie.

        Of the six that the judge scored 1, 2, 4 and 8 agree: 4 of 6. By line (a, tie, b): a 1 1 1, tie 0 2 0, b 0 0 1;
        lines sum to 3, 2, 1, columns to 1, 3, 2; chance = (3·1 + 2·3 + 1·2) / 36 = 11/36, and
        κ = (24/36 - 11/36) / (25/36) = 0.52.
        """
        rows = example()[:10]
        browser = opened(rows, "#blind")
        self.mark(browser, rows, {0: "a", 1: "b", 2: "a", 3: "tie", 4: "b", 6: "a", 7: "tie"})
        assert text(browser, "agreement") == ""
        browser.press("b")
        assert text(browser, "agreed") == (
            "The judge agreed with you on 4 of 6 items: 67% (95% interval 30% to 90%, Cohen's κ\u00a00.52)."
        )
        cells = "[...document.querySelectorAll('#table tbody tr')].map(tr => [...tr.cells].map(td => td.textContent))"
        assert browser.js(cells) == [
            ["base model", "1", "1", "1"],
            ["tie", "0", "2", "0"],
            ["tuned model", "0", "0", "1"],
        ]
        swapped = [item["swapped"] for item in data(written(rows))["rows"]]
        left = sum((choice == "b") == swapped[i] for i, choice in {0: "a", 1: "b", 2: "a", 4: "b", 6: "a"}.items())
        assert text(browser, "apart") == (
            f"7 of 10 items marked. You chose the left answer in {left} of 5. 1 left out: the judge could not score them."
        )
        lines = self.downloaded(browser, tmp_path)
        assert [(line["item"], line["reader"], line["judge"], line["agreed"]) for line in lines] == [
            (1, "a", "a", True),
            (2, "b", "b", True),
            (3, "a", "tie", False),
            (4, "tie", "tie", True),
            (5, "b", "unscored", None),
            (7, "a", "b", False),
            (8, "tie", "tie", True),
        ]
        assert lines[0]["prompt"] == [{"role": "user", "content": "Question 0?"}]
        assert (lines[0]["a"], lines[0]["b"]) == ("base model", "tuned model")

    @staticmethod
    def downloaded(browser: Browser, folder: Path) -> list[dict]:
        caught = (
            "new Promise(done => { const made = URL.createObjectURL; URL.createObjectURL = (blob) => {"
            " blob.text().then(done); return made.call(URL, blob); }; document.getElementById('download').click(); })"
        )
        browser.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        return [json.loads(line) for line in browser.js(caught).splitlines()]

    def test_marks_stay_over_a_reload_and_can_be_taken_back(self, opened: Opened) -> None:
        rows = example()
        browser = opened(rows, "#blind")
        browser.press("1", "j", "2", "2", "j", "0")
        opened(rows, "#blind&marked=yes")
        assert text(browser, "count") == "1 of 2"
        assert text(browser, "left-badge") == "✓ your choice"
        assert browser.js("document.querySelector('[data-mark=left]').ariaPressed") == "true"
        assert browser.js("marks.size") == 2
        browser.js("globalThis.confirm = () => true; document.getElementById('forget').click()")
        assert browser.js("marks.size") == 0

    def test_a_mark_made_after_its_verdict_was_seen_does_not_count(self, opened: Opened) -> None:
        browser = opened(example(), "#item=1")
        browser.press("j", "b", "1", "j", "1", "b")
        assert "1 left out: you had seen the verdict before you marked them." in text(browser, "apart")
        browser.press("b", "2", "b")  # changed after the verdict had been shown
        assert text(browser, "agreed") == "None of your marks can be held against the judge yet."

    def test_marking_works_where_the_browser_keeps_nothing(self, opened: Opened) -> None:
        browser = opened(example())
        block = "Object.defineProperty(globalThis, 'localStorage', { get() { throw new DOMException('no'); } })"
        script = browser.send("Page.addScriptToEvaluateOnNewDocument", source=block)["identifier"]
        try:
            opened(example(), "#blind")
            browser.press("1")
            assert "This browser keeps nothing" in text(browser, "kept")
            assert text(browser, "left-badge") == "✓ your choice"
        finally:
            browser.send("Page.removeScriptToEvaluateOnNewDocument", identifier=script)

    def test_what_is_kept_but_cannot_be_read_is_left(self, opened: Opened) -> None:
        browser = opened(example(), "#blind")
        for junk in ("{", '{"marks": 3}', '{"marks": [["x", {"choice": "a"}]], "seen": ["y"]}'):
            browser.js(f"localStorage.setItem(KEPT, {json.dumps(junk)})")
            opened(example(), "#blind")
            assert browser.js("marks.size + seen.size") == 0

    def test_intervals_are_wilson_s(self, opened: Opened) -> None:
        browser = opened([row()])
        for same, n in ((0, 1), (1, 1), (3, 12), (150, 200)):
            found = browser.js(f"agreementFigures({n}, [[{same}, {n - same}, 0], [0, 0, 0], [0, 0, 0]])")
            interval = binomtest(same, n).proportion_ci(method="wilson")
            assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high), abs=1e-7)
        assert browser.js("agreementFigures(4, [[4, 0, 0], [0, 0, 0], [0, 0, 0]]).kappa") is None


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium or chrome on the path")
class TestLayout:
    @staticmethod
    def box(browser: Browser, name: str) -> dict[str, float]:
        return browser.js(f"document.getElementById({name!r}).getBoundingClientRect().toJSON()")

    @pytest.mark.parametrize("state", ["", "#blind"])
    @pytest.mark.parametrize("width", [320, 390, 1280])
    def test_answers_stand_side_by_side_or_stacked_and_nothing_overflows(
        self, opened: Opened, width: int, state: str
    ) -> None:
        browser = opened([row(a="word " * 80, b="w" * 900)] * 3, state, **LONG_NAMES)
        browser.shape(width, 800)
        left, right = self.box(browser, "left"), self.box(browser, "right")
        assert (left["top"] == right["top"]) if width > 760 else (left["bottom"] <= right["top"])
        assert browser.js("document.documentElement.scrollWidth") <= width
        widest = "Math.max(...[...document.querySelectorAll('main *')].filter(n => n.offsetParent && !n.closest('.scroll')).map(n => n.getBoundingClientRect().right))"
        assert browser.js(widest) <= width

    def test_light_and_dark(self, opened: Opened) -> None:
        colour = "getComputedStyle(document.body).backgroundColor"
        browser = opened([row()])
        light = browser.js(colour)
        browser.shape(1280, 900, "dark")
        assert browser.js(colour) != light

    @pytest.mark.parametrize("state", ["", "#blind"])
    def test_every_control_has_a_name_and_shows_its_focus(self, opened: Opened, state: str) -> None:
        browser = opened(example(), state)
        nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
        roles = {"button", "combobox", "searchbox", "checkbox", "article"}
        found = [n for n in nodes if not n["ignored"] and n["role"]["value"] in roles]
        nameless = [n["role"]["value"] for n in found if not n.get("name", {}).get("value")]
        assert nameless == []
        assert {"article", "button", "combobox", "searchbox"} <= {n["role"]["value"] for n in found}
        for _ in range(8):
            browser.press("Tab")
            style = "(s => [s.outlineStyle, s.outlineWidth])(getComputedStyle(document.activeElement))"
            assert browser.js(style) == ["solid", "3px"]


def test_of_more_rows_than_a_page_holds_a_part_is_drawn_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(f"Question {i}?", category="ab"[i % 2]) for i in range(200)]
    options = {"name_a": "x", "name_b": "y", "summary": [("judge", "j")], "title": "t"}
    assert "shown on this page" not in reading_page(rows, **options)
    monkeypatch.setattr(reading, "MOST_BYTES", 10_000)
    page = reading_page(rows, **options)
    shown = re.search(r"(\d+) of 200, drawn by chance", page)
    assert 10 < int(shown[1]) < 100
    asked = [int(number) for number in re.findall(r"Question (\d+)\?", page)]
    assert len(asked) == int(shown[1])
    assert asked == sorted(asked) != list(range(len(asked)))
    assert page == reading_page(rows, **options)
