"""Tasks of one's own database: what is read of it, what is drawn, what the audit finds, what an edit breaks."""

from __future__ import annotations

import doctest
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import prefloop
from shop import build_shop

from prefloop.errors import DataError, StoreError
from prefloop.sql.compare import ComparisonSpec, compare_everywhere
from prefloop.sql.pool import SandboxPool
from prefloop.tasks.database import claims, specs, words
from prefloop.tasks.database.audit import answers
from prefloop.tasks.database.audit.audit import audit_task
from prefloop.tasks.database.claims import plan_agreement, plan_of_query
from prefloop.tasks.database.folder import read_task
from prefloop.tasks.database.grammar import draw, held, refusals, world
from prefloop.tasks.database.grammar.held import Held
from prefloop.tasks.database.imports import layouts
from prefloop.tasks.database.make import task_from_database
from prefloop.tasks.database.model import TaskFile
from prefloop.tasks.database.source import ddl, profile, schema
from prefloop.tasks.database.source.inspection import Inspected, inspect, opened, vocabulary
from prefloop.tasks.database.variants.sqlite import write_sqlite_variant

MODULES = [answers, claims, ddl, held, layouts, schema, specs, words, world]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task folder of the shop, read and changed by copies alone."""
    place = tmp_path_factory.mktemp("task")
    task_from_database(build_shop(place / "shop.sqlite"), place / "my-task", train=60, test=40, workers=2)
    return place / "my-task"


def copied(made: Path, place: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made, place / "copy"))


def lines(task: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (task / "questions.jsonl").read_text().splitlines()]


def write_lines(task: Path, rows: list[dict[str, object]]) -> None:
    (task / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def looked_at(statements: str, place: Path) -> Inspected:
    with closing(sqlite3.connect(place / "own.sqlite")) as connection:
        connection.executescript(statements)
    with opened(place / "own.sqlite") as connection:
        return inspect(connection, "sqlite", "own.sqlite")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_examples(module: object) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def test_the_schema_says_keys_uniqueness_and_sizes(tmp_path: Path) -> None:
    found = looked_at(
        """CREATE TABLE "Two Words" ("Order" INTEGER PRIMARY KEY, a TEXT UNIQUE, b REAL NOT NULL, g AS (b * 2));
        CREATE TABLE link (x INTEGER, y TEXT, PRIMARY KEY (x, y), FOREIGN KEY (X) REFERENCES "two words");
        CREATE VIEW seen AS SELECT 1; CREATE VIRTUAL TABLE words USING fts5 (text);
        INSERT INTO "Two Words" VALUES (1, 'p', 0.5), (2, 'q', 1.5);
        INSERT INTO link VALUES (1, 'a'), (2, 'b'), (2, 'c');""",
        tmp_path,
    ).schema
    assert [(table.name, table.rows, table.primary_key) for table in found.tables] == [
        ("Two Words", 2, ("Order",)),
        ("link", 3, ("x", "y")),
    ]
    first = found.tables[0]
    assert first.unique == {"Order", "a"}
    assert [(c.name, c.nullable, c.generated) for c in first.columns] == [
        ("Order", False, False),
        ("a", True, False),
        ("b", False, False),
        ("g", True, True),
    ]
    (key,) = found.keys
    assert (key.table, key.column, key.parent, key.parent_column, key.declared) == (
        "link",
        "x",
        "Two Words",
        "Order",
        True,
    )


def test_a_guessed_key_needs_the_name_and_the_values(tmp_path: Path) -> None:
    parents = (
        "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO customers VALUES (1,'a'),(2,'b');"
    )
    children = "CREATE TABLE orders (customer_id INTEGER, stray_id INTEGER, label TEXT);"
    good = looked_at(
        f"{parents}{children}INSERT INTO orders VALUES (1, 1, 'a'), (2, 2, 'b'), (NULL, 1, 'c');", tmp_path
    )
    assert [(key.column, key.parent, key.declared) for key in good.schema.keys] == [("customer_id", "customers", False)]
    assert "-- orders.customer_id holds customers.id" in ddl.ddl(good.schema, good.profiles)
    (tmp_path / "own.sqlite").unlink()
    bad = looked_at(f"{parents}{children}INSERT INTO orders VALUES (1, 1, 'a'), (7, 2, 'b');", tmp_path)
    assert bad.schema.keys == ()


def test_profiles_by_hand() -> None:
    numbers = profile.profile([5, 1, 2, 3, 4, None])
    assert (numbers.kind, numbers.integer, numbers.nulls, numbers.distinct) == ("number", True, 1, 5)
    assert numbers.levels == (1, 1, 2, 3, 4, 5, 5)
    assert not numbers.unique
    kinds = {
        "date": ["2020-01-02", "2021-03-04"],
        "text": ["2020-01-02", "soon"],
        "boolean": [0, 1, 1],
        "other": [1, "a"],
    }
    assert {kind: profile.profile(cells).kind for kind, cells in kinds.items()} == {kind: kind for kind in kinds}
    assert profile.profile([b"\x00", b"\x01"]).kind == "other"
    assert profile.profile(["b", "a", "b"]).values == (("b", 2), ("a", 1))


def test_rows_that_stand_twice_are_found_whatever_their_number(tmp_path: Path) -> None:
    found = looked_at(
        """CREATE TABLE plain (a TEXT, b INTEGER); CREATE TABLE numbered (id INTEGER PRIMARY KEY, a TEXT);
        CREATE TABLE clean (a TEXT); INSERT INTO clean VALUES ('x'), ('y');
        INSERT INTO plain VALUES ('x', 1), ('x', 1), ('x', 1), ('y', 1), ('x', 2);
        INSERT INTO numbered VALUES (1, 'n'), (2, 'n');""",
        tmp_path,
    )
    assert found.repeated == {
        "plain": {"rows": 2, "example": ["x", "1"]},
        "numbered": {"rows": 1, "example": ["n"]},
    }


def test_the_variant_keeps_names_and_keys_and_changes_numbers(tmp_path: Path) -> None:
    shop = build_shop(tmp_path / "shop.sqlite")
    with opened(shop) as connection:
        found = inspect(connection, "sqlite", "shop")
    changed = write_sqlite_variant(shop, tmp_path / "a.sqlite", found.schema, found.profiles, seed=1)
    assert changed == {
        "customers": ["country", "joined", "credit"],
        "orders": ["quantity", "ordered_on", "status", "rows"],
        "products": ["category", "price", "stock"],
    }

    def read(path: Path, sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(sql).fetchall()

    same = "SELECT id, name FROM customers"
    assert read(shop, same) == read(tmp_path / "a.sqlite", same)
    for sql in ("SELECT AVG(price) FROM products", "SELECT SUM(credit) FROM customers", "SELECT COUNT(*) FROM orders"):
        assert read(shop, sql) != read(tmp_path / "a.sqlite", sql)
    assert read(tmp_path / "a.sqlite", "SELECT COUNT(*) FROM orders") == [(175,)]  # an eighth of 200 is gone
    values = {row[0] for row in read(shop, "SELECT price FROM products")}
    assert {row[0] for row in read(tmp_path / "a.sqlite", "SELECT price FROM products")} < values
    write_sqlite_variant(shop, tmp_path / "b.sqlite", found.schema, found.profiles, seed=1)
    write_sqlite_variant(shop, tmp_path / "c.sqlite", found.schema, found.profiles, seed=2)
    whole = "SELECT * FROM products"
    assert read(tmp_path / "a.sqlite", whole) == read(tmp_path / "b.sqlite", whole)
    assert read(tmp_path / "a.sqlite", whole) != read(tmp_path / "c.sqlite", whole)


def test_triggers_checks_and_indexes_do_not_stop_the_variant(tmp_path: Path) -> None:
    shop = tmp_path / "own.sqlite"
    found = looked_at(
        """CREATE TABLE t (a INTEGER CHECK (a <> 3), b INTEGER, c INTEGER, UNIQUE (b, c));
        CREATE TABLE log (a INTEGER); CREATE TABLE keyless (k TEXT PRIMARY KEY, v INTEGER) WITHOUT ROWID;
        CREATE TRIGGER t_log AFTER UPDATE ON t BEGIN INSERT INTO log VALUES (1); END;
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
        INSERT INTO t SELECT i + 10, i % 5, i FROM n;
        INSERT INTO keyless VALUES ('a', 10), ('b', 20);""",
        tmp_path,
    )
    changed = write_sqlite_variant(shop, tmp_path / "v.sqlite", found.schema, found.profiles, seed=1)
    assert "a" in changed["t"]
    assert "keyless" not in changed
    with closing(sqlite3.connect(tmp_path / "v.sqlite")) as connection:
        assert connection.execute("SELECT COUNT(*) FROM log").fetchone() == (0,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_column_that_bears_the_name_of_the_row_number_costs_no_rows(tmp_path: Path) -> None:
    """10 of 80 rows go, and no others; where every such name is a column, all stays."""
    found = looked_at(
        """CREATE TABLE one (ROWID TEXT, price INTEGER); CREATE TABLE two (rowid INTEGER, _rowid_, weight INTEGER);
        CREATE TABLE three (rowid TEXT, _rowid_ TEXT, oid TEXT, height INTEGER);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 80)
        INSERT INTO one SELECT 'n' || i % 9, i FROM n; INSERT INTO two SELECT 7, 7, price + 100 FROM one;
        INSERT INTO three SELECT rowid, rowid, rowid, price + 200 FROM one;""",
        tmp_path,
    )
    changed = write_sqlite_variant(tmp_path / "own.sqlite", tmp_path / "v.sqlite", found.schema, found.profiles, seed=1)
    assert "three" not in changed
    with closing(sqlite3.connect(tmp_path / "v.sqlite")) as connection:
        drawn = "SELECT COUNT(*), COUNT(DISTINCT {1}) < COUNT(*) FROM {0}".format
        numbers = (("one", "price"), ("two", "weight"), ("three", "height"))
        counts = [connection.execute(drawn(*number)).fetchone() for number in numbers]
    assert counts == [(70, 1), (70, 1), (80, 0)]


def test_every_gold_is_right_by_its_own_comparison_and_no_constant_is(made: Path) -> None:
    """On both databases; what the first database gives is wrong on the variant."""
    task = read_task(made)
    databases = [made / "databases/shop.sqlite", made / "databases/shop.variant.sqlite"]
    constant = 0
    with SandboxPool(databases, 2) as pool:
        for question in task.questions:
            if question.sql is None:
                continue
            spec = ComparisonSpec.from_dict(question.comparison)
            compared = [r.rows for r in pool.run([(d, question.compare_sql or question.sql) for d in (0, 1)])]
            golds = [r.rows for r in pool.run([(d, question.sql) for d in (0, 1)])]
            assert all(v.equal for v in compare_everywhere(compared, golds, spec)), question.question
            constant += all(v.equal for v in compare_everywhere(compared, [golds[0], golds[0]], spec))
            assert any(cell is not None for row in golds[0] for cell in row)
    assert constant == 0


def test_what_is_drawn(made: Path) -> None:
    audit = json.loads((made / "audit.json").read_text())
    rows = lines(made)
    assert audit["accepted"] == {"train": 60, "test": 40}
    assert audit["rejected"] == []
    assert audit["collisions"]["pairs"] == 0
    texts = [row["question"] for row in rows]
    assert len(set(texts)) == len(texts) == 100
    train = {row["template"] for row in rows if row["split"] == "train"}
    unseen = [row for row in rows if row["split"] == "test" and row["template"] not in train]
    assert audit["templates"]["unseen_questions"] == len(unseen) >= 24  # 60% of 40
    golds = {split: {row["sql"] for row in rows if row["split"] == split and row["sql"]} for split in ("train", "test")}
    assert not golds["train"] & golds["test"]
    assert len({row["family"] for row in rows}) >= 10
    assert {row["wording"] for row in rows} == {"full", "typed"}
    tops = [row for row in rows if "LIMIT" in str(row["sql"])]
    assert tops
    assert all("top_k" in row["comparison"] for row in tops)
    joined = [row for row in rows if " JOIN " in str(row["sql"])]
    assert any("product_id = p.id" in str(row["sql"]) for row in joined)  # over the guessed key


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(made: Path, tmp_path: Path) -> None:
    shop = build_shop(tmp_path / "shop.sqlite")
    for name, seed in (("again", 1), ("other", 2)):
        task_from_database(shop, tmp_path / name, train=60, test=40, seed=seed, workers=1)
    for file in ("questions.jsonl", "schema.sql", "databases/shop.variant.sqlite"):
        assert (tmp_path / "again" / file).read_bytes() == (made / file).read_bytes(), file
    assert (tmp_path / "other/questions.jsonl").read_bytes() != (made / "questions.jsonl").read_bytes()


def test_a_database_too_small_for_so_many_questions_says_so(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as connection:
        connection.execute("CREATE TABLE pets (kind TEXT, weight INTEGER)")
        connection.executemany("INSERT INTO pets VALUES (?, ?)", [("cat", 3), ("dog", 9), ("cat", 5), ("dog", 22)])
        connection.commit()
    found = task_from_database(tmp_path / "s.sqlite", tmp_path / "t", train=500, test=10, workers=1)
    missing = found["made"]["left_out"]["places that this database does not fill"]
    assert sum(found["accepted"].values()) + missing == 510
    with closing(sqlite3.connect(tmp_path / "one.sqlite")) as connection:
        connection.execute("CREATE TABLE t (a TEXT)")
    with pytest.raises(DataError, match="offers no questions"):
        task_from_database(tmp_path / "one.sqlite", tmp_path / "u")


def test_names_values_and_words_that_would_break_a_query_or_a_page(tmp_path: Path) -> None:
    """Quotes, braces, keywords, line ends, backticks, other scripts: in names and in values."""
    with closing(sqlite3.connect(tmp_path / "odd.sqlite")) as connection:
        connection.execute('CREATE TABLE "select" ("na""me" TEXT, "{group}" TEXT, "größe in cm" REAL, "a`b" INTEGER)')
        rows = [(f"O'Neil {{x}} {i}", ["a{0}", "b'b", "`c`", "line\nend"][i % 4], i * 1.5, i % 7) for i in range(60)]
        connection.executemany('INSERT INTO "select" VALUES (?, ?, ?, ?)', rows)
        connection.commit()
    found = task_from_database(tmp_path / "odd.sqlite", tmp_path / "t", train=20, test=10, workers=2)
    assert sum(found["accepted"].values()) >= 20
    assert found["rejected"] == []
    assert ddl.shown_tables((tmp_path / "t/schema.sql").read_text(), "sqlite") == {
        "select": ['na"me', "{group}", "größe in cm", "a`b"]
    }


def test_a_live_database_is_copied_and_left_alone(tmp_path: Path) -> None:
    shop = build_shop(tmp_path / "shop.sqlite")
    with closing(sqlite3.connect(shop)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO products VALUES (99, 'Late Lamp', 'office', 1.0, 1)")
        connection.commit()
        before = {path.name: path.read_bytes() for path in tmp_path.glob("shop.sqlite*")}
        task_from_database(shop, tmp_path / "t", train=10, test=5, workers=1)
        after = {path.name: path.read_bytes() for path in tmp_path.glob("shop.sqlite*") if path.suffix != ".sqlite-shm"}
    assert all(before[name] == content for name, content in after.items() if not name.endswith("-shm"))
    audit = json.loads((tmp_path / "t/audit.json").read_text())
    assert audit["databases"]["shop"]["tables"]["products"] == 13


@pytest.mark.parametrize("content", [None, b"not a database at all", b""])
def test_what_is_no_database(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.sqlite").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.sqlite"):
        task_from_database(tmp_path / "x.sqlite", tmp_path / "t")
    assert {path.name for path in tmp_path.iterdir()} <= {"x.sqlite"}  # nothing half made stays


def test_a_folder_that_stands_is_not_written_over(made: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="exists already"):
        task_from_database(build_shop(tmp_path / "s.sqlite"), made)


FINDINGS = [
    ({"sql": "SELECT nothing FROM products"}, "gold does not run"),
    ({"sql": "DELETE FROM products"}, "gold does not run"),
    ({"sql": "SELECT DATE('now')"}, "gold does not run"),
    ({"sql": "SELECT title FROM products WHERE price < 0"}, "gold is empty"),
    ({"sql": "SELECT MAX(price) FROM products WHERE price < 0"}, "gold is NULL"),
    ({"sql": "SELECT title FROM products LIMIT 3"}, "limit without an order"),
    ({"sql": "SELECT status FROM orders ORDER BY quantity LIMIT 3"}, "tie at the limit"),
    ({"sql": "SELECT title FROM products", "compare_sql": "SELECT id FROM products"}, "not right by its own"),
    ({"sql": "SELECT COUNT(*) FROM orders", "answer": "199"}, "contradicts"),
]


@pytest.mark.parametrize(("changes", "reason"), FINDINGS, ids=[reason for _, reason in FINDINGS])
def test_the_audit_names_what_cannot_be_asked(
    changes: dict[str, object], reason: str, made: Path, tmp_path: Path
) -> None:
    task = copied(made, tmp_path)
    rows = lines(task)
    write_lines(task, [*rows, {"question": "What about this one?", "split": "train", **changes}])
    found = audit_task(task, workers=1)
    (rejected,) = found["rejected"]
    assert rejected["line"] == len(rows) + 1
    assert reason in rejected["reason"]
    assert found["accepted"] == {"train": 60, "test": 40}
    assert f"line {len(rows) + 1}" in (task / "audit.md").read_text()


def test_what_the_audit_lets_in(made: Path, tmp_path: Path) -> None:
    task = copied(made, tmp_path)
    rows = lines(task)
    allowed = [
        {"sql": None},  # unanswerable
        {"sql": "SELECT title FROM products WHERE price < 0", "comparison": {"may_be_empty": True}},
        {"sql": "SELECT COUNT(*) FROM orders LIMIT 1"},
        {"sql": "SELECT price FROM products ORDER BY price LIMIT 1 OFFSET 3"},  # what ties is the same
        {"sql": "SELECT COUNT(*) FROM orders", "answer": "200"},
        {"sql": "SELECT title FROM products", "alternatives": [{"sql": "SELECT title, price FROM products"}]},
    ]
    added = [{"question": f"New one, number {i}?", "split": "train", **row} for i, row in enumerate(allowed)]
    write_lines(task, [*rows, *added])
    found = audit_task(task, workers=1)
    assert found["rejected"] == []
    assert found["accepted"]["train"] == 66


def test_a_text_asked_twice_stays_in_the_test(made: Path, tmp_path: Path) -> None:
    task = copied(made, tmp_path)
    write_lines(
        task,
        [
            {"question": "How many orders?", "sql": "SELECT COUNT(*) FROM orders", "split": "train"},
            {"question": "how many ORDERS", "sql": "SELECT COUNT(id) FROM orders", "split": "test"},
            {"question": "Orders in all", "sql": "SELECT SUM(1) FROM orders", "split": "train"},
        ],
    )
    found = audit_task(task, workers=1)
    assert [(row["line"], row["reason"]) for row in found["rejected"]] == [(1, "the same text as another question")]
    assert found["collisions"] == {"pairs": 1, "groups": [[2, 3]], "left_out": 0}  # on both databases, and not the same


def test_a_text_with_two_answers_is_not_asked(made: Path, tmp_path: Path) -> None:
    task = copied(made, tmp_path)
    asked = [
        ("How many orders?", "SELECT COUNT(*) FROM orders", "test"),
        ("How many orders?", "SELECT SUM(quantity) FROM orders", "train"),
        ("How old is Ada?", None, "train"),
        ("how old is ada", "SELECT joined FROM customers WHERE id = 1", "train"),
        ("How many products?", "SELECT COUNT(*) FROM products", "train"),
    ]
    write_lines(task, [{"question": text, "sql": sql, "split": split} for text, sql, split in asked])
    found = audit_task(task, workers=1)
    reason = "the same text as another question, with another result"
    assert [(row["line"], row["reason"]) for row in found["rejected"]] == [(n, reason) for n in (1, 2, 3, 4)]
    assert [row["detail"] for row in found["rejected"]] == [f"line {n}, another query" for n in (2, 1, 4, 3)]


def test_results_that_nothing_tells_apart_are_left_out_unless_they_are_kept(made: Path, tmp_path: Path) -> None:
    """Names and keys are the same on the variant, so counts of them collide by accident; sums of what varies do not."""
    task = copied(made, tmp_path)
    asked = [
        ("How many customers?", "SELECT COUNT(*) FROM customers"),
        ("Customers in all", "select count(*) from Customers"),  # the same query
        ("Largest customer number?", "SELECT MAX(id) FROM customers"),
        ("Stock in all?", "SELECT SUM(stock) FROM products"),
        ("How much stock?", "SELECT SUM(stock + 0) FROM products"),  # another query that means the same
        ("How many products?", "SELECT COUNT(*) FROM products"),
    ]
    write_lines(task, [{"question": text, "sql": sql, "split": "train"} for text, sql in asked])
    found = audit_task(task, workers=1)
    assert [(row["line"], row["detail"]) for row in found["rejected"]] == [(1, "line 3"), (2, "line 3"), (3, "line 1")]
    assert {row["reason"] for row in found["rejected"]} == {"another question's query gives the same result"}
    assert found["collisions"] == {"pairs": 2, "groups": [[1, 3], [4, 5]], "left_out": 3}
    assert "3 questions of them are left out" in (task / "audit.md").read_text()
    (task / "task.yaml").write_text((task / "task.yaml").read_text().replace("leave_out", "keep"))
    kept = audit_task(task, workers=1)
    assert kept["rejected"] == []
    assert kept["collisions"] == {"pairs": 2, "groups": [[1, 3], [4, 5]], "left_out": 0}
    assert "all of them are asked; the first: lines 1, 3" in (task / "audit.md").read_text()


def test_questions_that_no_query_answers(made: Path, tmp_path: Path) -> None:
    """Eight in a hundred of either split; of nothing that a name or a value of the database has a word of."""
    rows = [row for row in lines(made) if row["sql"] is None]
    audit = json.loads((made / "audit.json").read_text())
    assert audit["unanswerable"] == {"train": 5, "test": 3}
    assert {row["family"] for row in rows} == {"unanswerable"}
    assert "5 and 3 of them no query can answer" in (made / "audit.md").read_text()
    for row in rows:
        assert "stock" not in str(row["lacks"])
    for absent in (*refusals.ATTRIBUTES, *refusals.THINGS):
        said = [word for word in absent.many.split() if len(word) > 3 or word == absent.many]
        assert all(Held(word, "").any_of(absent.stems) for word in said), absent.many
    task = copied(made, tmp_path)
    with closing(sqlite3.connect(task / "databases/shop.sqlite")) as connection, connection:
        connection.execute("UPDATE orders SET status = 'in court' WHERE id < 9")
    write_lines(task, [*rows, {"question": "Any court cases?", "sql": None, "lacks": "courts", "split": "test"}])
    found = audit_task(task, workers=1)
    assert [(row["line"], row["doubt"]) for row in found["doubts"]] == [
        (9, "it may be answered after all: the database knows court")
    ]


NUMBERED = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30)"


def lacks_of(found: Inspected) -> set[str]:
    """What the unanswerable questions of a database are about."""
    rng, asked, seen = np.random.default_rng(1), set(), world.world_of(found)
    for _ in range(300):
        drawn = draw.draw_question(rng, seen, "unanswerable")
        asked |= {drawn.lacks} if drawn else set()
    return asked


def test_nothing_is_said_to_be_lacking_that_a_database_may_hold(tmp_path: Path) -> None:
    found = looked_at(
        f"""CREATE TABLE people (name TEXT, weight REAL, nickname TEXT); CREATE TABLE notes (topic TEXT);
        {NUMBERED} INSERT INTO people SELECT 'Person ' || i, i * 1.5, 'P' || i FROM n;
        INSERT INTO notes VALUES ('Lawsuits'), ('budget plan'), ('Lawsuits'), ('other');""",
        tmp_path,
    )
    assert {"nickname", "lawsuit", "budget", "person"} <= vocabulary(found)
    asked = lacks_of(found)
    assert len(asked) == 18 - 2
    assert not asked & {"nicknames", "lawsuits", "the future"}


HIDDEN = [
    ("co2_t", "carbon footprints"),
    ("followerscount", "followers"),
    ("FaxNo", "faxes"),
    ("kwh", "energy use"),
    ("isinsured", "insurance cover"),
    ("policyno", "insurance claims"),
    ("aka", "nicknames"),
    ("next_of_kin", "emergency contacts"),
    ("hits", "page views"),
    ("grants", "donations"),
    ("case_count", "lawsuits"),
]


def test_a_name_that_hides_its_word_is_found(tmp_path: Path) -> None:
    columns = ", ".join(f"{name} REAL" for name, _ in HIDDEN)
    found = looked_at(
        f"""CREATE TABLE sites (name TEXT, mass REAL); CREATE TABLE facts ({columns});
        {NUMBERED} INSERT INTO sites SELECT 'Site ' || i, i * 1.5 FROM n;""",
        tmp_path,
    )
    asked = lacks_of(found)
    assert {"the future", "podcasts"} <= asked
    assert not asked & {lacking for _, lacking in HIDDEN}


@pytest.mark.parametrize(("name", "measure"), [("name", "age"), ("name", "tenure_months"), ("Größe", "mass")])
def test_no_future_that_can_be_worked_out_and_nothing_of_names_that_are_not_read(
    name: str, measure: str, tmp_path: Path
) -> None:
    found = looked_at(
        f"""CREATE TABLE staff (name TEXT, {measure} REAL); CREATE TABLE other ("{name}" TEXT);
        {NUMBERED} INSERT INTO staff SELECT 'Person ' || i, i * 1.5 FROM n;""",
        tmp_path,
    )
    asked = lacks_of(found)
    assert "the future" not in asked
    assert bool(asked) == (name == "name")


def test_what_has_no_name_is_not_asked_about(tmp_path: Path) -> None:
    for i, blank in enumerate(("", " ")):
        with closing(sqlite3.connect(tmp_path / f"{i}.sqlite")) as connection, connection:
            connection.execute(f'CREATE TABLE "{blank}" ("{blank}" TEXT, a_id INTEGER, b REAL)')
            connection.execute(f'CREATE TABLE pets (id INTEGER PRIMARY KEY, kind TEXT, weight INTEGER, "{blank}" REAL)')
            pets = [(None, ["cat", "dog", "owl"][i % 3], i * i % 31, i / 7) for i in range(40)]
            connection.executemany("INSERT INTO pets VALUES (?, ?, ?, ?)", pets)
            connection.executemany(f'INSERT INTO "{blank}" VALUES (?, ?, ?)', [(f"n{i}", i, i / 3) for i in range(30)])
        task_from_database(tmp_path / f"{i}.sqlite", tmp_path / str(i), train=6, test=4, workers=1)
        told = lines(tmp_path / str(i))
        assert told
        assert all("pets" in row["sql"] and "unnamed" not in row["question"] for row in told if row["sql"])


def test_names_of_other_scripts_stay_whole_in_questions(tmp_path: Path) -> None:
    found = looked_at(
        f"""CREATE TABLE "Häuser" ("straßeName" TEXT, "GrößeM2" REAL);
        {NUMBERED} INSERT INTO "Häuser" SELECT 'Weg ' || i, i * 1.5 FROM n;""",
        tmp_path,
    )
    rng = np.random.default_rng(1)
    drawn = [draw.draw_question(rng, world.world_of(found), "lookup") for _ in range(20)]
    texts = [each.text.lower() for each in drawn if each]
    assert texts
    assert all("größe m 2" in text for text in texts)
    assert any("straße name" in text for text in texts)


def test_a_task_changed_after_its_audit_does_not_run(made: Path, tmp_path: Path) -> None:
    from prefloop.config.tasks import DatabaseTaskConfig
    from prefloop.tasks.database.task import database_prompts

    task = copied(made, tmp_path)
    config = DatabaseTaskConfig(folder=task)
    assert len(database_prompts(config, 1)[0]) == 100
    (task / "task.yaml").write_text((task / "task.yaml").read_text().replace("NULL", "absent"))
    with pytest.raises(DataError, match=r"changed after its audit: run prefloop task audit"):
        database_prompts(config, 1)
    audit_task(task, workers=1)
    prompts, counts, _ = database_prompts(config, 1)
    assert "absent" in prompts[0].messages[0]["content"]
    assert counts == {"test": {"accepted": 40}, "train": {"accepted": 60}}
    (task / "audit.json").unlink()
    with pytest.raises(DataError, match="was not audited"):
        database_prompts(config, 1)


BROKEN = [
    ("questions.jsonl", lambda text: text.replace('"split":"train"', '"split":"dev"', 1), r"line 1: split"),
    ("questions.jsonl", lambda text: "{]\n" + text, r"line 1: not valid JSON"),
    ("questions.jsonl", lambda text: text + '{"question":"x?","sql":"SELECT 1"}\n', r"line 101: split: field required"),
    (
        "questions.jsonl",
        lambda text: text + '{"question":"x?","sql":"SELECT 1","split":"test","comparison":{"ordr":1}}\n',
        r"line 101: .*unknown field 'ordr'",
    ),
    (
        "questions.jsonl",
        lambda text: text + '{"question":"x?","sql":"SELECT 1","split":"test","database":"bank"}\n',
        r"line 101: database 'bank' is none of shop",
    ),
    ("questions.jsonl", lambda text: "", "is empty"),
    ("task.yaml", lambda text: text.replace("name: my-task", "nam: my-task"), r"task\.yaml: line \d+: "),
    ("task.yaml", lambda text: text + "  x: [", r"task\.yaml is not valid YAML"),
    ("task.yaml", lambda text: text.replace("databases/shop.sqlite", "gone.sqlite"), r"gone\.sqlite does not exist"),
]


@pytest.mark.parametrize(("file", "change", "message"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_edit_is_named_with_its_line(file: str, change, message: str, made: Path, tmp_path: Path) -> None:
    task = copied(made, tmp_path)
    (task / file).write_text(change((task / file).read_text()))
    with pytest.raises(DataError, match=message) as error:
        audit_task(task, workers=1)
    assert "\n" not in str(error.value)


def test_task_yaml_keeps_its_words_and_lines(made: Path) -> None:
    text = (made / "task.yaml").read_text()
    assert text.startswith("# A text-to-SQL task.")
    assert "policies: |" in text
    content = yaml.safe_load(text)
    assert TaskFile.model_validate(content) == read_task(made).file
    assert content["databases"][0]["file"] == "databases/shop.sqlite"


def test_plans_make_the_claims_of_their_queries(made: Path) -> None:
    tables = ["customers", "orders", "products"]
    for sql in [str(row["sql"]) for row in lines(made) if row["sql"]]:
        plan = plan_of_query(sql, "sqlite")
        assert plan_agreement(plan, sql, tables, "sqlite") == pytest.approx(1.0), (plan, sql)
    gold = "SELECT AVG(price) FROM products WHERE category = 'office'"
    for plan, expected in [
        ("average price from products; category office.", 1.0),
        ("total price from products; category office.", 2 * 2 / 6),
        ("average price from orders; category office.", 2 * 2 / 6),
        ("average price from products.", 2 * 2 / 5),
    ]:
        assert plan_agreement(plan, gold, tables, "sqlite") == pytest.approx(expected), plan
    assert plan_agreement("x", "SELEC", tables, "sqlite") is None


def test_templates_of_questions_without_one_are_their_query_s_shape(made: Path, tmp_path: Path) -> None:
    task = copied(made, tmp_path)
    golds = ["SELECT COUNT(*) FROM orders WHERE quantity > 3", "select count(*) from orders where quantity > 5"]
    write_lines(task, [{"question": f"q{i}?", "sql": sql, "split": "test"} for i, sql in enumerate(golds)])
    read = read_task(task)
    assert len({read.template(question) for question in read.questions}) == 1


def test_the_commands(tmp_path: Path) -> None:
    build_shop(tmp_path / "shop.sqlite")
    arguments = ["task", "from-database", "shop.sqlite", "--out", "my-task", "--train", 12, "--test", 8, "--workers", 1]
    done = prefloop(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 training and 8 test questions in my-task" in done.stdout
    assert "prefloop task audit my-task" in done.stdout
    again = prefloop("task", "audit", "my-task", "--json", "--workers", 1, cwd=tmp_path)
    assert json.loads(again.stdout)["accepted"] == {"train": 12, "test": 8}
    assert json.loads(again.stdout)["made"]["seed"] == 1
    wrong = prefloop("task", "audit", "nowhere", cwd=tmp_path)
    assert wrong.returncode == 3
    assert "nowhere/task.yaml does not exist" in wrong.stderr
    unknown = prefloop("task", "import", "a.json", "--database", "b", "--out", "c", "--layout", "x", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "spider, bird, defog, geoquery, jsonl" in unknown.stderr
