"""Hostile SQL on a real PostgreSQL server: each layer alone and all together, and the roles that are refused."""

from __future__ import annotations

import doctest
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import Postgres, running_postgres
from postgres_copy import make_reader, new_database
from psycopg.conninfo import conninfo_to_dict

from prefloop.errors import DataError
from prefloop.sql import postgres as address_module
from prefloop.sql import postgres_query
from prefloop.sql.databases import identity
from prefloop.sql.pool import Limits, SandboxPool
from prefloop.sql.postgres import connect_readonly, read_address, url_as
from prefloop.sql.postgres_query import RefusedError, checked_query
from prefloop.sql.postgres_role import ROLE
from prefloop.sql.postgres_worker import Session

SECONDS = 0.5
"""Of a statement of the reader here."""
LIMITS = Limits(rows=100, result_bytes=100_000, wall_s=600.0)
TABLES = """
CREATE TABLE t (a bigint PRIMARY KEY, b text);
INSERT INTO t SELECT i, 'name ' || i % 7 FROM generate_series(1, 50) i;
CREATE TABLE secret (word text);
INSERT INTO secret VALUES ('swordfish');
CREATE SEQUENCE numbers;
CREATE FUNCTION wipe() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM t RETURNING a';
CREATE FUNCTION run_program() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN COPY (SELECT 1) TO PROGRAM 'touch /tmp/prefloop-attack'; RETURN 'done'; END $$;
"""

STATEMENTS = [
    "DELETE FROM t",
    "UPDATE t SET b = 'x'",
    "INSERT INTO t VALUES (99, 'x')",
    "TRUNCATE t",
    "MERGE INTO t USING t u ON t.a = u.a WHEN MATCHED THEN DELETE",
    "DROP TABLE t",
    "ALTER TABLE t ADD c int",
    "CREATE TABLE u (x int)",
    "CREATE TEMP TABLE u (x int)",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE INDEX i ON t (b)",
    "GRANT ALL ON t TO PUBLIC",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER SYSTEM SET work_mem = '1GB'",
    "SET statement_timeout = 0",
    "SET ROLE postgres",
    "RESET ALL",
    "BEGIN; DELETE FROM t; COMMIT",
    "COMMIT; DELETE FROM t",
    "SELECT 1; DELETE FROM t",
    "SELECT 1; COMMIT; SET TRANSACTION READ WRITE; DELETE FROM t",
    "ROLLBACK; BEGIN READ WRITE; DELETE FROM t; COMMIT; SELECT 1",
    "DO $$ BEGIN DELETE FROM t; END $$",
    "CALL wipe()",
    "COPY t TO PROGRAM 'touch /tmp/prefloop-attack'",
    "COPY t FROM '/etc/passwd'",
    "COPY t TO STDOUT",
    "PREPARE p AS DELETE FROM t",
    "EXECUTE p",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "LISTEN news",
    "NOTIFY news, 'x'",
    "LOCK TABLE t",
    "VACUUM t",
    "EXPLAIN ANALYZE DELETE FROM t",
    "LOAD '/tmp/x.so'",
    "SHOW ALL",
    "WITH gone AS (DELETE FROM t RETURNING a) SELECT COUNT(*) FROM gone",
    "WITH x AS (INSERT INTO t VALUES (99, 'x') RETURNING a) SELECT * FROM x",
    "SELECT * INTO u FROM t",
    "SELECT * FROM t FOR UPDATE",
    "/* SELECT 1 */ DELETE FROM t",
    "SELECT 1 /* /* */ ; DELETE FROM t -- */",
    "SELECT 1 --\r; DELETE FROM t",
    "SELECT $x$ $x$; DELETE FROM t; SELECT $y$ $y$",
]
"""What changes data, or is no query."""

CALLS = [
    "SELECT pg_sleep(30)",
    "SELECT set_config('statement_timeout', '0', false), pg_sleep(30)",
    "SELECT set_config('statement_timeout', '0', true), pg_sleep(0.02) FROM generate_series(1, 90000)",
    "SELECT set_config('transaction_read_only', 'off', false), wipe()",
    "SELECT set_config('role', 'postgres', false)",
    "SELECT wipe()",
    "SELECT public.wipe()",
    "SELECT run_program()",
    "SELECT nextval('numbers')",
    "SELECT setval('numbers', 99)",
    "SELECT lo_create(4711)",
    "SELECT lo_from_bytea(4711, 'x')",
    "SELECT lo_import('/etc/passwd', 4711)",
    "SELECT query_to_xml('DELETE FROM t', true, true, '')",
    "SELECT * FROM ts_stat('DELETE FROM t')",
    "SELECT cursor_to_xml('answer', 9, true, true, '')",
    "SELECT * FROM dblink('dbname=postgres', 'DELETE FROM t') AS x(a int)",
    "SELECT pg_logical_emit_message(false, 'x', 'y')",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_notify('news', 'x')",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> current_user",
    "SELECT pg_catalog.pg_reload_conf()",
    'SELECT "pg_sleep"(30)',
    'SELECT U&"pg\\005fsleep"(30)',
    "SELECT pg_sleep /* */ (30)",
    "SELECT (SELECT pg_sleep(30))",
    "SELECT * FROM pg_sleep(30)",
    "SELECT a FROM t WHERE pg_sleep(30) IS NULL ORDER BY pg_sleep(30)",
    "SELECT $x$ $x$, pg_sleep(30), $x$ $x$",
    "SELECT 'a\\', pg_sleep(30) --'",
    "SELECT E'\\', pg_sleep(30) --'",
]
"""Functions that do something."""

READS = [
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT rolpassword FROM pg_authid",
    "SELECT * FROM pg_shadow",
    "SELECT * FROM secret",
    "SELECT query_to_xml('SELECT * FROM secret', true, true, '')",
    "SELECT * FROM pg_stat_file('/etc/passwd')",
]
"""What the reader has no right to see."""

HARMLESS = {"SELECT 1 /* /* */ ; DELETE FROM t -- */": "SELECT 1"}
"""Attacks that are none once they are read as the server reads them, and what is left of them."""

UNSTEADY = [
    "SELECT now()",
    "SELECT CURRENT_DATE",
    "SELECT LOCALTIMESTAMP",
    "SELECT clock_timestamp()",
    "SELECT 'now'::timestamp",
    "SELECT * FROM t WHERE b < ' Today '",
    "SELECT DATE '2020-01-01' = ANY('{2020-01-01, now}')",
    "SELECT '[2020-01-01,today)'",
    "SELECT age(DATE '2020-01-01')",
    "SELECT random()",
    "SELECT gen_random_uuid()",
    "SELECT * FROM t TABLESAMPLE BERNOULLI (10)",
    "SELECT current_user",
    "SELECT session_user",
    "SELECT user",
    "SELECT current_role",
    "SELECT current_setting('data_directory')",
    "SELECT version()",
    "SELECT pg_backend_pid()",
    "SELECT relname FROM pg_class",
    "SELECT * FROM information_schema.tables",
    "SELECT 'secret'::regclass",
]
"""Another answer tomorrow or elsewhere."""

HEAVY = [
    ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT COUNT(*) FROM r", {"timeout"}),
    ("SELECT COUNT(*) FROM generate_series(1, 1000000000000)", {"timeout", "memory"}),
    ("SELECT COUNT(*) FROM t a, t b, t c, t d, t e, t f", {"timeout"}),
    ("SELECT length(repeat('x', 2000000000))", {"denied"}),
    ("SELECT lpad('x', 2000000000)", {"denied"}),
    ("SELECT repeat('x', a::int * 100000) FROM t", {"denied"}),
    ("SELECT repeat('x', 900), repeat('y', 900), lpad('z', 900) FROM t", {"too_large"}),
    ("SELECT array_fill(0, ARRAY[100000000])", {"denied"}),
    ("SELECT * FROM t a, t b", {"too_many_rows"}),
    ("WITH RECURSIVE r(s) AS (SELECT 'xxxxxxxx' UNION ALL SELECT s || s FROM r) SELECT length(s) FROM r", {"timeout", "memory"}),
    ("SELECT " + "(" * 5_000 + "1" + ")" * 5_000, {"syntax"}),
    ("SELECT " + "1+" * 9_000 + "1", {"syntax", "ok"}),
    ("SELECT '" + "x" * 10_000_000 + "'", {"syntax"}),
    ("SELECT 1\x00DROP TABLE t", {"syntax", "denied"}),
    ("SELECT '\ud800'", {"syntax"}),
    ("", {"syntax"}),
    ("-- nothing", {"syntax"}),
    ("SELECT", {"syntax"}),
    ("SELECT FROM t", {"syntax"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as found:
        yield found


@pytest.fixture(scope="module")
def admin(server: Postgres) -> str:
    url = new_database(server)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLES)
    return url


@pytest.fixture(scope="module")
def reader(server: Postgres, admin: str) -> str:
    url = make_reader(admin)
    server.execute(f"ALTER ROLE {ROLE} SET statement_timeout = '{round(1000 * SECONDS)}ms'")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"REVOKE SELECT ON secret FROM {ROLE}")
    return url


@pytest.fixture(autouse=True)
def _unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test tries: the data, the schema, the roles and the settings are what they were."""
    if "reader" not in request.fixturenames:
        yield
        return
    admin, reader = request.getfixturevalue("admin"), request.getfixturevalue("reader")
    before = everything(admin)
    yield
    assert everything(admin) == before
    assert not Path("/tmp/prefloop-attack").exists()
    with psycopg.connect(reader) as connection:
        assert connection.execute("SELECT COUNT(*) FROM t").fetchone() == (50,)


def everything(admin: str) -> list[Any]:
    with psycopg.connect(admin) as connection:
        return [
            connection.execute(sql).fetchall()
            for sql in (
                "SELECT md5(string_agg(t::text, '|' ORDER BY a)) FROM t",
                "SELECT * FROM secret",
                "SELECT last_value, is_called FROM numbers",
                "SELECT relname, relnatts, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
                "SELECT COUNT(*) FROM pg_proc",
                "SELECT COUNT(*) FROM pg_largeobject_metadata",
                "SELECT rolname, rolsuper FROM pg_roles ORDER BY 1",
                "SELECT COUNT(*) FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf'",
                "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory'",
            )
        ]


# Each layer alone


@pytest.mark.parametrize("sql", [*STATEMENTS, *CALLS, *UNSTEADY], ids=lambda sql: sql[:60])
def test_the_list_alone_refuses(sql: str) -> None:
    if sql in HARMLESS:
        assert checked_query(sql) == HARMLESS[sql]
        return
    with pytest.raises(RefusedError) as refused:
        checked_query(sql)
    assert refused.value.status in ("denied", "syntax")


def test_the_cursor_and_the_transaction_alone_hold_against_a_superuser(admin: str, reader: str) -> None:
    """No list and no role: the worker's session, on the administrator's own connection."""
    conninfo = read_address(admin).conninfo
    session = Session.open(conninfo)
    for sql in [*STATEMENTS, *CALLS]:
        if "run_program" in sql:
            continue  # a program that its owner runs: neither cursor nor transaction sees it, the role may not call it
        started = time.monotonic()
        found = session.run(sql, SECONDS, 100, 100_000, check=False)
        assert time.monotonic() - started < 20, sql
        assert found["status"] != "ok" or sql in CALLS or sql in HARMLESS, (sql, found)
        if session.connection.closed:
            session = Session.open(conninfo)
    found = session.run(
        "SELECT current_setting('statement_timeout'), pg_backend_pid() > 0", SECONDS, 9, 999, check=False
    )
    assert found["rows"] == [[f"{round(1000 * SECONDS)}ms", 1]]
    session.connection.close()


def test_the_role_alone_holds_without_transaction_or_cursor(reader: str) -> None:
    """A plain connection that commits what it may, several statements at once included."""
    public = ("CREATE TEMP", "lo_create", "lo_from_bytea")  # what every role may do: the other layers hold
    for sql in [*STATEMENTS, *CALLS, *READS]:
        if any(word in sql for word in public):
            continue
        with closing(psycopg.connect(reader, autocommit=True)) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute("SET statement_timeout = 300")
            with suppress(psycopg.Error):
                connection.execute(sql)
    for sql in READS:
        with closing(psycopg.connect(reader)) as connection, pytest.raises(psycopg.Error):
            connection.execute(sql)


# All together


def test_no_attack_succeeds_and_the_server_still_answers(reader: str) -> None:
    attacks = [*STATEMENTS, *CALLS, *READS, *UNSTEADY]
    assert len(attacks) >= 25
    with SandboxPool([reader], 2, LIMITS) as pool:
        results = pool.run([(0, sql) for sql in attacks])
        assert pool.killed == 0
        for sql, result in zip(attacks, results, strict=True):
            refused = {"ok"} if sql in HARMLESS else {"denied", "syntax", "unknown_function"}
            assert result.status in refused, (sql, result)
        (answered,) = pool.run([(0, "SELECT COUNT(*) FROM t")])
    assert (answered.status, answered.rows) == ("ok", ((50,),))


def test_heavy_queries_end_and_are_counted(reader: str) -> None:
    with SandboxPool([reader], 2, LIMITS) as pool:
        for (sql, allowed), result in zip(HEAVY, pool.run([(0, sql) for sql, _ in HEAVY]), strict=True):
            assert result.status in allowed, (sql[:80], result)


def test_mutated_queries_neither_hang_nor_crash(reader: str) -> None:
    rng = random.Random(1)
    seeds = [*STATEMENTS, *CALLS, *UNSTEADY, "SELECT b, COUNT(*) FROM t GROUP BY b ORDER BY 2 DESC LIMIT 3"]
    queries = []
    for _ in range(250):
        pieces = rng.choice(seeds).split(" ")
        for _ in range(rng.randint(1, 4)):
            pieces[rng.randrange(len(pieces))] = rng.choice(rng.choice(seeds).split(" "))
        queries.append((0, " ".join(pieces)))
    with SandboxPool([reader], 2, LIMITS) as pool:
        assert not {"internal", "memory"} & {result.status for result in pool.run(queries)}
        assert pool.killed == 0


# Errors and values


@pytest.mark.parametrize(("sql", "status"), [
    ("SELECT missing FROM t", "unknown_column"),
    ("SELECT * FROM nowhere", "unknown_table"),
    ("SELECT * FROM nowhere.t", "unknown_table"),
    ("SELECT a FROM t x JOIN t y ON x.a = y.a", "ambiguous_column"),
    ("SELECT nofunc(a) FROM t", "unknown_function"),
    ("SELECT IFNULL(a, 0) FROM t", "unknown_function"),
    ("SELECT b + 1 FROM t", "type"),
    ("SELECT a = b FROM t", "type"),
    ("SELECT 1 / 0", "type"),
    ("SELECT 'x'::int", "type"),
    ("SELECT b, COUNT(*) FROM t", "syntax"),
    ("SELECT * FROM secret", "denied"),
    ("SELEC 1", "syntax"),
])  # fmt: skip
def test_error_classes(reader: str, sql: str, status: str) -> None:
    with SandboxPool([reader], 1, LIMITS) as pool:
        assert pool.run([(0, sql)])[0].status == status


def test_values_come_as_sqlite_would_give_them(reader: str) -> None:
    sql = """SELECT NULL, 1, 1.5, 'é', 2::numeric, 2.50::numeric, 1e300::numeric, 12345678901234567890, 'NaN'::float8,
    'Infinity'::float8, 'NaN'::numeric, true, 1 = 2, '\\x00ff'::bytea, DATE '2024-01-31', TIMESTAMP '2024-01-31 10:00',
    TIMESTAMPTZ '2024-01-31 10:00+02', 'ab'::char(5), ARRAY[1, 2], '{"a": 1}'::jsonb, AVG(a), SUM(a), COUNT(*),
    0.1::real, INTERVAL '3 days', ROW(1, 'x') FROM t"""
    with SandboxPool([reader], 1, LIMITS) as pool:
        (found,) = pool.run([(0, sql)])
    assert found.status == "ok", found
    row = list(found.rows[0])
    assert [repr(row.pop(i)) for i in (10, 8)] == ["nan", "nan"]
    assert repr(row) == repr(
        [None, 1, 1.5, "é", 2, 2.5, 1e300, 12345678901234567890.0, float("inf"), 1, 0, b"\x00\xff", "2024-01-31",
         "2024-01-31 10:00:00", "2024-01-31 08:00:00+00", "ab", "{1,2}", '{"a": 1}', 25.5, 1275, 50, 0.1, "3 days",
         "(1,x)"]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT 'it''s -- /* no comment */ ; $x$'", (("it's -- /* no comment */ ; $x$",),)),
        ("SELECT a/* a */+1 FROM t -- the last\nORDER BY a DESC LIMIT 1;", ((51,),)),
        ("WITH x AS (SELECT a FROM t WHERE b !~ '[1-6]$') SELECT COUNT(*), MIN(a) FROM x", ((7, 7),)),
        ("SELECT DISTINCT ON (b) b, a FROM t ORDER BY b, a LIMIT 1", (("name 0", 7),)),
        ("SELECT PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY a) FROM t", ((25.5,),)),
        ("SELECT SUM(a) FILTER (WHERE a <= 3), (SELECT 1) FROM t", ((6, 1),)),
        ("SELECT x.n FROM t, LATERAL (SELECT t.a * 2 AS n) x ORDER BY n FETCH FIRST 1 ROWS ONLY", ((2,),)),
        ("SELECT a, RANK() OVER (PARTITION BY b ORDER BY a DESC) FROM t WHERE a > 49", ((50, 1),)),
        (
            "SELECT EXTRACT(YEAR FROM DATE '2024-01-31'), ('2024-01-31'::date + INTERVAL '1 day')::text",
            ((2024, "2024-02-01 00:00:00"),),
        ),
        ("SELECT * FROM (VALUES (1, 'a'), (2, 'b')) v(n, s) WHERE n = ANY(ARRAY[2])", ((2, "b"),)),
        (
            "SELECT SPLIT_PART('8-18', '-', 1)::int, ROUND(2.345::numeric, 2), 7 % 4, 2 ^ 3, .5",
            ((8, 2.35, 3, 8.0, 0.5),),
        ),
        ("TABLE t EXCEPT SELECT * FROM t WHERE a > 1", ((1, "name 1"),)),
    ],
)
def test_usual_queries_run_as_they_are_written(reader: str, sql: str, rows: tuple[Any, ...]) -> None:
    with SandboxPool([reader], 1, LIMITS) as pool:
        (found,) = pool.run([(0, sql)])
    assert (found.status, found.rows) == ("ok", rows), found


# Time-outs and killed workers


def test_a_query_that_waited_for_another_is_tried_once_more_alone(reader: str, admin: str) -> None:
    """A lock that is let go after the first attempt: the second succeeds."""
    with psycopg.connect(admin) as writer, SandboxPool([reader], 1, LIMITS) as pool:
        writer.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        (found,) = pool.run([(0, "SELECT COUNT(*) FROM t")], lambda done: writer.rollback())
    assert (found.status, found.rows) == ("ok", ((50,),))


def test_the_server_stops_a_query_whose_worker_was_killed(server: Postgres, admin: str, reader: str) -> None:
    server.execute(f"ALTER ROLE {ROLE} SET statement_timeout = '300s'")
    try:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "prefloop.sql.postgres_worker", "300000", "100", "100000", "1024"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        assert worker.stdin is not None
        conninfo = read_address(reader).conninfo.replace('"', '\\"')
        worker.stdin.write(f'{{"id": 1, "database": "{conninfo}", "sql": "{HEAVY[0][0]}"}}\n')
        worker.stdin.flush()
        with psycopg.connect(admin, autocommit=True) as watch:
            running = f"SELECT COUNT(*) FROM pg_stat_activity WHERE usename = '{ROLE}' AND state = 'active'"
            wait_for(watch, running, 1)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            wait_for(watch, f"SELECT COUNT(*) FROM pg_stat_activity WHERE usename = '{ROLE}'", 0)
    finally:
        server.execute(f"ALTER ROLE {ROLE} SET statement_timeout = '{round(1000 * SECONDS)}ms'")


def wait_for(connection: psycopg.Connection[Any], sql: str, count: int) -> None:
    end = time.monotonic() + 60
    while connection.execute(sql).fetchone() != (count,):
        assert time.monotonic() < end, sql
        time.sleep(0.05)  # between looks


def test_a_connection_that_the_server_ended_is_opened_again(server: Postgres, reader: str) -> None:
    with SandboxPool([reader], 1, LIMITS) as pool:
        for _ in range(2):
            assert pool.run([(0, "SELECT COUNT(*) FROM t")])[0].status == "ok"
            server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'")
        assert pool.killed == 0


def test_a_killed_worker_loses_nothing(reader: str) -> None:
    with SandboxPool([reader], 2, LIMITS) as pool:
        queries = [(0, f"SELECT COUNT(*) + {i} FROM t a, t b") for i in range(40)]
        expected = pool.run(queries)
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        assert pool.run(queries) == expected
        assert pool.killed == 2


# Roles


@pytest.mark.parametrize(
    ("granted", "said"),
    [
        ("ALTER ROLE r SUPERUSER", "is a superuser"),
        ("ALTER ROLE r CREATEROLE", "may create roles"),
        ("ALTER ROLE r CREATEDB", "may create databases"),
        ("CREATE TABLE own (x int); ALTER TABLE own OWNER TO r", "owns table own"),
        ("GRANT INSERT ON t TO r", "may write table public.t"),
        ("GRANT UPDATE (b) ON t TO r", "may write table public.t"),
        ("GRANT TRUNCATE ON t TO PUBLIC", "may write table public.t"),
        ("GRANT USAGE ON SEQUENCE numbers TO r", "may advance sequence public.numbers"),
        ("GRANT CREATE ON SCHEMA public TO r", "may create tables in schema public"),
        ("DO $$ BEGIN EXECUTE 'GRANT CREATE ON DATABASE ' || current_database() || ' TO r'; END $$", "may create schemas"),
        ("GRANT pg_write_all_data TO r", "is a member of pg_write_all_data"),
        ("GRANT pg_execute_server_program TO r", "is a member of pg_execute_server_program"),
        ("CREATE ROLE boss; GRANT INSERT ON t TO boss; ALTER ROLE r NOINHERIT; GRANT boss TO r", "may write table public.t"),
        ("CREATE FUNCTION f(x int) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", r"may call public\.f\(x integer\)"),
        ("ALTER ROLE r RESET temp_file_limit", "has no temp_file_limit"),
        ("REVOKE SELECT ON t FROM r", "may read no table there"),
    ],
)  # fmt: skip
def test_a_role_that_can_do_more_or_nothing_is_refused(server: Postgres, granted: str, said: str) -> None:
    admin = new_database(server)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int, b text); CREATE SEQUENCE numbers; CREATE ROLE r LOGIN")
        connection.execute("ALTER ROLE r SET temp_file_limit = '1GB'")
        connection.execute("GRANT SELECT ON t TO r")
        url = admin.replace("//postgres@", "//r@")
        try:
            connect_readonly(url).close()
            connection.execute(granted)
            with pytest.raises(DataError, match=said) as refused:
                SandboxPool([url])
            assert "\n" not in str(refused.value)
        finally:
            connection.execute("DROP OWNED BY r; DROP ROLE r")
            connection.execute("DROP OWNED BY boss; DROP ROLE boss") if "boss" in granted else None


def test_the_printed_sql_makes_a_right_role(admin: str, reader: str) -> None:
    with connect_readonly(reader) as connection:
        assert connection.execute("SELECT COUNT(*) FROM t").fetchone() == (50,)
        connection.rollback()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TEMP TABLE x (y int)")


# Addresses and passwords


@pytest.fixture
def password(server: Postgres, admin: str, reader: str) -> Iterator[str]:
    """The reader needs one."""
    with psycopg.connect(admin, autocommit=True) as connection:
        (place,) = connection.execute("SHOW hba_file").fetchone() or ()
        hba = Path(place)
        before = hba.read_text()
        connection.execute(f"ALTER ROLE {ROLE} PASSWORD 'op3n%sesame'")
        hba.write_text(f"local all {ROLE} scram-sha-256\n{before}")
        connection.execute("SELECT pg_reload_conf()")
        until_read(reader, refused=True)
        try:
            yield "op3n%sesame"
        finally:
            hba.write_text(before)
            connection.execute("SELECT pg_reload_conf()")
            until_read(reader, refused=False)


def until_read(url: str, *, refused: bool) -> None:
    """Until the server goes by its changed file: it reads it some time after it was told to."""
    end = time.monotonic() + 60
    while can_connect(url) == refused:
        assert time.monotonic() < end
        time.sleep(0.05)  # between looks


def can_connect(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def refused_without(url: str, secret: str) -> str:
    with pytest.raises(DataError) as failed:
        SandboxPool([url], 1, LIMITS)
    assert secret not in str(failed.value)
    return str(failed.value)


def test_a_password_goes_to_the_worker_alone(
    password: str, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_password = reader.replace(f"{ROLE}@", f"{ROLE}:op3n%25sesame@")
    with SandboxPool([with_password], 1, LIMITS) as pool:
        assert pool.run([(0, "SELECT COUNT(*) FROM t")])[0].rows == ((50,),)
        for pid in pool.pids:
            assert password not in Path(f"/proc/{pid}/cmdline").read_text()
    assert password not in identity(with_password)
    assert password not in repr(read_address(with_password))
    assert "cannot be reached" in refused_without(reader, password)
    assert "cannot be reached" in refused_without(with_password.replace("sesame", "wrong"), "op3n")
    monkeypatch.setenv("PGPASSWORD", password)
    with SandboxPool([reader], 1, LIMITS) as pool:
        assert pool.run([(0, "SELECT 1")])[0].status == "ok"
    monkeypatch.delenv("PGPASSWORD")
    passes = tmp_path / "pgpass"
    passes.write_text(f"*:*:*:{ROLE}:{password}\n")
    passes.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passes))
    with SandboxPool([reader], 1, LIMITS) as pool:
        assert pool.run([(0, "SELECT 1")])[0].status == "ok"


def test_a_url_that_is_none_or_leads_nowhere_is_named_without_its_password() -> None:
    assert "cannot be read" in refused_without("postgresql://me:op3n%zz@host/name", "op3n")
    assert "me@127.0.0.1:1/name cannot be reached" in refused_without("postgresql://me:op3n@127.0.0.1:1/name", "op3n")
    assert "sslpassword" in refused_without("postgresql://me@h/n?sslpassword=op3n", "op3n")


@pytest.mark.parametrize(
    ("place", "host", "port"),
    [
        ("[2001:db8::1]:5433/", "2001:db8::1", "5433"),
        ("a:5433,[::1]:5434/", "a,::1", "5433,5434"),
        ("a,b/", "a,b", ","),
        (":5433/", None, "5433"),
    ],
)
def test_another_roles_url_leads_to_the_same_hosts(place: str, host: str | None, port: str | None) -> None:
    url = f"postgresql://owner:op3n@{place}shop?options=-cgeqo%3Doff"
    assert "op3n" not in read_address(url).shown
    found = conninfo_to_dict(url_as(url, "reader", ["My sales", "public"]))
    assert (found.get("host"), found.get("port"), found["user"], found["dbname"]) == (host, port, "reader", "shop")
    assert found["options"] == '-cgeqo=off -csearch_path="My\\ sales",public'
    assert "password" not in found


def test_docstring_examples() -> None:
    for module in (address_module, postgres_query):
        found = doctest.testmod(module)
        assert found.attempted >= 1
        assert not found.failed
