"""Several people's verdicts as one preference, derived by hand; people as a run's judge: waits, and goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import prefloop
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.config.judges import PeopleConfig
from prefloop.config.recipe import PreferenceConfig, load_recipe, parse_recipe
from prefloop.errors import AwaitingJudgementsError, ConfigError, DataError, JudgeError
from prefloop.judging.open import open_judge
from prefloop.judging.people import PeopleJudge
from prefloop.loop.judge_stage import judge_file
from prefloop.loop.main import run_recipe
from prefloop.preferences.build import build_preferences, diagnostics
from prefloop.preferences.votes import Consensus, majority
from prefloop.records import Completion, Judgement, Preference, Prompt
from prefloop.store.tables import read_records, write_records

PROMPT = Prompt.create(({"role": "user", "content": "q"},), "t", "train")
OTHER = Prompt.create(({"role": "user", "content": "another"},), "t", "train")
LETTERS = "abcd"


def answer(name: str, prompt: Prompt = PROMPT, **changes: Any) -> Completion:
    place = LETTERS.index(name[-1])
    fields = {"text": f"answer {name}", "finish_reason": "stop", "token_ids": (1,) * (place + 1), **changes}
    return Completion(name, prompt.id, place, 0, logprobs=(), policy="p", sampling={}, seed=0, **fields)


def choice(rater: str, shown: str, value: float | None, prompt: Prompt = PROMPT, **raw: Any) -> Judgement:
    return Judgement.create(prompt.id, tuple(shown), f"people/{rater}", "choice", value, raw=raw)


def ranking(rater: str, shown: str, *tiers: str, **raw: Any) -> Judgement:
    found = tuple(map(tuple, tiers))
    return Judgement.create(PROMPT.id, tuple(shown), f"people/{rater}", "ranking", 1.0, ranking=found, raw=raw)


def together(*judgements: Judgement) -> list[Consensus]:
    return majority(judgements, Counter()).get(PROMPT.id, [])


def built(judgements: Sequence[Judgement], completions: Sequence[Completion] | None = None) -> tuple[Any, Any]:
    answers = [answer(name) for name in LETTERS] if completions is None else completions
    made = build_preferences([PROMPT], answers, judgements, PreferenceConfig(), seed=1)
    return made.preferences, made.drops


# Several verdicts, one preference


def test_two_against_one() -> None:
    (found,) = together(choice("x", "ab", 1.0), choice("y", "ba", 0.0), choice("z", "ab", 0.0))
    assert found.ranking == (("a",), ("b",))
    assert found.soft_label == pytest.approx(2 / 3)
    assert found.scores == pytest.approx((1 / 6, -1 / 6))  # mean strength (1 + 1 - 1) / 3, halved


def test_a_tie_is_half_a_vote_and_strength_makes_the_margin() -> None:
    much, tie = choice("x", "ab", 1.0, strength=1), choice("y", "ab", 0.5, strength=3)
    (found,) = together(much, tie)
    assert (found.ranking, found.soft_label, found.scores) == ((("a",), ("b",)), 0.75, (0.5, -0.5))
    (found,) = together(much, tie, choice("z", "ba", 1.0, strength=2))  # (1 + ½ + 0) / 3, whatever the strengths
    assert (found.ranking, found.soft_label) == ((("a", "b"),), 0.5)


def test_a_strong_minority_lowers_the_margin_and_does_not_turn_the_pair() -> None:
    weak = [choice(rater, "ab", 1.0, strength=2) for rater in "xyz"]
    strong = [choice(rater, "ab", 0.0, strength=5) for rater in "vw"]
    (found,) = together(*weak, *strong)  # strengths 3 · 1 - 2 · 2 = -1
    assert (found.ranking, found.soft_label) == ((("a",), ("b",)), 0.6)
    assert found.scores[0] == found.scores[1] == pytest.approx(-0.1)


def test_one_rater_counts_once_however_often_asked() -> None:
    (found,) = together(choice("x", "ab", 1.0), choice("x", "ba", 0.0), choice("x", "ba", 1.0), choice("y", "ab", 0.0))
    # x says a twice and b once, y says b: (2/3 + 0) / 2 for a
    assert (found.ranking, found.soft_label) == ((("b",), ("a",)), pytest.approx(2 / 3))


def test_rankings_with_ties_and_top_k() -> None:
    full, tied, top = (
        ranking("x", "abcd", "a", "b", "c", "d"),
        ranking("y", "dcba", "b", "ad", "c"),
        ranking("z", "abcd", "d"),
    )
    (found,) = together(full, tied, top)
    # Shares over the others, by hand: a (½: over b x, not y), over c (x, y), over d (x, ½)
    over = {
        "a": ((1 + 0) / 2, (1 + 1) / 2, (1 + 0.5 + 0) / 3),
        "b": ((0 + 1) / 2, (1 + 1) / 2, (1 + 1 + 0) / 3),
        "c": (0, 0, (1 + 0 + 0) / 3),
        "d": ((0 + 0.5 + 1) / 3, (0 + 0 + 1) / 3, (0 + 1 + 1) / 3),
    }
    order = sorted(over, key=lambda name: -sum(over[name]))
    assert order == ["b", "a", "d", "c"]
    assert found.ranking == tuple((name,) for name in order)
    assert found.soft_label == 1.0  # b over c
    strengths = {name: sum(2 * share - 1 for share in shares) / 3 / 2 for name, shares in over.items()}
    assert found.scores == pytest.approx([strengths[name] for name in order])


def test_what_a_ranking_implies_gives_way_to_what_its_rater_said_of_the_two() -> None:
    alone, implied = choice("x", "ab", 1.0, strength=1), ranking("x", "cab", "c", "a", "b")
    first, second = sorted(together(alone, implied), key=lambda found: len(found.ranking))
    assert first.scores == (1.0, -1.0)
    assert second.ranking == (("c",), ("a",), ("b",))


def test_a_circle_of_pairs_stays_three_pairs() -> None:
    found = together(choice("x", "ab", 1.0), choice("x", "bc", 1.0), choice("x", "ca", 1.0))
    assert [one.ranking for one in found] == [(("a",), ("b",)), (("c",), ("a",)), (("b",), ("c",))]


def test_a_circle_of_rankings_is_a_tie() -> None:
    (found,) = together(
        ranking("x", "abc", "a", "b", "c"), ranking("y", "abc", "b", "c", "a"), ranking("z", "abc", "c", "a", "b")
    )
    assert found.ranking == (("a", "b", "c"),)


VERDICTS = st.lists(
    st.tuples(st.sampled_from("vwxyz"), st.sampled_from(["ab", "ba", "ac"]), st.sampled_from([0.0, 0.5, 1.0, None])),
    min_size=1,
    max_size=12,
)


@given(VERDICTS, st.randoms())
@settings(max_examples=100)
def test_neither_the_order_of_the_rows_nor_of_the_sides_decides(
    rows: list[tuple[str, str, float | None]], rng: Any
) -> None:
    said = [choice(*row) for row in rows]
    turned = [choice(rater, shown[::-1], None if value is None else 1 - value) for rater, shown, value in rows]
    mixed = [rng.choice(pair) for pair in zip(said, turned, strict=True)]
    rng.shuffle(mixed)
    assert together(*mixed) == together(*said)


@given(VERDICTS)
@settings(max_examples=100)
def test_the_label_is_never_against_its_pair(rows: list[tuple[str, str, float | None]]) -> None:
    for found in together(*(choice(*row) for row in rows)):
        assert 0.5 <= found.soft_label <= 1
        assert (found.soft_label == 0.5) == (len(found.ranking) == 1)
        assert list(found.scores) == sorted(found.scores, reverse=True)


# Preferences


def test_each_comparison_is_a_preference_and_a_prompt_weighs_one() -> None:
    found, drops = built([choice("x", "ab", 1.0), choice("y", "cd", 0.0), choice("y", "ab", 1.0)])
    assert [(p.ranking, p.weight, p.source) for p in found] == [
        ((("a",), ("b",)), 0.5, "majority/people"),
        ((("d",), ("c",)), 0.5, "majority/people"),
    ]
    assert drops == {"prompts": 1, "kept pairs": 2}
    pair = Preference.pair(PROMPT.id, "a", "b", 0.5, -0.5, "majority/people", weight=0.5)
    assert found[0] == pair  # as any other pair is made


def test_every_loss_is_counted_by_its_reason() -> None:
    cases = [
        (choice("x", "ab", None, status="both bad"), "judgement without a preference: both bad"),
        (choice("x", "ab", 0.5, choice="both bad"), "judgement without a preference: both bad"),
        (choice("x", "ab", None), "judgement without a preference: no verdict"),
        (choice("x", "ab", float("nan")), "judgement without a preference: no verdict"),
        (choice("x", "ab", 7.0), "judgement without a preference: no verdict"),
        (choice("x", "aa", 1.0), "judgement without a preference: no verdict"),
        (ranking("x", "abc"), "judgement without a preference: no verdict"),
        (ranking("x", "abc", "z"), "judgement without a preference: no verdict"),
        (choice("x", "ab", 1.0, left_out="gold item"), "judgement left out: gold item"),
        (choice("x", "ab", 0.5), "comparison tied"),
        (choice("x", "az", 1.0), "comparison with an answer that was not given"),
        (choice("x", "ca", 1.0), "comparison whose better answer is unfinished"),
        (choice("x", "ad", 1.0), "comparison of the same text"),
    ]
    answers = [answer("a"), answer("b"), answer("c", finish_reason="length"), answer("d", text=" Answer  A")]
    for judgement, reason in cases:
        found, drops = built([judgement], answers)
        assert (found, drops[reason]) == ((), 1), reason
    nothing = build_preferences([OTHER], answers, [choice("x", "ab", 1.0)], PreferenceConfig(), 1)
    assert nothing.drops == {"prompts": 1, "kept pairs": 0, "prompt without a comparison": 1}


def test_rules_of_margin_and_similarity_hold_for_people_too() -> None:
    said = [choice("x", "ab", 1.0, strength=1), choice("x", "cd", 1.0, strength=2)]
    answers = [answer(name) for name in LETTERS]
    config = PreferenceConfig(min_margin_quantile=0.5)
    kept = build_preferences([PROMPT], answers, said, config, 1)
    assert [p.margin for p in kept.preferences] == [2.0]
    alike = build_preferences([PROMPT], answers, said, PreferenceConfig(max_similarity=0.5), 1)
    assert (alike.preferences, alike.drops["pair too similar"]) == ((), 2)


def test_a_judges_scores_go_before_its_comparisons() -> None:
    scores = [
        Judgement.create(PROMPT.id, (name,), "llm", "score", float(value))
        for name, value in zip("ab", (0, 1), strict=True)
    ]
    made = build_preferences(
        [PROMPT], [answer("a"), answer("b")], [*scores, choice("x", "ab", 1.0)], PreferenceConfig(), 1
    )
    assert [(p.chosen, p.source) for p in made.preferences] == [("b", "best-worst/llm")]
    assert made.strategy == "best-worst"


def test_diagnostics_of_comparisons() -> None:
    found, _ = built([choice("x", "ab", 1.0), choice("x", "dc", 1.0)])
    figures = diagnostics(found, [answer(name) for name in LETTERS], [])
    assert figures["chosen_longer"] == 0.5
    assert figures["score_length_correlation"] is None


# The judge


def put(folder: Path, judgements: Sequence[Judgement], **project: Any) -> Path:
    write_records(folder / "judgements.parquet", list(judgements), Judgement)
    if project:
        (folder / "project.json").write_text(json.dumps(project))
    return folder


ASKED = [PROMPT, OTHER]
ANSWERS = [answer("a"), answer("b"), answer("pa", OTHER), answer("pb", OTHER)]
SECOND = Judgement.create(
    OTHER.id, ("pb", "pa"), "people/x", "choice", None, raw={"both_bad": True, "status": "both bad"}
)
SAID = [choice("x", "ba", 1.0, strength=2), SECOND]


def test_people_say_what_the_app_exported_of_the_answers_asked(tmp_path: Path) -> None:
    elsewhere = [ranking("x", "eab", "e", "a", "b"), choice("x", "yz", 1.0)]
    run = put(tmp_path / "people", [SECOND, *elsewhere, SAID[0]]).parent
    with open_judge(PeopleConfig(), run=run) as judge:
        assert judge.judge(ASKED, ANSWERS) == SAID
        assert judge.judge([OTHER], ANSWERS[2:]) == [SECOND]
    for path in (tmp_path / "people", tmp_path / "people" / "judgements.parquet"):
        with open_judge(PeopleConfig(path=path)) as judge:
            assert judge.judge(ASKED, ANSWERS) == SAID


@pytest.mark.parametrize(
    ("said", "project", "minimum", "message"),
    [
        (SAID[:1], {}, None, "1 of 2 prompts whose answers differ: "),
        (SAID[:1], {}, 0.6, "1 of 2 prompts whose answers differ and should judge 60%: "),
        (SAID, {"open_items": 3}, None, "2 of 2 prompts whose answers differ; 3 items are still open: "),
        ([], {"open_items": 0}, None, "0 of 2 prompts whose answers differ: "),
        ([choice("x", "ab", 1.0, role="gold"), SECOND], {}, None, "1 of 2 prompts whose answers differ: "),
    ],
)
def test_too_little_is_waited_for(tmp_path: Path, said: Any, project: Any, minimum: float | None, message: str) -> None:
    run = put(tmp_path / "my run" / "people", said, **project).parent
    with pytest.raises(AwaitingJudgementsError) as found, PeopleJudge(PeopleConfig(minimum=minimum), run) as judge:
        judge.judge(ASKED, ANSWERS)
    assert f"people have judged {message}open the queue with 'prefloop annotate '" in str(found.value)
    assert "--resume" in str(found.value)
    assert (found.value.exit_code, isinstance(found.value, JudgeError)) == (7, True)


@pytest.mark.parametrize(
    ("said", "project", "minimum"),
    [(SAID, {}, None), (SAID[:1], {}, 0.5), (SAID[:1], {"open_items": 0}, None), (SAID[:1], {"open_items": 9}, 0.5)],
)
def test_enough_is_taken(tmp_path: Path, said: Any, project: Any, minimum: float | None) -> None:
    with PeopleJudge(PeopleConfig(path=put(tmp_path, said, **project), minimum=minimum)) as judge:
        assert judge.judge(ASKED, ANSWERS) == said


def test_a_prompt_whose_answers_are_all_the_same_is_not_waited_for(tmp_path: Path) -> None:
    same = [*ANSWERS[:2], answer("pa", OTHER, text="x"), answer("pb", OTHER, text=" x\n")]
    with PeopleJudge(PeopleConfig(path=put(tmp_path, SAID[:1]))) as judge:
        assert judge.judge(ASKED, same) == SAID[:1]


def test_mistakes_with_people_are_said_early(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set judge\.path"), open_judge(PeopleConfig()):
        pass
    with pytest.raises(ConfigError, match="an ensemble takes scores"):
        parse_recipe({"judge": {"name": "ensemble", "members": ["pairrm", "people"]}})
    with pytest.raises(ConfigError, match=r"judge\.minimum"):
        parse_recipe({"judge": {"name": "people", "minimum": 0}})
    recipe = load_recipe("lima-pairrm-dpo", {"judge": "people", "policy.model": "embedded"})
    with pytest.raises(ConfigError, match=r"evaluation\.judge: people label"):
        run_recipe(recipe, tmp_path / "run")
    (tmp_path / "judgements.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a readable Parquet"), PeopleJudge(PeopleConfig(path=tmp_path)) as judge:
        judge.judge(ASKED, ANSWERS)


def test_prefloop_judge_takes_people_too(tmp_path: Path) -> None:
    write_records(tmp_path / "p.parquet", ASKED, Prompt)
    write_records(tmp_path / "c.parquet", ANSWERS, Completion)
    config = PeopleConfig(path=put(tmp_path / "people", SAID))
    found = judge_file(tmp_path / "p.parquet", tmp_path / "c.parquet", tmp_path / "j.parquet", config)
    assert (found["judgements"], found["unscored"], found["why"]) == (2, 1, {"both bad": 1})
    assert read_records(tmp_path / "j.parquet", Judgement) == SAID


def test_waiting_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    write_records(tmp_path / "p.parquet", ASKED, Prompt)
    write_records(tmp_path / "c.parquet", ANSWERS, Completion)
    words = f"judge p.parquet c.parquet --judge people --set judge.path={put(tmp_path / 'people', [])} --out j.parquet"
    done = prefloop(*words.split(), cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (7, 1)
    assert done.stderr.startswith("prefloop: people have judged 0 of 2 prompts")


# A run

SMALL = {
    "task.train_questions": 5, "task.test_questions": 3, "generation.k": 3,
    "training.epochs": 1, "evaluation.sampled_questions": 1, "evaluation.samples": 2, "evaluation.bootstrap": 100,
    "threads": 1, "judge": "people",
}  # fmt: skip


def test_a_run_waits_for_people_and_goes_on_with_resume(tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = load_recipe("nba-sql", SMALL)
    with pytest.raises(AwaitingJudgementsError, match=f"'prefloop annotate {out}'.*go on with --resume"):
        run_recipe(recipe, out)
    completions = read_records(out / "completions.parquet", Completion)
    assert len(completions) == 5 * 3
    assert not (out / "judgements.parquet").exists()
    said = []
    for prompt_id in dict.fromkeys(completion.prompt_id for completion in completions):
        shown = sorted((c for c in completions if c.prompt_id == prompt_id), key=lambda c: len(c.text))[::2]
        said += [
            Judgement.create(prompt_id, tuple(c.id for c in shown), f"people/{rater}", "choice", value)
            for rater, value in (("r1", 1.0), ("r2", 1.0), ("r3", 0.0))
        ]
    put(out / "people", said)
    before = (out / "completions.parquet").read_bytes()
    run_recipe(recipe, out, resume=True)
    assert (out / "completions.parquet").read_bytes() == before
    assert read_records(out / "judgements.parquet", Judgement) == sorted(
        said, key=lambda j: [p.id for p in read_records(out / "prompts.parquet", Prompt)].index(j.prompt_id)
    )
    pairs = read_records(out / "preferences.parquet", Preference)
    assert pairs
    assert {(p.source, round(p.soft_label, 9)) for p in pairs} == {("majority/people", round(2 / 3, 9))}
    assert (out / "manifest.json").exists()
