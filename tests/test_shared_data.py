"""Real files, where they lie beside the checkout (`../shared/data`): preference sets, text-to-SQL golds, questions."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from preference_imports import read_whole

from prefloop.config.recipe import load_recipe
from prefloop.errors import DataError
from prefloop.loop.import_stage import import_file
from prefloop.sql.canonical import canonical_sql
from prefloop.sql.compare import ComparisonSpec, compare
from prefloop.sql.pool import SandboxPool
from prefloop.sql.snapshot import snapshot

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real data does not lie beside the checkout (../shared/data)"),
]


def test_a_pair_file_of_llama_factory_is_read_whole() -> None:
    path = DATA / "preferences" / "llamafactory_dpo_en_demo.json"
    rows = json.loads(path.read_text())
    found = read_whole(path)
    assert len(found.preferences) == len({json.dumps(row, sort_keys=True) for row in rows}) == 295
    assert len(found.bad) == 5
    assert all(row.reason.startswith("says the same as line") for row in found.bad)
    prompts = {prompt.id: prompt for prompt in found.prompts}
    texts = {completion.id: completion.text for completion in found.completions}
    first = found.preferences[0]
    assert prompts[first.prompt_id].messages == ({"role": "user", "content": rows[0]["conversations"][0]["value"]},)
    assert texts[first.chosen] == rows[0]["chosen"]["value"]
    assert texts[first.rejected] == rows[0]["rejected"]["value"]
    asked = {len(row["conversations"]) for row in rows}
    assert {len(prompt.messages) for prompt in found.prompts} == asked == {1, 2, 3, 5, 7, 9, 13}


def test_human_labels_become_pairs_and_answers_that_are_no_text_are_named(tmp_path: Path) -> None:
    rows = json.loads((DATA / "preferences" / "pandalm_testset_v1_3annotators.json").read_text())
    with pytest.raises(DataError, match="line 1: neither chosen/rejected nor a list"):
        import_file(DATA / "preferences" / "pandalm_testset_v1_3annotators.json", tmp_path / "set")
    trl = tmp_path / "trl.jsonl"
    trl.write_text("".join(json.dumps(_majority_pair(row)) + "\n" for row in rows))
    found = read_whole(trl)
    reasons = [row.reason for row in found.bad]
    assert len(found.preferences) + len(found.bad) == 999
    assert sum("neither text" in reason for reason in reasons) == 6
    assert sum("tie" in reason for reason in reasons) == 103  # and two more that lack an answer
    assert sum("is missing" in reason for reason in reasons) == 54
    assert sum("says the same" in reason for reason in reasons) == 999 - len(found.preferences) - 6 - 103 - 54


def _majority_pair(row: dict[str, Any]) -> dict[str, Any]:
    """The response most annotators preferred as chosen; a tie keeps equal scores."""
    votes = [row[f"annotator{i}"] for i in (1, 2, 3)]
    winner = max((0, 1, 2), key=votes.count)
    chosen, rejected = (2, 1) if winner == 2 else (1, 2)
    return {
        "prompt": f"{row['instruction']}\n\n{row['input']}".strip(),
        "chosen": row[f"response{chosen}"],
        "rejected": row[f"response{rejected}"],
        "score_chosen": float(winner != 0),
        "score_rejected": 0.0,
    }


def test_spider_golds_run_in_the_sandbox_and_keep_their_meaning_in_canonical_form(tmp_path: Path) -> None:
    questions = json.loads((DATA / "sql" / "spider_dk" / "Spider-DK.json").read_text())
    sources = sorted((DATA / "sql" / "spider_dk").glob("*.sqlite"))
    names = [source.stem for source in sources]
    golds = [(names.index(q["db_id"]), q["query"]) for q in questions if q["db_id"] in names]
    assert len(golds) == 127
    with SandboxPool([snapshot(source, tmp_path) for source in sources], 2) as pool:
        results = pool.run(golds)
        failed = [sql for (_, sql), result in zip(golds, results, strict=True) if result.status != "ok"]
        assert len(failed) == 1
        assert "T1.LName  T1.age" in failed[0]
        ran = [(gold, result) for gold, result in zip(golds, results, strict=True) if result.status == "ok"]
        texts = [(database, canonical_sql(sql) or sql) for (database, sql), _ in ran]
        for ((_, sql), result), again in zip(ran, pool.run(texts), strict=True):
            assert compare(result.rows, again.rows, ComparisonSpec(may_be_empty=True)).equal, sql
    for (database, sql), result in ran:
        with closing(sqlite3.connect(sources[database])) as plain:
            assert list(result.rows) == plain.execute(sql).fetchall()


def test_roster_golds_agree_with_plain_sqlite(tmp_path: Path) -> None:
    folder = DATA / "nba" / "llama-cookbook"
    golds = [
        json.loads(line)["sql"]
        for name in ("gold-test-set.jsonl", "gold-test-set-v2.jsonl")
        for line in (folder / name).read_text().splitlines()
    ]
    assert len(golds) == 60
    with SandboxPool([snapshot(folder / "nba_roster.db", tmp_path)], 2) as pool:
        results = pool.run([(0, sql) for sql in golds])
    with closing(sqlite3.connect(folder / "nba_roster.db")) as plain:
        for sql, result in zip(golds, results, strict=True):
            assert result.status == "ok", (sql, result)
            assert list(result.rows) == plain.execute(sql).fetchall()


def test_real_questions_pass_the_embedded_tokenizer_unchanged() -> None:
    from prefloop.models.load import load_policy
    from prefloop.models.template import encode_prompt

    lines = (DATA / "nba" / "questions.txt").read_text().splitlines()
    questions = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    assert len(questions) == 213
    policy = load_policy(load_recipe("nba-sql").policy.model)
    for question in questions:
        ids = encode_prompt(policy.tokenizer, [{"role": "user", "content": question}])
        assert question in policy.tokenizer.decode(ids), question
        assert len(ids) < 256
