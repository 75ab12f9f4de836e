"""New prompts: ROUGE-L against the original and a table by hand, each filter's verdict, the quick bound, hostile text."""

from __future__ import annotations

import doctest
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefloop.preferences import new_prompts
from prefloop.preferences.new_prompts import PromptFilter, asking_for_one, lcs_length, read_new_prompt, rouge_l

WORDS = st.lists(st.sampled_from("abcd"), max_size=12)
QUESTION = "how many points did he score last season"


def by_table(first: list[str], second: list[str]) -> int:
    """The textbook's table."""
    rows = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            rows[i + 1][j + 1] = rows[i][j] + 1 if a == b else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


def test_docstring_examples() -> None:
    found = doctest.testmod(new_prompts)
    assert found.attempted >= 3
    assert not found.failed


@given(WORDS, WORDS)
@example([], [])
@example(["a"] * 70, ["a"] * 65)  # wider than a machine word
def test_the_longest_common_subsequence_is_the_tables(first: list[str], second: list[str]) -> None:
    assert lcs_length(first, second) == by_table(first, second) == lcs_length(second, first)


@given(WORDS, WORDS)
def test_rouge_l_is_the_packages(first: list[str], second: list[str]) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    expected = scorer.score(" ".join(first), " ".join(second))["rougeL"].fmeasure
    assert rouge_l(first, second) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("how many rebounds did he grab in the finals", ""),
        ("", "empty, or begins with a mark"),
        ("- how many points did he get", "empty, or begins with a mark"),
        ("\nwho won the last game", "empty, or begins with a mark"),
        ("¿Quién ganó el último partido?", ""),
        ("Élan Vital points last season", ""),
        ("points last season", "too short or too long"),
        ("who " * 151, "too short or too long"),
        ("draw his points by season", "asks for what the task cannot serve"),
        ("Who won, the FINALS?!", "question of the evaluation"),
        ("How many points did he score last season?", "repeated"),
        ("how many points did he score this season", "too much like a known prompt"),  # 7 of 8 words: 0.875
    ],
)
def test_each_filter(text: str, reason: str) -> None:
    sieve = PromptFilter(0.7, ["who won the finals"])
    sieve.know([QUESTION])
    assert sieve.admit(text) == (not reason)
    assert dict(sieve.drops) == ({reason: 1} if reason else {})


def test_the_limit_itself_is_too_much_alike() -> None:
    """7 common words of 10 and 10: 2 · 7 / 20 = 0.7, which is not below 0.7."""
    known, alike = "a b c d e f g h i j", "a b c d e f g x y z"
    at, above = PromptFilter(0.7), PromptFilter(0.71)
    for sieve in (at, above):
        sieve.know([known])
    assert not at.admit(alike)
    assert above.admit(alike)


def test_with_limit_1_only_the_same_words_in_the_same_order_are_alike() -> None:
    sieve = PromptFilter(1.0)
    sieve.know(["a b c d e"])
    assert sieve.admit("a b c e d")
    assert not sieve.admit("A b, c d e.")


def test_what_is_admitted_is_known_from_then_on() -> None:
    sieve = PromptFilter(0.7)
    assert [sieve.admit(QUESTION), sieve.admit(QUESTION), sieve.admit(f"{QUESTION} now")] == [True, False, False]


@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=4, max_size=9), max_size=12), st.floats(0.05, 1.0))
def test_the_quick_bound_changes_no_verdict(texts: list[list[str]], limit: float) -> None:
    sieve, known = PromptFilter(limit), []
    for words in texts:
        new = all(2 * by_table(words, other) < limit * (len(words) + len(other)) - 1e-9 for other in known)
        assert sieve.admit(" ".join(words)) == (new and words not in known)
        known += [words] if new and words not in known else []


def test_a_request_lists_its_shots_and_leaves_their_text_alone() -> None:
    (message,) = asking_for_one(["who won {shots}", "2. how many?"])
    assert message["role"] == "user"
    assert "1. who won {shots}\n2. 2. how many?\n" in message["content"]


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("who won", "who won"),
        ("  3) who won\n", "who won"),
        ("who won\n4. and then", "who won"),
        ("who won\nin 2022?", "who won\nin 2022?"),
        ("2022 champions", "2022 champions"),
        ("", ""),
    ],
)
def test_a_reply_is_read_as_one_prompt(reply: str, text: str) -> None:
    assert read_new_prompt(reply, 2) == text


@given(st.text(string.printable + "éß¿\u2028\x00", max_size=60))
def test_any_text_is_admitted_or_counted(text: str) -> None:
    sieve = PromptFilter(0.7, [QUESTION])
    assert sieve.admit(text) != bool(sum(sieve.drops.values()))
