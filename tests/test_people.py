"""Human labels read from files, and judges held against them: made data with known answers, and the PandaLM file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from prefloop.cli.agree import agree
from prefloop.errors import DataError, StoreError
from prefloop.evaluation.agreement import LENGTH, agreement
from prefloop.evaluation.agreement_text import agreement_text
from prefloop.evaluation.opinions import judge_opinions, labelled_pairs, length_differences, rater_verdicts
from prefloop.loop.agree import agree_files
from prefloop.maths.agreement import krippendorff_alpha, plurality, same_label
from prefloop.preferences.people import read_people
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.tables import read_records, write_records

PANDALM = (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "preferences" / "pandalm_testset_v1_3annotators.json"
)
real = [pytest.mark.shared_data, pytest.mark.skipif(not PANDALM.is_file(), reason="the real data is not there")]
LABEL = {"prompt": "Why?", "first": "Because.", "second": "No idea.", "rater": "ann", "choice": "first"}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def choice(prompt: str, shown: str, judge: str, value: float | None, **raw: Any) -> Judgement:
    return Judgement.create(prompt, (f"{prompt}{shown[0]}", f"{prompt}{shown[1]}"), judge, "choice", value, raw=raw)


def score(prompt: str, answer: str, value: float | None, **raw: Any) -> Judgement:
    return Judgement.create(prompt, (f"{prompt}{answer}",), "judge", "score", value, raw=raw)


def answers(prompts: list[str], longer: str = "a") -> list[Completion]:
    return [
        Completion(f"{p}{side}", p, 0, 0, "long answer" if side == longer else "short", (), (), "stop", "m", {}, 0)
        for p in prompts
        for side in "ab"
    ]


# Reading labels


def test_one_label_a_row(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    rows = [LABEL, {**LABEL, "rater": 7, "choice": " Tie "}, {**LABEL, "prompt": chat, "choice": "second"}]
    found = read_people(jsonl(tmp_path / "labels.jsonl", *rows))
    assert [(j.judge, j.kind, j.value) for j in found.judgements] == [
        ("people/ann", "choice", 1.0),
        ("people/7", "choice", 0.5),
        ("people/ann", "choice", 0.0),
    ]
    assert [prompt.messages for prompt in found.prompts] == [(chat[1],), tuple(chat)]
    assert {prompt.split for prompt in found.prompts} == {"test"}
    texts = {completion.id: completion.text for completion in found.completions}
    assert [texts[i] for i in found.judgements[0].completion_ids] == ["Because.", "No idea."]
    assert [completion.index for completion in found.completions] == [0, 1, 0, 1]
    assert found.bad == ()


def test_csv_with_commas_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('prompt,first,second,rater,choice\n"Why,\nthen?",one,"two ""2""",ann,second\n', "utf-8-sig")
    found = read_people(path)
    assert found.prompts[0].messages[0]["content"] == "Why,\nthen?"
    assert [c.text for c in found.completions] == ["one", 'two "2"']
    assert found.judgements[0].value == 0
    same = read_people(
        jsonl(
            tmp_path / "labels.jsonl",
            {"prompt": "Why,\nthen?", "first": "one", "second": 'two "2"', "rater": "ann", "choice": "second"},
        )
    )
    assert (found.prompts, found.completions, found.judgements) == (same.prompts, same.completions, same.judgements)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"choice": "A"}, "ann: 'A' is not one of first, second, tie"),
        ({"choice": True}, "ann: 'True' is not one of"),
        ({"choice": 1}, "ann: '1' is not one of"),
        ({"choice": None}, "choice missing"),
        ({"rater": "  "}, "rater is no name"),
        ({"first": True}, "first is not text but bool (True)"),
        ({"second": "Because."}, "both answers are the same"),
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": [{"role": "assistant", "content": "Hi"}]}, "does not end with the user's turn"),
        ({"first": "\ud800"}, "text that is no Unicode"),
        ({"rater": "\ud800"}, "text that is no Unicode"),
    ],
)
def test_bad_labels_are_named_and_leave_nothing_behind(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    found = read_people(jsonl(tmp_path / "labels.jsonl", {**LABEL, **change}, {**LABEL, "rater": "bob"}))
    assert [row.line for row in found.bad] == [1]
    assert reason in found.bad[0].reason
    assert (len(found.prompts), len(found.completions), len(found.judgements)) == (1, 2, 1)
    with pytest.raises(DataError, match="holds no usable label: line 1"):
        read_people(jsonl(tmp_path / "alone.jsonl", {**LABEL, **change}))


def test_a_label_given_twice_counts_once(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "labels.jsonl", LABEL, LABEL, {**LABEL, "choice": "tie"})
    found = read_people(path)
    assert [row.reason for row in found.bad] == [
        "ann: repeats the label of line 1",
        "ann: contradicts the label of line 1",
    ]
    assert [j.value for j in found.judgements] == [1.0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"prompt,first\n\xff\xfe", "is not UTF-8"),
        ("a.csv", b'prompt,first\n"open', "is not readable CSV"),
        ("a.csv", b"prompt,first,second,rater,choice\na,b,c,d,first,more\n", "more cells than the header"),
        ("a.csv", b"", "it is empty"),
        ("a.jsonl", b"{}\n[1]\n\xff\n", "line 1: prompt, first, second, rater, choice missing; line 2: not a JSON"),
        ("a.json", b"{", "is not valid JSON"),
        ("a.txt", b"", "unknown file type"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_people(tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    for name in ("none.csv", "none.jsonl"):
        with pytest.raises(DataError, match=name):
            read_people(tmp_path / name)


def test_pandalm_rows(tmp_path: Path) -> None:
    row = {
        "instruction": "Say it shorter.",
        "input": "a b c",
        "response1": "",
        "response2": "abc",
        "cmp_key": "opt-7b_llama-7b",
        "motivation_app": "Mail",
        "annotator1": 2,
        "annotator2": 0,
        "annotator3": 3,
    }
    other = {**row, "input": "", "cmp_key": "opt-7b", "annotator3": True}
    path = tmp_path / "pandalm.json"
    path.write_text(json.dumps([row, other, {**row, "response1": True}, {"response1": "a", "response2": "b"}]))
    found = read_people(path)
    assert [prompt.messages[0]["content"] for prompt in found.prompts] == [
        "Say it shorter.\n\na b c",
        "Say it shorter.",
    ]
    assert [c.policy for c in found.completions] == ["opt-7b", "llama-7b", "imported", "imported"]
    assert [(j.judge, j.value) for j in found.judgements[:2]] == [
        ("people/annotator1", 0.0),
        ("people/annotator2", 0.5),
    ]
    assert [(bad.line, bad.reason) for bad in found.bad] == [
        (1, "annotator3: '3' is not one of 1, 2, 0"),
        (2, "annotator3: 'True' is not one of 1, 2, 0"),
        (3, "response1 is not text but bool (True)"),
        (4, "instruction is not text but NoneType (None)"),
    ]
    assert found.prompts[0].meta == {"category": "Mail"}


# What a judge says of pairs


def test_a_rater_who_changes_sides_with_the_order_has_a_tie() -> None:
    labels = [
        choice("p", "ab", "people/x", 1.0),
        choice("p", "ba", "people/x", 1.0),
        choice("p", "ba", "people/y", 1.0),
    ]
    pairs = labelled_pairs(labels)
    names, table = rater_verdicts(labels, pairs)
    assert [(pair.first, pair.second) for pair in pairs] == [("pa", "pb")]
    assert names == ["people/x", "people/y"]
    assert table.tolist() == [[0.5], [0.0]]


def test_choices_scores_and_logits_become_verdicts() -> None:
    pairs = labelled_pairs([choice(p, "ab", "people/x", 1.0) for p in "pqrstuv"])
    logits = {"first": {"rb": 2.0}, "second": {"ra": 1.0}}  # each wins where it stands left
    said = [
        choice("p", "ba", "judge", 0.2),
        choice("q", "ab", "judge", 0.6, inconsistent=True),
        score("r", "a", 5.0, logits=logits["first"]),
        score("r", "b", 1.0, logits=logits["second"]),
        score("s", "a", 1.0),
        score("s", "b", 1.0),
        choice("t", "ab", "judge", None),
        score("u", "a", float("nan")),
        score("u", "b", 1.0),
    ]
    found = judge_opinions(said, pairs)
    assert found.verdict_N[:4].tolist() == [1.0, 0.5, 0.5, 0.5]
    assert found.probability_N[:4] == pytest.approx([0.8, 0.6, 1 / (1 + np.exp(-0.5)), 0.5])
    assert np.isnan(found.verdict_N[4:]).all()
    assert (found.unscored, found.not_judged) == (2, 1)


def test_scores_far_apart_do_not_overflow() -> None:
    pairs = labelled_pairs([choice("p", "ab", "people/x", 1.0)])
    found = judge_opinions([score("p", "a", -1e30), score("p", "b", 1e30)], pairs)
    assert (found.verdict_N[0], found.probability_N[0]) == (0, 0)


def test_a_labelled_answer_must_be_there() -> None:
    labels = [choice("p", "ab", "people/x", 1.0)]
    with pytest.raises(DataError, match="pb was labelled"):
        length_differences(labelled_pairs(labels), answers(["p"])[:1])
    with pytest.raises(DataError, match="no choice between two"):
        labelled_pairs([score("p", "a", 1.0)])


# The table


def made(prompts: int, seed: int = 0) -> tuple[list[Judgement], list[Completion], np.ndarray]:
    """Three raters, each right with probability 0.9; answer a is the longer one."""
    rng = np.random.default_rng(seed)
    truth = rng.random(prompts) < 0.6
    names = [f"p{i:03}-" for i in range(prompts)]
    labels = [
        choice(name, "ab", f"people/{rater}", float(truth[i] if rng.random() < 0.9 else not truth[i]))
        for rater in "xyz"
        for i, name in enumerate(names)
    ]
    return labels, answers(names), truth


def test_a_judge_that_repeats_a_verdict_of_people_and_one_that_inverts_it() -> None:
    labels, completions, _ = made(80)
    pairs = labelled_pairs(labels)
    verdict = plurality(rater_verdicts(labels, pairs)[1])
    judges = {
        name: [choice(p.prompt_id, "ab", name, float(v)) for p, v in zip(pairs, values, strict=True)]
        for name, values in (("same", verdict), ("inverse", 1 - verdict))
    }
    found = agreement(labels, completions, judges, draws=200)["judges"]
    assert [found["same"][key]["estimate"] for key in ("accuracy", "kappa")] == [1, 1]
    assert found["same"]["accuracy"]["ci_low"] < 1
    assert found["same"]["alpha"]["estimate"] > found["same"]["alpha_people"]
    assert found["same"]["length"]["difference"]["estimate"] == 0
    assert found["inverse"]["accuracy"]["estimate"] == 0
    assert found["inverse"]["kappa"]["estimate"] < -0.8
    assert found["inverse"]["calibration"]["brier_tempered"]["estimate"] == pytest.approx(
        found["inverse"]["calibration"]["brier_half"], abs=0.01
    )


def test_the_raters_among_themselves() -> None:
    labels, completions, _ = made(300, seed=1)
    found = agreement(labels, completions, {}, draws=200)
    people = found["people"]
    assert people["raters"] == {"people/x": 300, "people/y": 300, "people/z": 300}
    _, table = rater_verdicts(labels, labelled_pairs(labels))
    assert people["alpha"]["estimate"] == krippendorff_alpha(table)
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert people["same"]["estimate"] == pytest.approx(np.mean([same_label(table[a], table[b]) for a, b in pairs]))
    assert people["same"]["ci_low"] < 0.82 < people["same"]["ci_high"]  # .9² + .1²
    # the two others agree and are right: .81 / .82 of what they decide
    assert people["accuracy"]["ci_low"] < (0.81 * 0.9 + 0.01 * 0.1) / 0.82 < people["accuracy"]["ci_high"]
    assert people["unanimous"] == (table == table[0]).all(axis=0).sum()


def test_length_alone_is_as_right_as_people_like_length() -> None:
    labels, completions, _ = made(200)
    found = agreement(labels, completions, {}, draws=200)
    length = found["judges"][LENGTH]
    assert length["accuracy"]["estimate"] == found["people"]["longer_wins"]["estimate"]
    assert length["length"]["judge"]["estimate"] == 1
    assert length["length"]["difference"]["estimate"] == pytest.approx(1 - found["people"]["longer_wins"]["estimate"])
    assert length["calibration"]["brier_tempered"]["estimate"] < length["calibration"]["brier"]["estimate"]


def test_a_judge_that_is_too_sure_is_tempered() -> None:
    labels, completions, truth = made(400, seed=2)
    rng = np.random.default_rng(3)
    said = [
        half
        for i, right in enumerate(truth)
        for side, other in (("a", True), ("b", False))
        for half in [score(f"p{i:03}-", side, 6.0 * ((right == other) if rng.random() < 0.75 else 0.5))]
    ]
    found = agreement(labels, completions, {"judge": said}, draws=200)["judges"]["judge"]
    calibration = found["calibration"]
    assert calibration["temperature"] > 1.5
    assert calibration["brier_tempered"]["estimate"] < calibration["brier"]["estimate"]
    assert calibration["ece_tempered"]["estimate"] < calibration["ece"]["estimate"]


def test_what_a_judge_leaves_out_is_counted_and_not_wrong() -> None:
    labels, completions, truth = made(60)
    said = [choice(f"p{i:03}-", "ab", "judge", float(truth[i]) if i < 20 else None) for i in range(40)]
    found = agreement(labels, completions, {"judge": said}, draws=100)["judges"]["judge"]
    assert (found["judged"], found["unscored"], found["not_judged"]) == (20, 20, 20)
    assert found["accuracy"]["n"] == 20
    assert found["accuracy"]["estimate"] > 0.85
    assert "20 unscored; 20 not judged" in agreement_text(agreement(labels, completions, {"judge": said}, draws=100))


@pytest.mark.filterwarnings("error")
def test_one_rater_one_prompt_only_ties_and_silent_judges() -> None:
    one = [choice("p", "ab", "people/x", 1.0)]
    silent = {"judge": [choice("p", "ab", "judge", None)]}
    found = agreement(one, answers(["p"]), silent, draws=50)
    assert found["people"]["alpha"]["estimate"] is None
    assert found["people"]["accuracy"] == {"estimate": None, "ci_low": None, "ci_high": None, "n": 0}
    assert found["judges"][LENGTH]["accuracy"] == {"estimate": 1.0, "ci_low": None, "ci_high": None, "n": 1}
    assert found["judges"]["judge"]["calibration"] == {}
    assert "–" in agreement_text(found)
    ties = [choice(p, "ab", f"people/{r}", 0.5) for p in "pq" for r in "xy"]
    found = agreement(ties, answers(["p", "q"]), {}, draws=50)
    assert found["people"]["ties"] == 2
    assert found["people"]["alpha"]["estimate"] is None
    assert found["judges"][LENGTH]["accuracy"]["n"] == 0
    agreement_text(found)


def test_the_order_of_judgements_changes_nothing() -> None:
    labels, completions, truth = made(40)
    said = [choice(f"p{i:03}-", "ab", "judge", 0.8 if right else 0.3) for i, right in enumerate(truth)]
    found = agreement(labels, completions, {"judge": said}, draws=100)
    mixed = agreement(labels[::-1], completions[::-1], {"judge": said[::-1]}, draws=100)
    plain, other = (pd.json_normalize(f).iloc[0].to_dict() for f in (found, mixed))
    assert len(plain) > 60
    assert plain == pytest.approx(other, abs=1e-6)


# The command


def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(agree)
    return app


def test_the_command_end_to_end(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Question {i}?", "first": "x" * (5 + i), "second": "y" * 9, "rater": rater, "choice": said}
        for i in range(8)
        for rater, said in (("ann", "first" if i > 4 else "second"), ("bob", "first" if i > 3 else "tie"))
    ]
    labels, records = jsonl(tmp_path / "labels.jsonl", *rows, {}), tmp_path / "labelled"
    shown = CliRunner().invoke(command(), [str(labels), "--records", str(records)])
    assert shown.exit_code == 0, shown.output
    assert "8 pairs of 8 prompts, 2 raters" in shown.output
    assert "1 labels or rows left out" in shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 120
    with pytest.raises(StoreError, match="exists already"):
        agree_files(labels, records=records)

    completions = read_records(records / "completions.parquet", Completion)
    assert len(read_records(records / "prompts.parquet", Prompt)) == 8
    scores = [Judgement.create(c.prompt_id, (c.id,), "mine", "score", float(len(c.text))) for c in completions]
    write_records(tmp_path / "mine.parquet", scores, Judgement)
    args = [str(labels), "--judge", str(tmp_path / "mine.parquet"), "--judge", str(tmp_path / "mine.parquet"), "--json"]
    found = json.loads(CliRunner().invoke(command(), args).stdout)
    assert next(iter(found["judges"])) == "baseline/length"  # keys are sorted
    assert {name.split(" ")[0] for name in found["judges"]} == {"mine", "baseline/length"}
    assert len(found["judges"]) == 3
    assert found["judges"]["mine"]["accuracy"] == found["judges"][LENGTH]["accuracy"]
    assert found["bad"] == [{"line": 17, "reason": "prompt, first, second, rater, choice missing"}]


def test_judgements_of_other_answers_are_refused(tmp_path: Path) -> None:
    write_records(tmp_path / "other.parquet", [score("p", "a", 1.0)], Judgement)
    with pytest.raises(DataError, match="judges none of the labelled answers"):
        agree_files(jsonl(tmp_path / "labels.jsonl", LABEL), [tmp_path / "other.parquet"])


# The real file


@pytest.fixture(scope="module")
def pandalm() -> dict[str, Any]:
    return agree_files(PANDALM)


class TestPandaLM:
    pytestmark = real

    def test_the_published_agreement_of_all_rows(self) -> None:
        """Nominal alpha 0.8642 and 92.0% equal labels over all 999 rows, whatever their texts."""
        rows = json.loads(PANDALM.read_text())
        values = {1: 1.0, 2: 0.0, 0: 0.5}
        table = np.array([[values[row[f"annotator{k}"]] for row in rows] for k in (1, 2, 3)])
        package = pytest.importorskip("krippendorff")
        assert krippendorff_alpha(table) == pytest.approx(
            package.alpha(reliability_data=table, level_of_measurement="nominal")
        )
        assert krippendorff_alpha(table) == pytest.approx(0.8642, abs=5e-5)
        same = [same_label(table[a], table[b]).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
        assert np.mean(same) == pytest.approx(0.9199, abs=5e-5)
        votes = plurality(table)
        assert [(votes == v).sum() for v in (0, 1, 0.5)] == [472, 422, 105]

    def test_rows_whose_answers_are_no_text_are_named(self, pandalm: dict[str, Any]) -> None:
        assert pandalm["bad_rows"] == 6
        assert all("is not text but bool (True)" in row["reason"] for row in pandalm["bad"])
        assert (pandalm["people"]["pairs"], pandalm["people"]["prompts"]) == (993, 170)
        assert set(pandalm["people"]["raters"].values()) == {993}

    def test_the_raters(self, pandalm: dict[str, Any]) -> None:
        people = pandalm["people"]
        assert people["alpha"]["estimate"] == pytest.approx(0.868, abs=0.001)
        assert people["alpha"]["ci_low"] < 0.868 < people["alpha"]["ci_high"]
        assert people["same"]["estimate"] == pytest.approx(0.922, abs=0.001)
        assert people["accuracy"]["estimate"] == pytest.approx(0.967, abs=0.001)

    def test_length_alone(self, pandalm: dict[str, Any]) -> None:
        length = pandalm["judges"][LENGTH]
        assert length["accuracy"]["estimate"] == pytest.approx(0.678, abs=0.002)
        assert length["kappa"]["estimate"] == pytest.approx(0.309, abs=0.002)
        assert pandalm["people"]["longer_wins"]["estimate"] == pytest.approx(0.680, abs=0.002)
