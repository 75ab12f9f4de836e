"""Published question sets as tasks: each layout by hand, the comparison rules, and real sets with their known flaws."""

from __future__ import annotations

import csv
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from shop import build_shop

from prefloop.errors import DataError
from prefloop.sql.compare import ComparisonSpec, compare
from prefloop.tasks.database.audit.report import summary
from prefloop.tasks.database.folder import read_task
from prefloop.tasks.database.imports.layouts import MOST_EXPANDED, expanded, read_layout, statements
from prefloop.tasks.database.imports.questions import task_from_questions
from prefloop.tasks.database.specs import infer, shape, skeleton

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
real = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real data does not lie beside the checkout (../shared/data)"),
]


def rows_of(task: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (task / "questions.jsonl").read_text().splitlines()]


RULES = [
    # question, gold, comparison, what it is compared with
    ("List the titles.", "SELECT title FROM p ORDER BY price", {}, None),
    (
        "List title and price sorted by price.",
        "SELECT title, price FROM p ORDER BY price",
        {"order": "keys", "order_keys": [1]},
        None,
    ),
    (
        "List the titles from the most expensive to the cheapest, in order of price.",
        "SELECT title FROM p ORDER BY price DESC",
        {"order": "keys", "order_keys": [1], "optional": [1]},
        "SELECT title, price FROM p ORDER BY price DESC",
    ),
    (
        "What is the cheapest product?",
        "SELECT title FROM p ORDER BY price LIMIT 1",
        {"top_k": 1, "order_keys": [1], "optional": [1], "descending": False},
        "SELECT title, price FROM p ORDER BY price LIMIT 1000",
    ),
    (
        "Which category has most products?",
        "SELECT category FROM p GROUP BY category ORDER BY COUNT(*) DESC LIMIT 1",
        {"top_k": 1, "order_keys": [1], "optional": [1]},
        "SELECT category, COUNT(*) FROM p GROUP BY category ORDER BY COUNT(*) DESC LIMIT 1000",
    ),
    (
        "Top 3 by count",
        "SELECT category, COUNT(*) AS n FROM p GROUP BY category ORDER BY n DESC LIMIT 3",
        {"top_k": 3, "order_keys": [1]},
        "SELECT category, COUNT(*) AS n FROM p GROUP BY category ORDER BY n DESC LIMIT 1000",
    ),
    ("Second cheapest?", "SELECT title FROM p ORDER BY price LIMIT 1 OFFSET 1", {}, None),
    ("Which different ones come first?", "SELECT DISTINCT a FROM p ORDER BY b LIMIT 3", {}, None),
    ("Which come first?", "SELECT * FROM p ORDER BY b LIMIT 3", {}, None),
    ("Cheapest, then largest stock?", "SELECT t FROM p ORDER BY price, stock DESC LIMIT 1", {}, None),
    ("Average to two decimal places?", "SELECT AVG(price) FROM p", {"decimals": 2}, None),
    ("Is the border ordered?", "SELECT a FROM p WHERE x = 'ORDER BY'", {}, None),
]


@pytest.mark.parametrize(("question", "gold", "comparison", "compared"), RULES, ids=range(len(RULES)))
def test_the_rules_of_comparison(question: str, gold: str, comparison: dict[str, Any], compared: str | None) -> None:
    found = infer(question, gold, "sqlite", {})
    assert found.comparison == comparison
    assert found.compare_sql == compared


def test_what_a_layout_says_is_not_overruled() -> None:
    gold = "SELECT title, price FROM p ORDER BY price"
    asked = "List title and price sorted by price."
    assert infer(asked, gold, "sqlite", {"distinct": True}, ordered=False).comparison == {"distinct": True}
    assert infer(asked, gold, "sqlite", {"order": "strict"}).comparison == {"order": "strict"}


def test_an_order_whose_key_is_not_shown_still_counts() -> None:
    spec = ComparisonSpec.from_dict({"order": "keys", "order_keys": [1], "optional": [1]})
    gold = [("a", 1), ("b", 2), ("c", 2), ("d", 3)]
    for predicted, equal in [
        ([("a",), ("b",), ("c",), ("d",)], True),
        ([("a",), ("c",), ("b",), ("d",)], True),  # b and c tie
        ([("a",), ("b",), ("d",), ("c",)], False),
        ([(1, "a"), (2, "c"), (2, "b"), (3, "d")], True),
        ([(3, "d"), (2, "c"), (2, "b"), (1, "a")], False),
    ]:
        assert compare(gold, predicted, spec).equal is equal, predicted


def test_a_forbidden_column_is_not_taken_for_an_optional_one() -> None:
    spec = ComparisonSpec.from_dict({"extra_columns": "forbid", "optional": [1]})
    gold = [("a", 1), ("b", 2)]
    assert compare(gold, [("a",), ("b",)], spec).equal
    assert compare(gold, [("a", 1), ("b", 2)], spec).equal
    assert not compare(gold, [("a", 7), ("b", 8)], spec).equal


def test_shapes_and_skeletons() -> None:
    shapes = {
        "SELECT a FROM t": "list",
        "SELECT MAX(a) FROM t": "aggregate",
        "SELECT a FROM t ORDER BY b LIMIT 1": "top",
        "SELECT a, COUNT(*) FROM t GROUP BY a": "group",
        "SELECT a FROM t JOIN u ON t.x = u.x GROUP BY a": "join",
        "SELECT a FROM t WHERE b > (SELECT AVG(b) FROM t)": "nested",
        "SELECT a FROM t UNION SELECT a FROM u": "nested",
        "SELEC": "other",
    }
    assert {sql: shape(sql, "sqlite") for sql in shapes} == shapes
    assert skeleton("SELECT a FROM t WHERE b = 'x'", "sqlite") == skeleton("select A from T where B = 'y'", "sqlite")
    assert skeleton("SELECT a FROM t WHERE b = 1", "sqlite") != skeleton("SELECT a FROM t WHERE c = 1", "sqlite")


def test_spider(tmp_path: Path) -> None:
    (tmp_path / "database/shop").mkdir(parents=True)
    build_shop(tmp_path / "database/shop/shop.sqlite")
    train = [
        {"db_id": "shop", "query": "SELECT count(*) FROM products", "question": "How many products?"},
        {"db_id": "shop", "query": "SELECT title FROM products ORDER BY price LIMIT 1;", "question": "The cheapest?"},
        {"db_id": "gone", "query": "SELECT 1", "question": "Nowhere?"},
        {"db_id": "../shop", "query": "SELECT 1", "question": "Out of the folder?"},
        {"db_id": "shop", "question": "No query?"},
        {"db_id": "shop", "query": "SELECT title FROM products WHERE", "question": "Broken?"},
    ]
    dev = [{"db_id": "shop", "query": "SELECT category FROM products", "question": "All categories?"}]
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "dev.json").write_text(json.dumps(dev))
    found = task_from_questions(
        tmp_path / "train.json", tmp_path / "database", tmp_path / "t", test=tmp_path / "dev.json", workers=1
    )
    assert found["made"]["layout"] == "spider"
    assert [(row["place"], row["reason"]) for row in found["made"]["bad"]] == [
        ("train.json, entry 5", "query is missing"),
        ("train.json, entry 3", f"database gone is not in {tmp_path / 'database'}"),
        ("train.json, entry 4", "database name '../shop' is no name"),
    ]
    assert found["accepted"] == {"train": 2, "test": 1}
    (rejected,) = found["rejected"]
    assert (rejected["line"], rejected["reason"]) == (3, "gold does not run")
    first, cheapest, *_ = rows_of(tmp_path / "t")
    assert first["comparison"] == {"extra_columns": "forbid"}
    assert cheapest["comparison"] == {
        "extra_columns": "forbid",
        "top_k": 1,
        "order_keys": [1],
        "optional": [1],
        "descending": False,
    }
    assert "SHA-256" in (tmp_path / "t/task.yaml").read_text()


def test_bird(tmp_path: Path) -> None:
    shop = build_shop(tmp_path / "shop.sqlite")
    rows = [
        {
            "question_id": i,
            "db_id": "shop",
            "question": f"{question} ({i})",
            "evidence": "kitchen is category 'kitchen'",
            "SQL": sql,
            "difficulty": difficulty,
        }
        for i, (question, sql, difficulty) in enumerate(
            [
                ("List the categories sorted by name", "SELECT category FROM products ORDER BY category", "simple"),
                ("How many kitchen products", "SELECT COUNT(*) FROM products WHERE category = 'kitchen'", "moderate"),
            ]
        )
    ]
    (tmp_path / "dev.json").write_text(json.dumps(rows))
    found = task_from_questions(tmp_path / "dev.json", shop, tmp_path / "t", workers=1)
    assert found["made"]["layout"] == "bird"
    sets, count = rows_of(tmp_path / "t")
    assert sets["comparison"] == {"extra_columns": "forbid", "distinct": True}  # BIRD never compares the order
    assert sets["note"] == count["note"] == "kitchen is category 'kitchen'"
    assert found["families"] == {"moderate": 1, "simple": 1}


def test_defog(tmp_path: Path) -> None:
    shop = build_shop(tmp_path / "shop.sqlite")
    rows = [
        {
            "db_name": "shop",
            "query_category": "group_by",
            "question": "How many products in each category?",
            "query": "SELECT {category, UPPER(category) AS big}, COUNT(*) FROM products GROUP BY {};"
            "SELECT COUNT(1), category FROM products WHERE title <> 'a;b' GROUP BY 2",
            "instructions": "categories are lower case",
        },
        {"db_name": "shop", "query_category": "x", "question": "Too many?", "query": "SELECT {a,b,c,d,e,f,g} FROM p"},
        {"db_name": "shop", "query_category": "x", "question": "", "query": "SELECT 1"},
        {"db_name": "shop", "query_category": "list", "question": "All titles?", "query": "SELECT title FROM products"},
    ]
    with (tmp_path / "questions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    found = task_from_questions(tmp_path / "questions.csv", shop, tmp_path / "t", workers=1)
    assert found["made"]["layout"] == "defog"
    assert [row["reason"] for row in found["made"]["bad"]] == [
        "its column sets stand for 65 golds, more than 64",
        "question is empty",
    ]
    grouped, _ = sorted(rows_of(tmp_path / "t"), key=lambda row: row["family"])
    golds = [grouped["sql"], *(other["sql"] for other in grouped["alternatives"])]
    assert golds == [
        "SELECT category, COUNT(*) FROM products GROUP BY category",
        "SELECT UPPER(category) AS big, COUNT(*) FROM products GROUP BY UPPER(category)",
        "SELECT category, UPPER(category) AS big, COUNT(*) FROM products GROUP BY category, UPPER(category)",
        "SELECT COUNT(1), category FROM products WHERE title <> 'a;b' GROUP BY 2",
    ]
    assert grouped["comparison"] == {"distinct": True}
    assert grouped["note"] == "categories are lower case"
    assert found["rejected"] == []
    assert found["doubts"] == []


def test_the_parts_of_a_defog_query() -> None:
    assert statements("SELECT ';', \";\" ; ; SELECT 2") == ["SELECT ';', \";\"", "SELECT 2"]
    assert expanded("SELECT a FROM t") == ["SELECT a FROM t"]
    assert expanded("SELECT {a} , {b, c} FROM t") == [
        "SELECT a , b FROM t",
        "SELECT a , c FROM t",
        "SELECT a , b, c FROM t",
    ]
    assert expanded("SELECT {ROUND(a, 2), b} FROM t")[0] == "SELECT ROUND(a, 2) FROM t"
    many = "SELECT {" + ", ".join(f"c{i}" for i in range(30)) + "} FROM t"
    assert len(expanded(many)) == MOST_EXPANDED + 1  # and no further


def test_geoquery(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "geography.sqlite")) as connection:
        connection.execute("CREATE TABLE CITY (CITY_NAME TEXT, STATE_NAME TEXT, POPULATION INTEGER)")
        rows = [("phoenix", "arizona", 789704), ("tucson", "arizona", 330537), ("o'fallon", "missouri", 8677)]
        connection.executemany("INSERT INTO CITY VALUES (?, ?, ?)", rows)
        connection.commit()
    entries = [
        {
            "comments": [],
            "query-split": "train",
            "sentences": [
                {
                    "question-split": "train",
                    "text": "biggest city in state_name0",
                    "variables": {"state_name0": "arizona"},
                },
                {
                    "question-split": "test",
                    "text": "largest town of state_name0",
                    "variables": {"state_name0": "missouri"},
                },
                {"question-split": "test", "variables": {}},
                {"question-split": "test", "text": "biggest city", "variables": ["state_name0"]},
            ],
            "sql": [
                "SELECT CITYalias0.CITY_NAME FROM CITY AS CITYalias0 WHERE CITYalias0.POPULATION = ( SELECT MAX( "
                'CITYalias1.POPULATION ) FROM CITY AS CITYalias1 WHERE CITYalias1.STATE_NAME = "state_name0" ) AND '
                'CITYalias0.STATE_NAME = "state_name0" ;',
                'SELECT CITY_NAME FROM CITY WHERE STATE_NAME = "state_name0" ORDER BY POPULATION DESC LIMIT 1 ;',
            ],
            "variables": [{"example": "arizona", "location": "both", "name": "state_name0", "type": "state"}],
        },
        {
            "query-split": "test",
            "sentences": [{"text": "how many people live in city_name0", "variables": {"city_name0": "o'fallon"}}],
            "sql": ['SELECT POPULATION FROM CITY WHERE CITY_NAME = "city_name0" AND POPULATION > low0 ;'],
            "variables": [{"example": "1000", "location": "sql-only", "name": "low0"}],
        },
        {"query-split": "train", "sentences": [], "sql": "SELECT 1"},
        {"query-split": "train", "sentences": [], "sql": ["SELECT 1"], "variables": 1},
    ]
    (tmp_path / "geography.json").write_text(json.dumps(entries))
    found = task_from_questions(tmp_path / "geography.json", tmp_path / "geography.sqlite", tmp_path / "t", workers=1)
    assert found["made"]["layout"] == "geoquery"
    assert [row["reason"] for row in found["made"]["bad"]] == [
        "no text",
        "variables is no object",
        "sql is no list of queries",
        "variables is no list",
    ]
    biggest, town, people = rows_of(tmp_path / "t")
    assert (biggest["question"], biggest["split"]) == ("biggest city in arizona", "train")
    assert biggest["sql"].endswith("AND CITYalias0.STATE_NAME = 'arizona'")
    assert "missouri" in town["sql"]
    assert "arizona" not in town["sql"]
    assert biggest["template"] == town["template"] == "entry 1"
    assert people["sql"] == "SELECT POPULATION FROM CITY WHERE CITY_NAME = 'o''fallon' AND POPULATION > 1000"
    assert people["split"] == "test"
    (other,) = biggest["alternatives"]
    assert other["comparison"] == {"distinct": True, "top_k": 1, "order_keys": [1], "optional": [1]}
    assert found["accepted"] == {"train": 2, "test": 1}


def test_json_lines_keep_their_own_comparison_and_split(tmp_path: Path) -> None:
    shop = build_shop(tmp_path / "shop.sqlite")
    lines = [
        '{"question": "Titles?", "sql": "SELECT title FROM products", "comparison": {"order": "strict"}, "split": "dev"}',
        '{"question": "Orders?", "sql": "SELECT COUNT(*) FROM orders;", "answer": 200, "split": "train"}',
        '{"question": "Bad?", "sql": "SELECT 1", "comparison": {"ordr": 1}, "split": "train"}',
        "{not json",
        '["a list"]',
        "",
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    found = task_from_questions(tmp_path / "own.jsonl", shop, tmp_path / "t", workers=1)
    assert found["accepted"] == {"train": 1, "test": 1}
    titles, orders = rows_of(tmp_path / "t")
    assert titles["comparison"] == {"order": "strict"}
    assert orders["answer"] == "200"
    assert orders["source"] == "own.jsonl, line 2"
    assert sorted(row["place"] for row in found["made"]["bad"]) == [f"own.jsonl, line {n}" for n in (3, 4, 5)]


def test_a_task_s_own_questions_come_back_whole(tmp_path: Path) -> None:
    shop = build_shop(tmp_path / "shop.sqlite")
    counted, ranking = "SELECT COUNT(*) FROM orders", "SELECT title, price FROM products ORDER BY price DESC LIMIT"
    own = [
        {
            "question": "How many orders?",
            "sql": counted,
            "split": "train",
            "alternatives": [{"sql": "SELECT SUM(1) FROM orders", "comparison": {"distinct": True}}],
            "template": "counting",
            "family": "count",
            "wording": "full",
            "note": "all of them",
        },
        {
            "question": "Dearest?",
            "sql": f"{ranking} 1",
            "split": "test",
            "comparison": {"top_k": 1, "order_keys": [1], "optional": [1]},
            "compare_sql": f"{ranking} 5",
            "family": "top",
        },
        {"question": "Fax of Ada?", "sql": None, "split": "test", "lacks": "faxes", "family": "unanswerable"},
    ]
    bad = [
        {"question": "Q1?", "sql": None, "split": "train"},
        {"question": "Q2?", "sql": counted, "split": "train", "lacks": "faxes"},
        {"question": "Q3?", "sql": counted, "split": "train", "alternatives": [{"query": counted}]},
        {"question": "Q4?", "split": "train"},
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*own, *bad]))
    found = task_from_questions(tmp_path / "questions.jsonl", shop, tmp_path / "t", workers=1)
    assert [{k: v for k, v in row.items() if k != "source"} for row in rows_of(tmp_path / "t")] == own
    assert found["accepted"] == {"train": 1, "test": 2}
    reasons = {row["place"][-1]: row["reason"] for row in found["made"]["bad"]}
    assert reasons.keys() == {*"4567"}
    assert "say in lacks" in reasons["4"]
    assert "remove either" in reasons["5"]
    assert reasons["6"] == "alternatives: sql: Field required"
    assert reasons["7"] == "sql is missing"


def test_a_set_of_which_nothing_can_be_asked_makes_no_task(tmp_path: Path) -> None:
    shop = build_shop(tmp_path / "shop.sqlite")
    (tmp_path / "q.jsonl").write_text('{"question": "Any?", "sql": "SELECT nothing FROM products"}\n')
    with pytest.raises(DataError, match=r"no question of .*q\.jsonl passes the audit: 1 .* gold does not run"):
        task_from_questions(tmp_path / "q.jsonl", shop, tmp_path / "t", workers=1)
    assert {path.name for path in tmp_path.iterdir()} == {"shop.sqlite", "q.jsonl"}


def test_into_the_folder_one_stands_in_and_a_split_without_questions_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, here = build_shop(tmp_path / "shop.sqlite"), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (tmp_path / "q.jsonl").write_text('{"question": "How many?", "sql": "SELECT COUNT(*) FROM orders", "split": "dev"}')
    found = task_from_questions(tmp_path / "q.jsonl", shop, Path(), workers=1)
    assert "no training questions: a run needs both" in summary(found, Path())
    assert "no test questions" not in summary(found, Path())
    assert {"task.yaml", "audit.json", "databases"} < {path.name for path in Path().iterdir()}  # the same folder still
    assert read_task(Path()).file.name == "here"
    assert {path.name for path in tmp_path.iterdir()} == {"shop.sqlite", "q.jsonl", "here"}


def test_without_a_split_whole_templates_go_to_the_test(tmp_path: Path) -> None:
    shop = build_shop(tmp_path / "shop.sqlite")
    columns = ["title", "category", "price", "stock", "id"]
    lines = [
        json.dumps({"question": f"{column} over {i}?", "sql": f"SELECT {column} FROM products WHERE stock > {i}"})
        for column in columns
        for i in (0, 20, 40, 60)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    found = task_from_questions(tmp_path / "own.jsonl", shop, tmp_path / "a", workers=1)
    assert found["accepted"] == {"train": 12, "test": 8}  # 30% of 20 is 6: two templates of four
    assert found["templates"] == {"train": 3, "test": 2, "unseen_questions": 8}
    task_from_questions(tmp_path / "own.jsonl", shop, tmp_path / "b", workers=1)
    assert (tmp_path / "a/questions.jsonl").read_bytes() == (tmp_path / "b/questions.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", b"[]", "is empty"),
        ("x.json", b"{}", "holds no list"),
        ("x.json", b"[", "no valid JSON"),
        ("x.json", b'[{"text": "a"}]', "of no known layout .its first entry has text."),
        ("x.jsonl", b"nonsense", "of no known layout"),
        ("x.csv", b'db_name,question,query\n"a', "no valid CSV"),
        ("x.json", '[{"question": "\xe4"}]'.encode("latin-1"), "is not UTF-8"),
        ("gone.json", None, "does not exist"),
    ],
)
def test_files_that_are_no_question_set(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_layout(tmp_path / name)
    assert name in str(error.value)


class TestRealSets:
    pytestmark = real

    def test_spider_dk(self, tmp_path: Path) -> None:
        """126 of the 127 golds on the three databases that are here execute; one lacks a comma."""
        folder = DATA / "sql" / "spider_dk"
        found = task_from_questions(folder / "Spider-DK.json", folder, tmp_path / "t", workers=2)
        assert found["questions"] == 127
        assert len(found["made"]["bad"]) == 535 - 127
        broken = [row for row in found["rejected"] if row["reason"] == "gold does not run"]
        assert [row["question"] for row in broken] == [
            "What are the different names and ages of the students who do have pets?"
        ]
        reasons = {row["reason"] for row in found["rejected"]}
        assert reasons == {
            "gold does not run",
            "gold is empty",
            "another question's query gives the same result",
        }
        assert found["databases"]["new_pets_1"]["tables"] == {"Has_Pet": 3, "Pets": 3, "Student": 34}
        # tables of 3 to 34 rows: how many singers, and how many concerts since 2014
        assert found["collisions"] == {"pairs": 4, "groups": [[1, 21, 44], [54, 56]], "left_out": 10}
        assert found["small_integers"] >= 10

    def test_the_flaws_of_llama_cookbook_s_roster_show(self, tmp_path: Path) -> None:
        folder = DATA / "nba" / "llama-cookbook"
        found = task_from_questions(
            folder / "gold-test-set-v2.jsonl", folder / "nba_roster.db", tmp_path / "t", workers=2
        )
        assert found["questions"] == 40
        (twice,) = found["databases"]["nba_roster"]["repeated_rows"].values()
        assert twice["rows"] == 18
        assert twice["example"][0] == "Toronto Raptors"
        assert found["databases"]["nba_roster"]["numbers_in_text"] == {
            "nba_roster.Jersey": ["NA"],
            "nba_roster.SALARY": ["--"],
        }
        (contradicted,) = found["rejected"]
        assert contradicted["question"] == "What is the median salary in the NBA?"
        assert contradicted["detail"] == "stored answer 6012840, query gives 5887899"
        assert "holds 18 rows twice" in (tmp_path / "t/audit.md").read_text()
