"""The process beside the server that computes the figures, and what the server does with them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from annotation_projects import START, Project, item_of, projects

from prefloop.annotation import background
from prefloop.annotation.background import DATABASE_VARIABLE, Background, Latest, stop
from prefloop.annotation.control import record, set_state
from prefloop.annotation.queue import Nothing, lease
from prefloop.annotation.schema import delivery, event, item
from prefloop.annotation.schema import project as project_table
from prefloop.annotation.service import Address, Service
from prefloop.annotation.webhooks import register
from prefloop.config.annotation import StopConfig

NONE_MET = '{"stop": []}'


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    with projects(tmp_path) as build:
        yield build


@pytest.fixture
def served(make: Callable[..., Project]) -> tuple[Project, Service, list[int]]:
    """A project with verdicts, its service, and the clock the service goes by."""
    project, clock = make(), [START]
    ids = project.add([item_of(n) for n in range(2)])
    project.judge(project.raters(1)[0], dict.fromkeys(ids, "first"))
    return project, Service(project.database, project.writer, Address("http://127.0.0.1:1"), lambda: clock[0]), clock


def script(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Run this in place of the figures."""
    monkeypatch.setattr(background, "COMMAND", (sys.executable, "-c", text))


def test_the_server_gets_the_figures_from_another_process(served: tuple[Project, Service, list[int]]) -> None:
    project, service, _ = served
    project.writer.run(lambda connection: record(connection, "note", "before", START))

    async def ask() -> tuple[Latest, Latest, Latest]:
        desk = Background(service)
        begun = await desk.refresh()
        return begun, await desk.wait(), await desk.refresh()

    begun, found, again = asyncio.run(ask())
    assert begun == Latest(running=True)
    assert found == again == Latest(project.figures(), START)


def test_runs_are_seldom_single_and_only_after_a_change(
    served: tuple[Project, Service, list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project, service, clock = served
    runs = tmp_path / "runs"
    script(monkeypatch, f"open({str(runs)!r}, 'a').write('x'); print('{NONE_MET}')")

    async def at(seconds: int, desk: Background) -> int:
        clock[0] = START + 1000 * seconds
        await asyncio.gather(*(desk.refresh() for _ in range(5)))
        await desk.wait()
        return len(runs.read_text())

    async def ask() -> None:
        desk = Background(service, every=30)
        assert await at(0, desk) == 1
        assert await at(100, desk) == 1  # nothing has changed
        project.judge(project.raters(1)[0], dict.fromkeys(_ids(project), "second"))
        assert await at(101, desk) == 2
        project.writer.run(lambda connection: record(connection, "removed", "rater 1", START))
        assert await at(130, desk) == 2  # too soon
        assert await at(131, desk) == 3
        assert desk.latest == Latest(json.loads(NONE_MET), START + 131_000)

    asyncio.run(ask())


def _ids(project: Project) -> list[str]:
    with project.database.reading.connect() as connection:
        return list(connection.scalars(sa.select(item.c.id)))


def test_a_run_that_fails_leaves_the_last_figures_and_a_reason(
    served: tuple[Project, Service, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, service, clock = served

    async def ask(desk: Background) -> Latest:
        clock[0] += 60_000
        await desk.refresh()
        return await desk.wait()

    async def all_of() -> list[Latest]:
        desk, found = Background(service), []
        for text in ("import sys; sys.exit('no room')", f"print('{NONE_MET}')", "", "print('not JSON')"):
            script(monkeypatch, text)
            found.append(await ask(desk))
        return found

    failed, right, *rest = asyncio.run(all_of())
    assert failed == Latest(failure="the figures could not be computed: no room")
    assert right == Latest(json.loads(NONE_MET), START + 120_000)  # tried again, though nothing had changed
    assert rest == [right, right]  # nothing has changed since: not run


def test_words_that_are_no_figures_are_a_failure(
    served: tuple[Project, Service, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> Latest:
        desk = Background(served[1])
        await desk.refresh()
        return await desk.wait()

    script(monkeypatch, "print('not JSON')")
    assert "Expecting value" in asyncio.run(ask()).failure
    monkeypatch.setattr(background, "COMMAND", ("/no/such/program",))
    assert "/no/such/program" in asyncio.run(ask()).failure


def test_a_run_that_takes_too_long_or_is_not_wanted_is_killed(
    served: tuple[Project, Service, list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    script(
        monkeypatch,
        f"import os, pathlib, signal; pathlib.Path({str(pid)!r} + '~').write_text(str(os.getpid()));"
        f"os.rename({str(pid)!r} + '~', {str(pid)!r}); signal.pause()",
    )

    async def too_long() -> Latest:
        desk = Background(served[1], timeout=0.5)
        await desk.refresh()
        return await desk.wait()

    async def closed() -> Latest:
        desk = Background(served[1])
        await desk.refresh()
        while not pid.exists():
            await asyncio.sleep(0.01)
        await desk.close()
        return desk.latest

    found = asyncio.run(too_long())
    assert "more than 0.5 s" in found.failure
    assert not found.running
    pid.unlink(missing_ok=True)
    assert asyncio.run(closed()) == Latest()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_process_is_nice_and_its_password_is_in_the_environment_alone(
    served: tuple[Project, Service, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, service, _ = served
    url = sa.make_url("postgresql+psycopg://me:hidden@127.0.0.1:1/none")
    service.database = replace(service.database, url=url)
    script(
        monkeypatch,
        "import json, os, pathlib, time\n"
        f"while os.nice(0) < {background.NICENESS}: time.sleep(0.01)\n"
        "line = pathlib.Path('/proc/self/cmdline').read_text()\n"
        f"print(json.dumps({{'stop': [], 'seen': 'hid' + 'den' in line, 'named': os.environ[{DATABASE_VARIABLE!r}]}}))",
    )

    async def ask() -> Latest:
        desk = Background(service)
        await desk.refresh()
        return await desk.wait()

    place = "postgresql+psycopg://me:hidden@127.0.0.1:1/none"
    assert asyncio.run(ask()).figures == {"stop": [], "seen": False, "named": place}


# Stop rules


def rule(name: str, wanted: float, now: float | None, met: bool = True) -> dict[str, Any]:
    return {"rule": name, "wanted": wanted, "now": now, "met": met, "why": ""}


def standing(project: Project) -> tuple[str, str]:
    """State and reason."""
    with project.database.reading.connect() as connection:
        return tuple(connection.execute(sa.select(project_table.c.state, project_table.c.reason)).one())


def test_a_rule_that_is_met_stops_the_project_once(make: Callable[..., Project]) -> None:
    project = make()

    def act(*rules: dict[str, Any]) -> tuple[str, str]:
        project.writer.run(lambda connection: stop(connection, list(rules), START))
        return standing(project)

    def go_on() -> None:
        project.writer.run(lambda connection: set_state(connection, "running", "", START))

    few, narrow = rule("judgements", 100, 107), rule("agreement_width", 0.1, 0.0951)
    assert act(few | {"met": False}, narrow | {"met": False, "now": None})[0] == "running"
    assert act(few, narrow | {"met": False}) == (
        "stopped",
        "enough has been judged: 107 judgements were given, and 100 were wanted",
    )
    go_on()
    assert act(few)[0] == "running"  # somebody has decided to go on
    state, reason = act(few, narrow)
    assert (state, "judgements" in reason, "0.095 wide, and 0.1 is" in reason) == ("stopped", False, True)
    go_on()
    assert act(few, narrow)[0] == "running"
    more, strong = rule("judgements", 200, 201), rule("preference_width", 0.5, 0.4)
    state, reason = act(more, strong)  # what is wanted has changed
    assert (state, reason.count("; "), "201" in reason, "strength is 0.4" in reason) == ("stopped", 1, True, True)


def test_a_project_that_was_paused_is_left_alone(make: Callable[..., Project]) -> None:
    project = make()
    project.writer.run(lambda connection: set_state(connection, "paused", "lunch", START))
    project.writer.run(lambda connection: stop(connection, [rule("judgements", 1, 2)], START))
    assert standing(project) == ("paused", "lunch")
    project.writer.run(lambda connection: set_state(connection, "running", "", START))
    project.writer.run(lambda connection: stop(connection, [rule("judgements", 1, 2)], START))
    assert standing(project)[0] == "stopped"


def test_the_figures_of_a_project_with_enough_verdicts_stop_it(make: Callable[..., Project]) -> None:
    project = make(stop=StopConfig(judgements=3, agreement_width=0.001))
    hook, _ = project.writer.run(lambda c: register(c, "http://127.0.0.1:1/", ["project.stopped"], START))
    ids = project.add([item_of(n) for n in range(4)])
    raters = project.raters(3)
    service = Service(project.database, project.writer, Address("http://127.0.0.1:1"), lambda: START)

    async def look() -> tuple[str, str]:
        desk = Background(service, every=0)
        await desk.refresh()
        assert not (await desk.wait()).failure
        return standing(project)

    project.judge(raters[0], dict.fromkeys(ids, "first"))
    state, reason = asyncio.run(look())
    assert (state, "4 judgements were given, and 3" in reason) == ("stopped", True)
    assert project.writer.run(lambda connection: lease(connection, raters[1], START)) == Nothing("stopped")
    with project.database.reading.connect() as connection:
        sent = connection.execute(sa.select(delivery)).one()
        log = connection.execute(sa.select(event.c.what, event.c.about, event.c.rater_id).order_by(event.c.id)).all()
    assert (sent.webhook_id, sent.payload["data"]) == (hook, {"reason": reason})
    assert log[-2:] == [("stop rule", "judgements 3", None), ("stopped", reason, None)]

    project.writer.run(lambda connection: set_state(connection, "running", "", START))
    project.judge(raters[1], dict.fromkeys(ids, "first"))
    assert asyncio.run(look())[0] == "running"  # 8 judgements, and on


def test_rules_are_watched_where_nobody_sees_the_desk(
    make: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make(stop=StopConfig(judgements=1))
    service = Service(project.database, project.writer, Address("http://127.0.0.1:1"), lambda: START)
    script(monkeypatch, f"print({json.dumps(json.dumps({'stop': [rule('judgements', 1, 2)]}))})")
    looks = []

    class Faulty(Background):
        async def refresh(self) -> Latest:
            looks.append(len(looks))
            if len(looks) == 1:
                raise OSError("the database is away for a moment")
            return await super().refresh()

    async def ask() -> None:
        desk = Faulty(service, every=0)
        watching = asyncio.create_task(desk.watch())
        while standing(project)[0] == "running":
            await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.wait([watching])
        await desk.close()

    asyncio.run(ask())
    assert len(looks) > 1


def test_without_rules_nothing_is_watched(served: tuple[Project, Service, list[int]]) -> None:
    desk = Background(served[1])
    asyncio.run(desk.watch())
    assert desk.latest == Latest()


def test_a_stop_that_cannot_be_saved_is_a_failure(
    served: tuple[Project, Service, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, service, _ = served
    met = {"stop": [rule("judgements", 1, 2)]}
    script(monkeypatch, f"print({json.dumps(json.dumps(met))})")
    project.writer.close()

    async def ask() -> Latest:
        desk = Background(service)
        await desk.refresh()
        return await desk.wait()

    assert asyncio.run(ask()) == Latest(met, START, failure="the server is stopping")
    assert standing(project)[0] == "running"


def test_the_server_side_imports_no_statistics() -> None:
    code = (
        "import sys, prefloop.annotation.background, prefloop.annotation.progress, prefloop.annotation.simulate;"
        "print(*{'numpy', 'scipy', 'pandas', 'torch', 'prefloop.annotation.figures'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
