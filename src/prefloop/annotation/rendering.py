"""Hostile text to safe HTML: what models and users wrote, as the annotation pages show it.

Three layers, each of which holds alone: markup in the text is no HTML to the Markdown parser; what the parser makes
goes through an allow-list (nh3) that knows no picture, script, style, id or foreign scheme; the pages' own content
security policy stands behind both. Nothing is fetched from elsewhere: who loads a picture tells its host that
somebody reads. Characters that hide or reorder others are spelled out, so that a text reads as it is.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping, MutableMapping, Sequence
from functools import cache, lru_cache
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.styles import get_style_by_name
from pygments.token import STANDARD_TYPES, Whitespace

from prefloop.errors import ConfigError

LONGEST = 200_000
"""Characters beyond which a text is shown as it stands, without Markdown."""
LONGEST_PLAIN = 1_000_000
"""Characters shown of a text at all; a note says how many there are."""
DEEPEST = 40
"""Levels of nested blocks; the parser drops what lies deeper, so such a text is shown as it stands."""
LONGEST_CODE, LONGEST_CODE_IN_ALL = 5_000, 20_000
"""Characters highlighted per block and per text: some lexers take time that grows with the square of the length."""
LONGEST_STATEMENT = 20_000
"""Characters of one SQL statement, as the sandbox takes them."""

LANGUAGES = frozenset(
    "bash c c++ cpp css diff go golang haskell hs html java javascript js json julia kotlin lua php py python python3 r"
    " rb rs ruby rust sh shell sql sqlite sqlite3 swift toml ts typescript xml yaml yml zsh".split()
)
"""Info strings that are highlighted; the text chooses among these lexers alone."""
DIALECTS = frozenset({"sqlite", "sqlite3"})

_LIGHT = (
    ".code, .plain { background: #ffffff; color: #1f2328 }",
    ".control, .code .control { background: #fff1e0; color: #7a2e00 }",
    ".null { background: #eceff2; color: #4a5158 }",
)
_DARK = (
    ".code, .plain { background: #0d1117; color: #e6edf3 }",
    ".control, .code .control { background: #3a2410; color: #ffd9a8 }",
    ".null { background: #21262d; color: #b6bec8 }",
)

ROLES = frozenset({"system", "user", "assistant", "tool"})

_NEVER_TEXT = re.compile("[\ud800-\udfff\ufdd0-\ufdef]")
_HIDDEN = re.compile(
    "([\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ufffe\uffff\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f])\\1*"
)
"""Runs of one character that is not seen but acts: control, bidirectional, format, tag. Joiners and direction marks,
which emoji and right-to-left scripts are written with, are not among them."""
_OPEN, _CLOSE, _PLACE = "\ufdd0", "\ufdd1", "\ufdd2"
"""Noncharacters, which Unicode keeps for use inside a program: they carry a spelled-out character through Markdown."""
_SPELLED = re.compile(f"{_OPEN}([0-9A-F]{{4,6}}(?: ×[0-9]+)?){_CLOSE}")
_REASONING = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)
_SCHEME = re.compile(r"(?:https?://|mailto:)[^\s]", re.IGNORECASE)
_FORMATTER = HtmlFormatter(nowrap=True)

_BLOCKS = "p h1 h2 h3 h4 h5 h6 ul ol li blockquote table th td".split()
SANITISER = nh3.Cleaner(
    tags={*_BLOCKS, *"pre code span thead tbody tr em strong s hr br a".split()},
    attributes={"*": set(), "a": {"href"}, "ol": {"start"}},
    allowed_classes={
        "span": {*filter(None, STANDARD_TYPES.values()), "control"},
        "pre": {"code"},
        "th": {"left", "center", "right"},
        "td": {"left", "center", "right"},
    },
    set_tag_attribute_values={name: {"dir": "auto"} for name in _BLOCKS} | {"pre": {"dir": "ltr"}},
    generic_attribute_prefixes=set(),
    link_rel="noopener noreferrer nofollow",
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",  # a relative link would lead into the app itself
)
"""The allow-list; safe for any HTML, not only for what the parser makes."""


def to_html(text: str) -> str:
    """A text as an HTML fragment that is safe inside any block element; never raises.

    Markdown (CommonMark with tables and strikethrough) is rendered, HTML is shown as text. A leading
    ``<think>…</think>`` is folded. An answer that is one SQL statement is shown as code.

    >>> to_html("a **b** <i>")
    '<p dir="auto">a <strong>b</strong> &lt;i&gt;</p>\\n'
    """
    if len(text) > LONGEST:
        return _as_it_stands(text, f"Shown without formatting: {len(text):,} characters.")
    found = _REASONING.match(text)
    if found is None or not found[1].strip():
        return _block(text[found.end() :] if found else text)
    reasoning = f'<details class="reasoning"><summary>reasoning</summary>{_block(found[1])}</details>\n'
    return reasoning + _block(text[found.end() :])


def messages_html(messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation as an HTML fragment, each turn under the name of its role.

    Args:
        messages: ``{"role": name, "content": text}`` each.
    """
    return "".join(
        f'<div class="{" ".join(["message", *({message["role"]} & ROLES)])}">'
        f'<p class="role">{spelled_out(message["role"])}</p>\n{to_html(message["content"])}</div>\n'
        for message in messages
    )


def spelled_out(text: str) -> str:
    """A plain text as HTML: escaped, its hidden characters marked and named.

    >>> spelled_out("a<b\\u202e")
    'a&lt;b<span class="control">⟨U+202E⟩</span>'
    """
    return _marked(html.escape(_carried(text)))


def is_statement(text: str) -> bool:
    """Whether a whole text is one SQL query that reads tables.

    In capitals the keywords are enough, since a wrong query is shown as a query, too; in small letters it has to
    parse, since sentences begin with these words.

    >>> is_statement("SELECT a*b FROM t;"), is_statement("select any answer from the following.")
    (True, False)
    """
    statement = text.strip().rstrip("; \n\t")
    words = re.findall(r"\w+", statement) if len(statement) <= LONGEST_STATEMENT else []
    first = words[0] if words and statement.startswith(words[0]) else ""
    needed = {"SELECT": "FROM", "WITH": "SELECT", "select": "from", "with": "select"}.get(first)
    if needed is None or needed not in words or "```" in statement:
        return False
    certain = first.isupper() and ";" not in statement and "\n\n" not in statement
    return certain or _parses(statement)


def reveals(text: str, patterns: Sequence[str]) -> str | None:
    """The first of `patterns` found in a text that was to stay anonymous, else None.

    Args:
        patterns: regular expressions, model names for example; case does not count. They are looked for in the text
            and in what is read of it: without emphasis marks and invisible characters, wide letters made plain.

    Raises:
        ConfigError: patterns that cannot be compiled, or that match the empty text and so would void every vote.

    >>> reveals("I am Mis**tral**.", ["llama", "mistral"])
    'mistral'
    """
    read = unicodedata.normalize("NFKC", html.unescape(text))
    read = re.sub("[*_~`\\\\\u200c-\u200f]", "", _HIDDEN.sub("", read))
    found = (pattern for pattern in _compiled(tuple(patterns)) if pattern.search(text) or pattern.search(read))
    return next((pattern.pattern for pattern in found), None)


def stylesheet() -> str:
    """CSS for what this module and `prefloop.annotation.results` write, light and as the reader prefers dark.

    Every text colour stands out from its background by at least 4.5 : 1 (WCAG 2.2, 1.4.3, level AA); the two styles
    are chosen for that.
    """
    light = [*_LIGHT, *_token_rules("xcode", "1f2328")]
    dark = [*_DARK, *_token_rules("github-dark", "e6edf3")]
    shape = [
        ".code, .plain { white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.5em }",
        ".control, .null { font-size: 0.85em; padding: 0 0.2em; border-radius: 0.2em }",
        ".result td.number { text-align: right; font-variant-numeric: tabular-nums }",
        *(f"th.{side}, td.{side} {{ text-align: {side} }}" for side in ("left", "center", "right")),
    ]
    return "\n".join([*shape, *light, "@media (prefers-color-scheme: dark) {", *dark, "}", ""])


@lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    compiled, wrong = [], []
    for pattern in patterns:
        try:
            expression = re.compile(pattern, re.IGNORECASE)
        except (re.error, OverflowError, RecursionError) as error:
            wrong.append(f"{pattern!r} ({error})")
            continue
        compiled.append(expression)
        if expression.search(""):
            wrong.append(f"{pattern!r} (it matches the empty text, so every vote would be void)")
    if wrong:
        raise ConfigError(f"patterns that reveal an identity: {', '.join(wrong)}: correct these regular expressions")
    return tuple(compiled)


def _parses(statement: str) -> bool:
    import sqlglot
    from sqlglot import exp

    try:
        trees = [tree for tree in sqlglot.parse(statement, dialect="sqlite") if tree is not None]
    except (sqlglot.errors.SqlglotError, RecursionError):
        return False
    return len(trees) == 1 and isinstance(trees[0], exp.Query)


def _block(text: str) -> str:
    """Markdown, or the text as it stands where the parser cannot do it justice."""
    carried = _carried(text)
    try:
        if is_statement(text):
            rendered = f'<pre class="code"><code>{_highlighted(carried.strip(), "sql")}</code></pre>\n'
        else:
            environment: dict[str, Any] = {}
            tokens = _parser().parse(carried, environment)
            if any(token.nesting == 1 and token.level + 1 >= DEEPEST for token in tokens):
                return _as_it_stands(text, f"Shown without formatting: more than {DEEPEST} levels of nested blocks.")
            rendered = _parser().renderer.render(tokens, _parser().options, environment)
    except Exception:  # whatever a text does to a parser, it must not take the page with it
        return _as_it_stands(text, "Shown without formatting: this text cannot be parsed.")
    return SANITISER.clean(_marked(rendered))


def _as_it_stands(text: str, note: str) -> str:
    if len(text) > LONGEST_PLAIN:
        note = f"{note} The first {LONGEST_PLAIN:,} are shown."
    return f'<p class="note">{note}</p>\n<pre class="plain" dir="auto">\n{spelled_out(text[:LONGEST_PLAIN])}</pre>\n'


def _carried(text: str) -> str:
    """Hidden characters between noncharacters by their number, which no later step drops or reorders."""
    text = _NEVER_TEXT.sub("\ufffd", text).replace("\r\n", "\n").replace("\r", "\n")
    return _HIDDEN.sub(_number, text)


def _number(found: re.Match[str]) -> str:
    times = f" ×{len(found[0])}" if len(found[0]) > 1 else ""
    return f"{_OPEN}{ord(found[1]):04X}{times}{_CLOSE}"


def _marked(markup: str) -> str:
    """Carried characters as marked tokens, those that character references gave rise to included.

    Done before the allow-list, so that nothing depends on where such a character stands.
    """
    markup = _SPELLED.sub(r'<span class="control">⟨U+\1⟩</span>', _HIDDEN.sub(_number, markup))
    return markup.replace(_OPEN, "⟨U+").replace(_CLOSE, "⟩")  # of a percent-encoded address


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "maxNesting": DEEPEST})
    # References multiply: one long address, used often, makes gigabytes. So they stay text.
    parser.enable(["table", "strikethrough"]).disable("reference")
    # markdown-it-py documents replacing this method; mypy takes any method for fixed.
    parser.validateLink = lambda url: _SCHEME.match(url) is not None  # type: ignore[method-assign]
    parser.add_render_rule("fence", _fence)
    parser.add_render_rule("code_block", _fence)
    parser.core.ruler.push("pictures and columns", _pictures_and_columns)
    parser.render("compiles the rules, which two threads must not do at once")
    return parser


def _pictures_and_columns(state: StateCore) -> None:
    """Pictures become links named by their alternative text; the alignment of a column becomes a class."""
    for token in state.tokens:
        if token.type in {"th_open", "td_open"} and "style" in token.attrs:
            token.attrs = {"class": str(token.attrs["style"]).removeprefix("text-align:")}
        if token.type == "inline" and token.children:
            token.children = _without_pictures(token.children, state.md)


def _without_pictures(children: list[Token], parser: MarkdownIt) -> list[Token]:
    renderer = parser.renderer
    assert isinstance(renderer, RendererHTML)
    kept, inside = [], 0
    for child in children:
        inside += child.nesting if child.type in {"link_open", "link_close"} else 0
        if child.type != "image":
            kept.append(child)
            continue
        name = renderer.renderInlineAsText(child.children, parser.options, {})
        shown = Token("text", "", 0, content=f"[picture: {name.strip() or 'no description'}]")
        if inside:  # a link holds no link
            kept.append(shown)
        else:
            opening = Token("link_open", "a", 1, attrs={"href": child.attrs["src"]})
            kept += [opening, shown, Token("link_close", "a", -1)]
    return kept


def _fence(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    """A code block, highlighted where its language is known and both it and all before it are short."""
    code = tokens[index].content
    language = (tokens[index].info.split() or [""])[0].lower()
    spent = env.get("highlighted", 0) + len(code)
    if language in LANGUAGES and len(code) <= LONGEST_CODE and spent <= LONGEST_CODE_IN_ALL:
        env["highlighted"] = spent
        return f'<pre class="code"><code>{_highlighted(code, language)}</code></pre>\n'
    return f'<pre class="code"><code>{html.escape(code)}</code></pre>\n'


def _highlighted(code: str, language: str) -> str:
    """Code as spans; a carried character is one character to the lexer, so that it cannot be cut into parts."""
    carried = iter(_SPELLED.findall(code))
    lexer = get_lexer_by_name("sql" if language in DIALECTS else language, stripnl=False, ensurenl=False)
    spans = highlight(_SPELLED.sub(_PLACE, code), lexer, _FORMATTER)
    return re.sub(_PLACE, lambda _: f"{_OPEN}{next(carried)}{_CLOSE}", spans)


def _token_rules(style: str, text: str) -> list[str]:
    """One rule per token class, those without a colour in `text`'s; the style's own backgrounds are left out."""
    rules = []
    for kind, name in STANDARD_TYPES.items():
        look = get_style_by_name(style).style_for_token(kind)
        if name and kind is not Whitespace:  # which has no colour to see
            weight = "; font-weight: bold" if look["bold"] else ""
            slant = "; font-style: italic" if look["italic"] else ""
            rules.append(f".code .{name} {{ color: #{look['color'] or text}{weight}{slant} }}")
    return rules
