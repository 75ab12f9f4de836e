"""Hostile text on the annotation pages: seen by two independent HTML parsers, one of them a real browser."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from hypothesis import given, settings
from hypothesis import strategies as st
from pygments.token import STANDARD_TYPES

from prefloop.annotation import rendering
from prefloop.annotation.rendering import (
    DEEPEST,
    LONGEST,
    LONGEST_CODE,
    LONGEST_PLAIN,
    SANITISER,
    is_statement,
    messages_html,
    reveals,
    spelled_out,
    stylesheet,
    to_html,
)
from prefloop.annotation.results import result_table
from prefloop.errors import ConfigError

CORPUS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "xss.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
TAGS = set(
    "p h1 h2 h3 h4 h5 h6 ul ol li blockquote pre code span table thead tbody tr th td em strong s hr br a div details"
    " summary".split()
)
ATTRIBUTES = {"dir", "class", "href", "rel", "start", "scope"}
OWN_CLASSES = set(
    "code plain note reasoning control null number result error count left center right message role system user"
    " assistant tool".split()
)
VISIBLE_FORMATS = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd]")
"""Format characters that have a glyph (Unicode's Prepended_Concatenation_Mark)."""
JOINERS = set("\u200c\u200d\u200e\u200f")
HOSTILE = st.text(
    st.one_of(
        st.characters(exclude_categories=()),
        st.sampled_from("<>&\"'`~*_[]()!|#-+:\\/= \n\t\r\0{};^.0aA\u202e\u200b\ufdd0\ufdd1\ud800\udc00"),
    ),
    max_size=300,
)


class Outline(HTMLParser):
    """Elements with their attributes, and the text, as Python's own parser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.others = "", []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def safe(page: str) -> Outline:
    """The outline of a fragment, after a look at everything in it."""
    page.encode("utf-8")
    found = Outline(page)
    assert not found.others
    for tag, attributes in found.elements:
        assert tag in TAGS, tag
        assert attributes.keys() <= ATTRIBUTES, (tag, attributes)
        classes = set((attributes.get("class") or "").split())
        assert classes <= OWN_CLASSES | set(STANDARD_TYPES.values()), classes
        assert attributes.get("dir", "auto") in {"auto", "ltr"}
        if tag == "a":
            assert attributes["rel"] == "noopener noreferrer nofollow"
            assert re.match("(https?|mailto):", attributes.get("href") or "mailto:")
        else:
            assert "href" not in attributes
    assert not hidden(found.text)
    return found


def hidden(text: str) -> list[str]:
    """Characters that act unseen, by the Unicode database."""
    return [
        character
        for character in text
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
        and character not in {"\n", "\t", *JOINERS}
        and not VISIBLE_FORMATS.match(character)
    ]


def whole(text: str) -> str:
    """Text that a browser can receive: without lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8")


def test_docstring_examples() -> None:
    found = doctest.testmod(rendering)
    assert found.attempted >= 4
    assert not found.failed


class TestAttacks:
    def test_there_are_many_and_no_two_are_alike(self) -> None:
        assert len(CORPUS) == len(set(CORPUS)) > 150

    @pytest.mark.parametrize("attack", CORPUS, ids=range(len(CORPUS)))
    def test_each_is_harmless_in_every_place(self, attack: str) -> None:
        places = ["{}", "> {}", "- {}", "# {}", "**{}**", "[{}](https://ok.example)", "![{}](https://ok.example)"]
        places += ["```{}\nx\n```", "```sql\n{}\n```", "a|b\n-|-\n{}|x", "<think>{}</think>x", "`{}`", "x\n\n{}\n{}"]
        for place in places:
            safe(to_html(place.replace("{}", attack)))
        safe(messages_html([{"role": attack, "content": attack}]))
        safe(result_table([[attack, None, 1]], [attack]))
        safe(result_table([], [], error=attack))
        safe(spelled_out(attack))

    @pytest.mark.parametrize("attack", CORPUS, ids=range(len(CORPUS)))
    def test_the_allow_list_needs_no_parser_before_it(self, attack: str) -> None:
        cleaned = SANITISER.clean(whole(attack))
        found = Outline(cleaned)
        assert {tag for tag, _ in found.elements} <= TAGS
        assert {name for _, attributes in found.elements for name in attributes} <= ATTRIBUTES
        assert all(re.match("(https?|mailto):", a["href"]) for _, a in found.elements if "href" in a)
        assert SANITISER.clean(cleaned) == cleaned

    @given(HOSTILE)
    @settings(max_examples=300)
    def test_any_text_is_rendered_and_safe(self, text: str) -> None:
        safe(to_html(text))
        safe(spelled_out(text))

    @given(st.lists(st.sampled_from(CORPUS), min_size=2, max_size=4), st.sampled_from(["", "\n", "\n\n", "`", "|"]))
    @settings(max_examples=100)
    def test_attacks_in_company(self, attacks: list[str], between: str) -> None:
        safe(to_html(between.join(attacks)))

    def test_html_is_shown_as_it_was_written(self) -> None:
        for source in ("<script>alert(1)</script>", "<!-- x -->", "<b onclick=x>y</b>", "</p></div>", "a &amp;lt; b"):
            assert Outline(to_html(source)).text.strip() == source.replace("&amp;lt;", "&lt;")
        assert Outline(to_html("```html\n<b>x</b>\n```")).text.strip() == "<b>x</b>"

    @pytest.mark.browser
    @pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
    def test_in_a_browser_nothing_runs_and_nothing_is_fetched(self, tmp_path: Path) -> None:
        parts = [to_html(attack) for attack in CORPUS]
        parts += [messages_html([{"role": attack, "content": f"```html\n{attack}\n```"}]) for attack in CORPUS]
        parts += [result_table([[attack]], [attack]) for attack in CORPUS]
        parts += [SANITISER.clean(whole(attack)) for attack in CORPUS]
        body = "".join(f"<section>{part}</section>\n" for part in parts)
        head = f"<!DOCTYPE html><meta charset=utf-8><style>{stylesheet()}</style><script>owned=()=>{{window.was=1}}</script>"
        page = tmp_path / "page.html"
        page.write_text(head + body, encoding="utf-8")
        with Browser(tmp_path / "profile") as browser:
            browser.open(page.as_uri())
            assert browser.js("document.querySelectorAll('body > section').length") == len(parts)
            assert browser.js("document.body.children.length") == len(parts)  # no part closed its section
            before = browser.js("document.body.innerHTML")
            browser.js("for (const d of document.querySelectorAll('details')) d.open = true")
            browser.js("for (const s of document.querySelectorAll('section')) { s.innerHTML = s.innerHTML; s.click() }")
            again = browser.js("document.body.innerHTML").replace('<details class="reasoning" open="">', "")
            assert again == before.replace('<details class="reasoning">', "")  # parsing twice changes nothing
            names = "[...new Set([...document.body.querySelectorAll('*')].map(e => e.localName))]"
            assert set(browser.js(names)) <= TAGS | {"section"}
            attributes = "[...new Set([...document.body.querySelectorAll('*')].flatMap(e => e.getAttributeNames()))]"
            assert set(browser.js(attributes)) <= ATTRIBUTES | {"open"}
            protocols = "[...new Set([...document.links].map(a => a.protocol))].sort()"
            assert browser.js(protocols) == ["http:", "https:", "mailto:"]
            assert not browser.js("window.was")
            assert browser.requests == [page.as_uri()]
            assert browser.console == []


class TestMarkdown:
    def test_blocks_take_the_direction_of_their_text(self) -> None:
        page = to_html("# שלום\n\nשלום\n\n> שלום\n\n- שלום\n\na|b\n-|-\nשלום|x\n\n```\nx\n```")
        directions = {tag: a.get("dir") for tag, a in Outline(page).elements}
        assert {directions[tag] for tag in ("h1", "p", "blockquote", "ul", "li", "table", "th", "td")} == {"auto"}
        assert directions["pre"] == "ltr"

    def test_tables_strikethrough_and_numbering(self) -> None:
        page = to_html("a|b|c\n:-|:-:|-:\n1|2|3\n\n~~no~~\n\n7. x")
        assert [a["class"] for tag, a in Outline(page).elements if tag == "td"] == ["left", "center", "right"]
        assert "<s>no</s>" in page
        assert '<ol start="7"' in page

    @pytest.mark.parametrize("url", ["https://a.example/x?y=1#z", "http://a.example", "mailto:a@b.example"])
    def test_links_that_lead_outside(self, url: str) -> None:
        link = {"href": url, "rel": "noopener noreferrer nofollow"}
        assert ("a", link) in Outline(to_html(f'[x]({url} "title")')).elements
        assert ("a", link) in Outline(to_html(f"<{url}>")).elements

    @pytest.mark.parametrize(
        "link", ["[x](/logout)", "[x](y.html)", "![x](y.png)", "[x](#y)", "[x](ftp://y)", "https://y"]
    )
    def test_anything_else_stays_text(self, link: str) -> None:
        assert Outline(to_html(link)).elements == [("p", {"dir": "auto"})]
        assert Outline(to_html(link)).text.strip() == link

    def test_a_picture_is_a_link_with_its_name(self) -> None:
        page = to_html("![a *chart*](https://x.example/p.png) ![](https://x.example/q)")
        assert [tag for tag, _ in Outline(page).elements] == ["p", "a", "a"]
        assert Outline(page).text.strip() == "[picture: a chart] [picture: no description]"
        inside = Outline(to_html("[![logo](https://x.example/p.png)](https://y.example)"))
        assert [a.get("href") for tag, a in inside.elements if tag == "a"] == ["https://y.example"]
        assert inside.text.strip() == "[picture: logo]"

    def test_references_are_text_and_multiply_nothing(self) -> None:
        text = f"[a]: https://x.example/{'y' * 50_000}\n\n" + "[a]" * 5_000
        page = to_html(text)
        assert len(page) < 2 * len(text)
        assert Outline(page).text.count("[a]") == 5_001

    @given(
        st.lists(
            st.sampled_from(
                ["w", "# ", "> ", "- ", "1. ", "**", "*", "\n", "\n\n", "    ", "---\n", *'[]()<>&\\!\t"_ ']
            ),
            max_size=80,
        )
    )
    @settings(max_examples=200)
    def test_no_word_is_lost(self, pieces: list[str]) -> None:
        words = [f"w{i}." for i, piece in enumerate(pieces) if piece == "w"]
        text = "".join(f"w{i}." if piece == "w" else piece for i, piece in enumerate(pieces))
        shown = Outline(to_html(text)).text
        assert [word for word in words if word not in shown] == []

    @pytest.mark.parametrize("mark", ["> ", "- ", "1. ", ">"])
    def test_nothing_is_lost_in_the_depth(self, mark: str) -> None:
        for levels in range(1, DEEPEST + 5):
            assert "at the bottom" in Outline(to_html(mark * levels + "at the bottom")).text
        page = to_html(mark * 3_000 + "at the bottom")
        assert f"more than {DEEPEST} levels" in page
        safe(page)

    def test_threads_share_the_parser(self) -> None:
        text = "# a\n\n- **b** `c`\n\n```sql\nSELECT 1\n```\n\na|b\n-|-\n1|2"
        expected = to_html(text)
        rendering._parser.cache_clear()
        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(to_html, [text] * 64)) == {expected}

    def test_what_cannot_be_parsed_is_shown_as_it_stands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rendering, "_parser", lambda: 1 / 0)
        page = to_html("*a* <b>\u202e")
        assert "cannot be parsed" in page
        assert safe(page).text.endswith("\n*a* <b>⟨U+202E⟩\n")


class TestCode:
    def test_a_fence_is_highlighted_in_its_language(self) -> None:
        page = to_html("```sql\nSELECT 1 -- one\n```\n```Python3 {x}\ndef f(): pass\n```\n```sqlite\nSELECT 2\n```")
        assert page.count('<span class="k">SELECT</span>') == 2
        assert '<span class="k">def</span>' in page
        assert Outline(page).text.strip().split("\n") == ["SELECT 1 -- one", "", "def f(): pass", "", "SELECT 2"]

    @pytest.mark.parametrize("info", ["", "nosuch", "text", '"><x>', "brainfuck", "../../x", "\u202e", "sql;x"])
    def test_other_fences_are_plain(self, info: str) -> None:
        assert Outline(to_html(f"```{info}\nSELECT 1\n```")).elements == [
            ("pre", {"class": "code", "dir": "ltr"}),
            ("code", {}),
        ]

    @given(st.sampled_from(sorted(rendering.LANGUAGES)), HOSTILE)
    @settings(max_examples=150)
    def test_highlighting_changes_no_character(self, language: str, code: str) -> None:
        code = code.replace("`", "'").strip()
        indented = Outline(to_html(f"```{language}\nx {code}\n```")).text
        assert indented == Outline(to_html(f"```\nx {code}\n```")).text

    def test_long_code_is_not_highlighted(self) -> None:
        line = "SELECT 1;\n"
        assert "<span" in to_html(f"```sql\n{line * (LONGEST_CODE // len(line))}```")
        assert "<span" not in to_html(f"```sql\n{line * (LONGEST_CODE // len(line) + 1)}```")
        block = f"```sql\n{line * (LONGEST_CODE // len(line))}```\n"
        assert to_html(block * 10).count("<span") == 4 * to_html(block).count("<span")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("SELECT a*b*c FROM t WHERE x_y = '_'", True),
            ("  WITH r AS (SELECT 1 AS a)\n\nSELECT a FROM r;\n", True),
            ("select name from players order by points desc limit 5", True),
            ("SELECT a FORM t WHERE x IN (SELECT y FROM z", True),  # wrong, and still a query
            ("select any of the following from the list below, please", False),
            ("Select a from b", False),
            ("WITH regards, FROM me", False),
            ("SELECT a FROM t\n\nThis counts all games.", False),
            ("SELECT a FROM t; DROP TABLE t", False),
            ("SELECT", False),
            ("", False),
            ("SELECT " + "a, " * 10_000 + "a FROM t", False),
        ],
    )
    def test_an_answer_that_is_a_query_is_code(self, text: str, expected: bool) -> None:
        assert is_statement(text) is expected
        assert to_html(text).startswith('<pre class="code"') is expected
        if expected:
            assert Outline(to_html(text)).text.strip() == text.strip()


class TestCharacters:
    @pytest.mark.parametrize(
        "place", ["{}", "a{}b", "`{}`", "```sql\nSELECT '{}' {}\n```", "a|b\n-|-\n{}|x", "<think>{}</think>x"]
    )
    def test_every_hidden_character_is_named(self, place: str) -> None:
        every = hidden("".join(map(chr, range(sys.maxunicode + 1))))
        assert len(every) > 2_000  # with the surrogates
        for character in every:
            page = to_html(place.replace("{}", f"x{character}y"))
            if character == "\r":
                continue
            lone = unicodedata.category(character) == "Cs"
            mark = "\ufffd" if lone else f'<span class="control">⟨U+{ord(character):04X}⟩</span>'
            assert mark in page, hex(ord(character))

    def test_runs_are_counted_not_repeated(self) -> None:
        assert spelled_out("a" + "\u200b" * 1_000) == 'a<span class="control">⟨U+200B ×1000⟩</span>'
        assert len(to_html("\0" * LONGEST)) < 200

    def test_what_scripts_and_emoji_need_stays(self) -> None:
        for text in ("👨\u200d👩\u200d👧", "می\u200cخواهم", "a\u200eb", "e\u0301", "❤\ufe0f", "\u0600١"):
            assert Outline(to_html(text)).text.strip() == text

    def test_character_references_hide_nothing(self) -> None:
        for reference in ("&#x202E;", "&#8238;", "&ZeroWidthSpace;", "&shy;", "&#x2066;"):
            assert 'class="control"' in to_html(f"a{reference}b")


class TestLongTexts:
    def test_a_long_text_is_shown_as_it_stands(self) -> None:
        assert "<strong>" in to_html("**a**" + " " * (LONGEST - 5))
        page = to_html("**a** <b>\n" + " " * LONGEST)
        assert "200,010 characters" in page
        assert "**a** &lt;b&gt;" in page
        assert safe(page).elements[-1] == ("pre", {"class": "plain", "dir": "auto"})

    def test_a_longer_one_is_cut_and_says_so(self) -> None:
        page = to_html("a" * (2 * LONGEST_PLAIN))
        assert len(page) < LONGEST_PLAIN + 300
        assert "2,000,000 characters. The first 1,000,000 are shown." in page

    @pytest.mark.parametrize(
        "piece", ["**a ", "`", "> a\n", "- a\n", "a|\n", "&", "_a", "(", "\\", "```\n", "<a:", "# a\n"]
    )
    def test_output_grows_with_the_text_alone(self, piece: str) -> None:
        assert len(to_html(piece * (20_000 // len(piece)))) < 40 * 20_000


class TestReasoning:
    def test_it_is_folded_and_both_parts_are_rendered(self) -> None:
        page = to_html("\n<think>\nso *a* </details>\n</think>\n**b** <think>c</think>")
        assert page.startswith('<details class="reasoning"><summary>reasoning</summary><p dir="auto">so <em>a</em>')
        assert page.count("</details>") == 1
        assert "<strong>b</strong> &lt;think&gt;c&lt;/think&gt;" in page.split("</details>")[1]

    def test_without_words_there_is_nothing_to_fold(self) -> None:
        assert to_html("<think>\n\n</think>\n\nx") == to_html("x")

    @pytest.mark.parametrize("text", ["<think>cut off", "x <think>y</think>", "<THINK>y</THINK>", "</think>x"])
    def test_nothing_else_is_folded(self, text: str) -> None:
        assert "<details" not in to_html(text)
        assert Outline(to_html(text)).text.strip() == text

    def test_the_query_after_it_is_code(self) -> None:
        assert '</details>\n<pre class="code"' in to_html("<think>x</think>\nSELECT a FROM t")


def test_a_conversation_names_its_roles() -> None:
    messages = [{"role": role, "content": f"*{role}*"} for role in ("system", "user", "assistant", "<b>")]
    page = messages_html(messages)
    found = safe(page)
    assert [a["class"] for tag, a in found.elements if tag == "div"] == [
        "message system",
        "message user",
        "message assistant",
        "message",
    ]
    assert found.text.split() == [word for role in ("system", "user", "assistant", "<b>") for word in (role, role)]
    assert messages_html([]) == ""


class TestColours:
    @staticmethod
    def contrast(first: str, second: str) -> float:
        """WCAG 2.2: (L1 + 0.05) / (L2 + 0.05) of relative luminances."""

        def luminance(colour: str) -> float:
            assert re.fullmatch("#[0-9a-fA-F]{6}", colour)
            linear = []
            for start in (1, 3, 5):
                channel = int(colour[start : start + 2], 16) / 255
                linear.append(channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4)
            return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

        high, low = sorted((luminance(first), luminance(second)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    def test_the_formula(self) -> None:
        assert self.contrast("#000000", "#ffffff") == pytest.approx(21)
        assert self.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # WCAG's well-known near miss

    @pytest.mark.parametrize("dark", [False, True])
    def test_every_class_can_be_read(self, dark: bool) -> None:
        light_part, dark_part = stylesheet().split("@media (prefers-color-scheme: dark) {")
        rules = re.findall(r"([^{}]+)\{([^{}]*)\}", dark_part if dark else light_part)
        looks = {s.strip(): dict(re.findall(r"([\w-]+): ([^;]+?)(?:;|\s*$)", body)) for s, body in rules}
        surface = looks[".code, .plain"]["background"]
        coloured = {selector: look for selector, look in looks.items() if "color" in look}
        for selector, look in coloured.items():
            assert self.contrast(look["color"], look.get("background", surface)) >= 4.5, selector
        classes = {name for name in STANDARD_TYPES.values() if name and name != "w"}
        assert {f".code .{name}" for name in classes} <= coloured.keys()

    def test_it_loads_nothing(self) -> None:
        assert not re.search(r"url|import|<|expression", stylesheet())


class TestReveals:
    def test_the_first_pattern_found_is_named(self) -> None:
        patterns = ["llama", r"gpt-?\d", "mistral"]
        assert reveals("As Mistral, built like GPT4, I", patterns) == r"gpt-?\d"
        assert reveals("I am a model", patterns) is None
        assert reveals("", patterns) is None
        assert reveals("llama", []) is None

    @pytest.mark.parametrize(
        "text",
        [
            "mis**tral**",
            "Mis\u200btral",
            "mis\u00adtral",
            "ＭＩＳＴＲＡＬ",
            "`mis`tral",
            "&#109;istral",
            "mis\\_tral",
            "mis\u200dtral",
        ],
    )
    def test_disguises(self, text: str) -> None:
        assert reveals(f"I am {text}.", ["mistral"]) == "mistral"

    def test_bad_patterns_are_named_together(self) -> None:
        with pytest.raises(ConfigError) as error:
            reveals("x", ["fine", "bad(", "a*"])
        assert "'bad('" in str(error.value)
        assert "'a*' (it matches the empty text" in str(error.value)
        assert "fine" not in str(error.value)


def test_no_heavy_import() -> None:
    heavy = "{'torch', 'transformers', 'scipy', 'pandas'}"
    code = f"import sys, prefloop.annotation.rendering as r, prefloop.annotation.results; r.to_html('select a from t'); print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
