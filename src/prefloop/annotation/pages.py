"""The pages of a rater: read the guidelines, judge, look at one's own verdicts; and what every page is made with."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from prefloop.annotation.accounts import Person
from prefloop.annotation.api_models import Key
from prefloop.annotation.people import page_person, running, service_of
from prefloop.annotation.protocol import SKIPS, RefusedError
from prefloop.annotation.queue import Nothing
from prefloop.annotation.rendering import messages_html, to_html
from prefloop.annotation.results import result_table
from prefloop.annotation.schema import item, judgement, rater, showing
from prefloop.annotation.service import Service
from prefloop.annotation.shown import Shown, last_verdict, own_verdicts, show, shown_before
from prefloop.annotation.stream import read_project
from prefloop.annotation.throttle import ThrottledError
from prefloop.annotation.webhooks import lease
from prefloop.config.annotation import AnnotationConfig

HERE = Path(__file__).parent
TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
OWN = 200
"""Own verdicts listed."""
STRENGTHS = (
    (1, "much better", "left"),
    (2, "better", "left"),
    (3, "about equal", ""),
    (4, "better", "right"),
    (5, "much better", "right"),
)


def moment(milliseconds: int) -> Markup:
    """A time for people to read, to the minute."""
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return Markup(f'<time datetime="{at:%Y-%m-%dT%H:%M:%SZ}">{at:%Y-%m-%d %H:%M} UTC</time>')


TEMPLATES.filters["moment"] = moment
router = APIRouter(include_in_schema=False)
Somebody = Annotated[Person, Depends(page_person)]
Running = Annotated[Service, Depends(running)]


def page(template: str, request: Request, person: Person | None, status: int = 200, /, **values: Any) -> HTMLResponse:
    """A template, with what every page shows."""
    service = service_of(request)
    shared = {"person": person, "insecure": service.address.insecure, "alone": service.alone}
    return HTMLResponse(TEMPLATES.get_template(template).render(**shared, **values), status)


@router.get("/")
async def home(person: Somebody) -> Response:
    """The desk for the person who runs it, the queue for others."""
    return RedirectResponse("/desk" if person.role == "admin" else "/judge", 303)


@router.get("/welcome")
async def welcome_page(request: Request, person: Somebody, service: Running) -> Response:
    config = (await service.read(read_project)).config
    return page("welcome.html", request, person, project=config, text=_welcome(config))


@router.post("/welcome")
async def welcome(person: Somebody, service: Running) -> Response:
    config = (await service.read(read_project)).config
    agreed = {"guidelines": _hash(config.guidelines), "consent": _hash(config.consent)}
    await service.write(lambda c: c.execute(sa.update(rater).where(rater.c.id == person.id).values(**agreed)))
    return RedirectResponse("/judge", 303)


@router.get("/judge")
async def work(request: Request, person: Somebody, service: Running) -> Response:
    """The item that this person holds, or the next one."""
    config = (await service.read(read_project)).config
    if await service.read(partial(_unread, rater_id=person.id, config=config)):
        return RedirectResponse("/welcome", 303)
    now = service.clock()
    found = await service.write(lambda connection: lease(connection, person.id, now))
    counts = await service.read(lambda connection: _counts(connection, person))
    if isinstance(found, Nothing):
        project = await service.read(read_project)
        return page("nothing.html", request, person, project=config, reason=found.reason, why=project.reason, **counts)
    shown = await service.read(lambda connection: show(connection, found, person.id))
    return await asyncio.to_thread(_item_page, request, person, config, shown, counts)


@router.get("/judge/last")
async def last(person: Somebody, service: Running, before: Key | None = None) -> Response:
    """Back to the last verdict, or to the one before a verdict."""
    found = await service.read(lambda connection: last_verdict(connection, person.id, before))
    return RedirectResponse(f"/judge/{found}" if found else "/judge", 303)


@router.get("/judge/{item_id}")
async def again(request: Request, item_id: str, person: Somebody, service: Running) -> Response:
    """An item that this person was shown before."""
    config = (await service.read(read_project)).config
    shown = await service.read(lambda connection: shown_before(connection, item_id, person.id))
    counts = await service.read(lambda connection: _counts(connection, person))
    return await asyncio.to_thread(_item_page, request, person, config, shown, counts)


@router.get("/mine")
async def mine(request: Request, person: Somebody, service: Running) -> Response:
    """One's own verdicts, newest first."""
    rows = await service.read(lambda connection: _own(connection, person.id))
    return page("mine.html", request, person, rows=rows, most=OWN)


def once_more(
    template: str, request: Request, error: RefusedError, person: Person | None = None, /, **values: Any
) -> Response:
    """A form again, with what was wrong; after too many tries with the time to wait."""
    if not isinstance(error, ThrottledError):
        return page(template, request, person, 403, error=str(error), **values)
    response = page(template, request, person, 429, error=str(error), **values)
    response.headers["Retry-After"] = str(error.seconds)
    return response


def _item_page(
    request: Request, person: Person, config: AnnotationConfig, shown: Shown, counts: dict[str, int]
) -> Response:
    """In a thread of its own: hostile text can take seconds to render."""
    results = [answer.result for answer in shown.answers]
    hashes = {result["identical_to"] for result in results if result}
    answers = [
        {
            "index": answer.index,
            "label": _label(place, len(shown.answers)),
            "html": Markup(rendered(answer.text)),
            "text": answer.text,
            "result": Markup(table(answer.result)) if answer.result else "",
        }
        for place, answer in enumerate(shown.answers)
    ]
    return page(
        "work.html",
        request,
        person,
        project=config,
        shown=shown,
        prompt=question(shown.messages),
        context={title: Markup(to_html(text)) for title, text in shown.context.items()},
        answers=answers,
        identical=len(hashes) == 1 and None not in hashes and all(results),
        strengths=STRENGTHS,
        skips=SKIPS,
        **counts,
    )


def _label(place: int, of: int) -> str:
    return ("Left", "Right")[place] if of == 2 else "ABCDEFGHI"[place]


def question(messages: Sequence[Mapping[str, str]]) -> Markup:
    """The conversation; one question stands without its role."""
    alone = len(messages) == 1 and messages[0]["role"] == "user"
    return Markup(rendered(messages[0]["content"]) if alone else messages_html(messages))


@lru_cache(maxsize=256)
def rendered(text: str) -> str:
    """`to_html`; what several people read at a time is rendered once."""
    return to_html(text)


def table(result: dict[str, Any]) -> str:
    return result_table(result["rows"], result["columns"], result["error"], count=result["count"])


def _counts(connection: sa.Connection, person: Person) -> dict[str, int]:
    """Own verdicts; for those who may know it, the slots of the project that are filled and wanted."""
    mine = (judgement.c.rater_id == person.id, judgement.c.current, judgement.c.kind != "withdrawn")
    own = connection.scalar(sa.select(sa.func.count()).where(*mine)) or 0
    if person.role == "rater":
        return {"own": own, "done": 0, "wanted": 0}
    totals = sa.select(sa.func.sum(item.c.done), sa.func.sum(item.c.target)).where(item.c.role == "item")
    done, wanted = connection.execute(totals.where(item.c.status != "aside")).one()
    return {"own": own, "done": done or 0, "wanted": wanted or 0}


def _own(connection: sa.Connection, rater_id: int) -> list[Any]:
    rows = own_verdicts(rater_id, judgement, item.c.messages, showing.c.handle)
    return list(connection.execute(rows.limit(OWN)).all())


def _unread(connection: sa.Connection, rater_id: int, config: AnnotationConfig) -> bool:
    """Whether there are guidelines, or a text to agree to, that this person has not seen in this wording."""
    if not any(_welcome(config).values()):
        return False
    row = connection.execute(sa.select(rater.c.guidelines, rater.c.consent).where(rater.c.id == rater_id)).one()
    return (row.guidelines, row.consent) != (_hash(config.guidelines), _hash(config.consent))


def _welcome(config: AnnotationConfig) -> dict[str, Markup]:
    texts = {"guidelines": config.guidelines, "consent": config.consent}
    return {name: Markup(to_html(text) if text.strip() else "") for name, text in texts.items()}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
