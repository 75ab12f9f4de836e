"""Pairs by hand, drops counted by reason, export that TRL reads, import that names every bad row."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from preference_imports import read_whole

from prefloop.config.recipe import PreferenceConfig
from prefloop.errors import DataError
from prefloop.loop.import_stage import import_file
from prefloop.preferences.build import build_preferences, diagnostics, similarity
from prefloop.preferences.export import export_trl, trl_rows
from prefloop.records import Completion, Judgement, Prompt

PROMPT = Prompt.create(({"role": "user", "content": "q"},), "t", "train")


def answers(
    scores: list[float | None], prompt: Prompt = PROMPT, **changes: object
) -> tuple[list[Completion], list[Judgement]]:
    """Completions ``{id}{i}`` with these scores; `changes` maps an index to other fields."""
    completions, judgements = [], []
    for i, score in enumerate(scores):
        fields = {"text": f"answer {i} " + "x" * i, "finish_reason": "stop", **changes.get(str(i), {})}
        name = f"{prompt.id[:3]}{i}"
        completions.append(
            Completion(
                name,
                prompt.id,
                i,
                0,
                fields["text"],
                tuple(range(i + 1)),
                (0.0,) * (i + 1),
                fields["finish_reason"],
                "p",
                {},
                0,
            )
        )
        judgements.append(Judgement.create(prompt.id, (name,), "j", "score", score))
    return completions, judgements


def pairs(scores: list[float | None], **config: object) -> list[tuple[int, int, float]]:
    completions, judgements = answers(scores)
    built = build_preferences([PROMPT], completions, judgements, PreferenceConfig(**config), seed=1)
    return [(int(p.chosen[3:]), int(p.rejected[3:]), p.weight) for p in built.preferences]


def test_best_worst_goes_inwards_and_shares_the_weight() -> None:
    scores = [0.5, 1.0, 0.0, 0.8, 0.2]
    assert pairs(scores) == [(1, 2, 1.0)]
    assert pairs(scores, pairs_per_prompt=2) == [(1, 2, 0.5), (3, 4, 0.5)]


def test_all_pairs_leaves_ties_out() -> None:
    found = pairs([1.0, 0.5, 0.5], strategy="all-pairs")
    assert found == [(0, 1, 0.5), (0, 2, 0.5)]


def test_best_random_and_worst_of_five_are_seeded_and_choose_the_best() -> None:
    scores = [i / 10 for i in range(10)]
    for strategy in ("best-random", "best-worst-of-5"):
        found = pairs(scores, strategy=strategy)
        assert found == pairs(scores, strategy=strategy)
        assert found[0][0] == 9
    worst = {pairs([s + n / 100 for s in scores], strategy="best-worst-of-5")[0][1] for n in range(1)}
    assert worst <= set(range(5))  # the worst of any five of nine is among the lower five


def test_drops_are_counted_by_reason() -> None:
    prompts, completions, judgements = [], [], []
    cases: list[tuple[str, list[float | None], dict[str, dict[str, str]]]] = [
        ("tie", [1.0, 1.0], {}),
        ("unscored", [None, 1.0, 0.0], {}),
        ("same text", [1.0, 0.0], {"0": {"text": "Same"}, "1": {"text": " same "}}),
        ("cut", [1.0, 0.5], {"0": {"finish_reason": "length"}, "1": {"finish_reason": "length"}}),
        ("empty", [1.0, 0.5, 0.0], {"2": {"text": "  "}}),
        ("TIE", [1.0, 0.0], {}),
    ]
    for text, scores, changes in cases:
        prompt = Prompt.create(({"role": "user", "content": text},), "t", "train")
        prompts.append(prompt)
        some, judged = answers(scores, prompt, **changes)
        completions += some
        judgements += judged
    built = build_preferences(prompts, completions, judgements, PreferenceConfig(), seed=1)
    assert built.drops == {
        "prompts": 6,
        "kept pairs": 2,
        "answer empty": 1,
        "answer repeated": 1,
        "answer unscored": 1,
        "duplicate prompt": 1,
        "prompt with fewer than two distinct answers": 1,
        "prompt with tied answers": 1,
        "prompt without a finished answer": 1,
    }


def test_an_unfinished_answer_is_never_chosen_but_may_be_rejected() -> None:
    completions, judgements = answers(
        [1.0, 0.5, 0.0], **{"0": {"finish_reason": "length"}, "2": {"finish_reason": "length"}}
    )
    built = build_preferences([PROMPT], completions, judgements, PreferenceConfig(), 1)
    assert [(p.chosen[3:], p.rejected[3:]) for p in built.preferences] == [("1", "2")]


def test_margin_and_similarity_rules() -> None:
    prompts = [Prompt.create(({"role": "user", "content": str(i)},), "t", "train") for i in range(4)]
    groups = [answers([1.0, 1.0 - (i + 1) / 10], prompt) for i, prompt in enumerate(prompts)]
    completions, judgements = ([x for g in groups for x in g[side]] for side in (0, 1))
    kept = build_preferences(prompts, completions, judgements, PreferenceConfig(min_margin_quantile=0.5), 1)
    assert [round(p.margin, 3) for p in kept.preferences] == [0.3, 0.4]
    assert kept.drops["margin below the quantile"] == 2
    assert similarity("abcd", "abxd") == 0.75
    none = build_preferences(prompts, completions, judgements, PreferenceConfig(max_similarity=0.5), 1)
    assert none.drops["pair too similar"] == 4


def test_order_of_inputs_changes_nothing() -> None:
    completions, judgements = answers([0.1, 0.9, 0.4, 0.6])
    config = PreferenceConfig(strategy="best-random", pairs_per_prompt=2)
    forward = build_preferences([PROMPT], completions, judgements, config, 1)
    backward = build_preferences([PROMPT], completions[::-1], judgements[::-1], config, 1)
    assert forward == backward


def test_diagnostics_by_hand() -> None:
    completions, judgements = answers([0.0, 0.5, 1.0])  # tokens 1, 2, 3: score and length agree
    built = build_preferences([PROMPT], completions, judgements, PreferenceConfig(), 1)
    found = diagnostics(built.preferences, completions, judgements)
    assert found == {
        "pairs": 1,
        "chosen_longer": 1.0,
        "token_ratio": 3.0,
        "margin_mean": 1.0,
        "score_length_correlation": pytest.approx(1.0),
    }


def test_export_is_trl_format_in_both_files(tmp_path: Path) -> None:
    completions, judgements = answers([0.0, 1.0])
    built = build_preferences([PROMPT], completions, judgements, PreferenceConfig(), 1)
    rows = trl_rows(built.preferences, {PROMPT.id: PROMPT}, {c.id: c for c in completions})
    card = {
        "name": "n",
        "policy": "p",
        "judge": "j",
        "strategy": "s",
        "recipe": "r",
        "origin": "From a shop.",
        "diagnostics": {"a": 0.5},
        "drops": {"b": 1},
    }
    export_trl(tmp_path, rows, card)
    lines = [json.loads(line) for line in (tmp_path / "preferences.jsonl").read_text().splitlines()]
    assert lines == pq.read_table(tmp_path / "preferences.parquet").to_pylist() == rows
    assert lines[0]["prompt"] == [{"role": "user", "content": "q"}]
    assert lines[0]["chosen"] == [{"role": "assistant", "content": "answer 1 x"}]
    assert "From a shop." in (tmp_path / "README.md").read_text()
    assert "{" not in (tmp_path / "README.md").read_text().split("data_files")[1].split("\n", 1)[1]


def test_trl_accepts_the_exported_rows(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    completions, judgements = answers([0.0, 1.0])
    built = build_preferences([PROMPT], completions, judgements, PreferenceConfig(), 1)
    row = trl_rows(built.preferences, {PROMPT.id: PROMPT}, {c.id: c for c in completions})[0]
    example = {key: row[key] for key in ("prompt", "chosen", "rejected")}
    assert trl.is_conversational(example)


ROWS = [
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, ""),
    ({"chosen": [{"role": "user", "content": "q2"}, {"role": "assistant", "content": "a"}],
      "rejected": [{"role": "user", "content": "q2"}, {"role": "assistant", "content": "b"}]}, ""),
    ({"instruction": "q3", "completions": [
        {"response": "good", "annotations": {"helpfulness": {"Rating": "5"}, "honesty": {"Rating": "N/A"}}},
        {"response": "bad", "annotations": {"helpfulness": {"Rating": "2"}}, "overall_score": 10}]}, ""),
    ({"instruction": "q4", "generations": ["x", "y", "z"], "ratings": [1, 3, 2]}, ""),
    ({"prompt": "q", "chosen": "a"}, "neither chosen/rejected nor"),
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "are the same"),
    ({"prompt": "q", "chosen": "a", "rejected": " "}, "rejected is empty"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2}, "tie"),
    ({"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
      "rejected": [{"role": "user", "content": "other"}, {"role": "assistant", "content": "b"}]}, "different prompts"),
    ({"instruction": "q", "completions": [{"response": "only one", "overall_score": 3}]}, "fewer than two"),
    (["no", "object"], "not a JSON object"),
]  # fmt: skip


def test_import_reads_three_layouts_and_names_every_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps(row) for row, _ in ROWS) + "\n{cut")
    found = read_whole(path)
    texts = {c.id: c.text for c in found.completions}
    assert [(texts[p.chosen], texts[p.rejected]) for p in found.preferences] == [
        ("a", "b"),
        ("a", "b"),
        ("good", "bad"),
        ("y", "x"),
    ]
    expected = [(i, reason) for i, (_, reason) in enumerate(ROWS, 1) if reason] + [(len(ROWS) + 1, "not a JSON object")]
    assert [row.line for row in found.bad] == [line for line, _ in expected]
    for row, (_, reason) in zip(found.bad, expected, strict=True):
        assert reason in row.reason


@pytest.mark.parametrize(("name", "content", "message"), [
    ("gone.jsonl", None, "does not exist"),
    ("x.csv", b"a,b", "unknown file type"),
    ("x.jsonl", b"", "it is empty"),
    ("x.jsonl", b"\xff\xfe\n", "is UTF-16: save it as UTF-8"),
    ("x.json", b"[1", "not valid JSON"),
    ("x.parquet", b"no", "not a readable Parquet"),
])  # fmt: skip
def test_unusable_files_are_one_clear_error(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        import_file(tmp_path / name, tmp_path / "set")
    assert {p.name for p in tmp_path.iterdir()} <= {name}


TURNS = [
    {"role": "user", "content": "Q1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": "Q2"},
]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Q1", "chosen": "a", "rejected": "b"}, [("user", "Q1")]),
        (
            {
                "prompt": "Q1",
                "chosen": [*TURNS, {"role": "assistant", "content": "a"}],
                "rejected": [*TURNS, {"role": "assistant", "content": "b"}],
            },
            [("user", "Q1"), ("assistant", "A1"), ("user", "Q2")],
        ),
        (
            {
                "system": "Be brief.",
                "conversations": [{"from": "human", "value": "Q1"}],
                "chosen": {"from": "gpt", "value": "a"},
                "rejected": {"from": "gpt", "value": "b"},
            },
            [("system", "Be brief."), ("user", "Q1")],
        ),
    ],
)
def test_the_whole_conversation_is_the_prompt(row: dict, prompt: list, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    found = read_whole(tmp_path / "p.jsonl")
    assert [(m["role"], m["content"]) for m in found.prompts[0].messages] == prompt
    assert {c.text for c in found.completions} == {"a", "b"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": NaN}', "a score of nan"),
        ('{"prompt": "q", "responses": ["a", "b"], "ratings": [1, Infinity]}', "a score of inf"),
        ('{"prompt": "q", "completions": [{"response": "a", "annotations": "x"}, {"response": "b"}]}', "known layout"),
        ('{"prompt": "q \\ud800", "chosen": "a", "rejected": "b"}', "known layout"),
        ('{"prompt": "other", "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], '
         '"rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]}', "not the beginning"),
    ],
)  # fmt: skip
def test_a_bad_row_never_costs_the_others(row: str, reason: str, tmp_path: Path) -> None:
    good = '{"prompt": "fine", "chosen": "a", "rejected": "b"}'
    (tmp_path / "p.jsonl").write_text(f"{row}\n{good}\n{good}\n")
    found = read_whole(tmp_path / "p.jsonl")
    assert [bad.line for bad in found.bad] == [1, 3]
    assert reason in found.bad[0].reason
    assert found.bad[1].reason == "says the same as line 2"


def test_every_prompt_weighs_one_after_all_rules() -> None:
    """Three pairs of one prompt, of which the margin rule drops the smallest: the two left weigh a half each."""
    scores = [1.0, 0.9, 0.8, 0.35, 0.1, 0.0]
    found = pairs(scores, pairs_per_prompt=3, min_margin_quantile=0.34)
    assert [(a, b) for a, b, _ in found] == [(0, 5), (1, 4)]
    assert [weight for *_, weight in found] == [0.5, 0.5]


def test_a_random_rejected_answer_never_costs_a_pair() -> None:
    """The second best may have been drawn as rejected; then the third is asked, not nobody."""
    completions, judgements = answers([1.0, 0.8, 0.6, 0.4, 0.2])
    config = PreferenceConfig(strategy="best-random", pairs_per_prompt=2)
    for seed in range(60):
        built = build_preferences([PROMPT], completions, judgements, config, seed=seed)
        assert len(built.preferences) == 2, seed
