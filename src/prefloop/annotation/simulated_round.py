"""The people of a round, simulated: its answers are ranked in an annotation project of their own, then collected.

The real queue hands out the items that `prefloop annotate` would make, and the real writer and export keep what raters
of known noise say of them, so that a round with people differs in who ranks and in nothing else. What is written says
everywhere that nobody judged anything. The clock starts at 0 and the project's secret is drawn from the inputs: the
same inputs give the same verdicts, orders and ids.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.database import Database, open_database, owned
from prefloop.annotation.export import export_project
from prefloop.annotation.items import NewItem, add_items, blinded, create_project
from prefloop.annotation.schema import project
from prefloop.annotation.simulate import SimulatedRater, enrol, simulate
from prefloop.annotation.sources import read_items
from prefloop.annotation.writer import Writer
from prefloop.config.annotation import AnnotationConfig, SelectionConfig
from prefloop.config.loop import RatersConfig
from prefloop.errors import ConfigError, DataError, StoreError
from prefloop.judging.people import FOLDER, JUDGEMENTS, PROJECT
from prefloop.records import Judgement, content_id
from prefloop.store.files import read_json, write_json, write_text, writing
from prefloop.store.run_folder import PROJECT as DATABASE
from prefloop.store.run_folder import WORK
from prefloop.store.tables import read_records, write_records

SUMMARY = "simulated.json"
"""Who the raters of a collection were; it stands beside collections of simulated raters alone."""
SIMULATED = "simulated"
"""Key of ``raw``, true in every judgement of a simulated rater."""
NOTICE = "**Simulated: no person judged anything here.** Made-up raters of known noise ranked the answers.\n\n"
START = 0
"""When simulated raters begin, in milliseconds."""
_TITLE = re.compile(r"^# .*\n\n", re.MULTILINE)


def collect_simulated(root: Path, raters: RatersConfig, quality: Mapping[str, float], seed: int) -> dict[str, Any]:
    """Let simulated raters rank a round's answers, and write what they said as `prefloop collect` does.

    A collection that was killed starts again; one that is whole is left as it is.

    Args:
        root: the round's folder, with ``prompts.parquet`` and ``completions.parquet``. The collection goes to
            ``people/`` inside it: ``judgements.parquet`` holds one ranking (of two answers: a choice) for every
            verdict, judge ``people/simulated-N``.
        quality: log strength of every answer, by completion id: of two, a rater draws the first as the better one with
            probability σ(difference), before its own noise.
        seed: of the choice of items, the orders shown and the raters' noise.

    Returns:
        What ``people/simulated.json`` says: ``raters`` with their skills, ``items``, ``judgements``, ``open_items``,
        ``pairs`` and the ``settings``.

    Raises:
        ConfigError: people are to judge, or an item asks for more raters than there are.
        DataError: an answer without a quality, or nothing to compare.
        StoreError: ``people/`` holds what somebody else collected, or the folder cannot be written.
    """
    _check(raters)
    config = _settings(raters, seed)
    items, source = _items(root, config)
    missing = sorted({answer.id for item in items for answer in item.answers} - quality.keys())
    if missing:
        raise DataError(f"{len(missing):,} answers have no quality, completion {missing[0]} first: give one for each")
    told = {answer.id: quality[answer.id] for item in items for answer in item.answers}
    identity = content_id("simulated", raters.model_dump(mode="json"), seed, [item.id for item in items], told)
    out = root / FOLDER
    if found := _known(out, identity):
        return found
    work = root / WORK / SIMULATED
    with writing(work):
        shutil.rmtree(work, ignore_errors=True)  # of a collection that was killed
        work.mkdir(parents=True)
    exported = _collected(work, config, simulated_raters(raters), items, source, told, identity)
    summary = _summary(raters, exported, seed, identity)
    _mark(work / FOLDER, summary)
    with writing(out):
        (work / FOLDER).rename(out)
        shutil.rmtree(work)
        with suppress(OSError):  # something else is being worked at
            work.parent.rmdir()
    return summary


def simulated_raters(raters: RatersConfig) -> list[SimulatedRater]:
    """The raters, in the order of their numbers: skills are spread evenly from the lowest to the highest."""
    step = (raters.skill_high - raters.skill_low) / (raters.count - 1)
    return [SimulatedRater(skill=raters.skill_low + step * i, tie=raters.tie) for i in range(raters.count)]


def _check(raters: RatersConfig) -> None:
    if raters.who != "simulated":
        raise ConfigError(f"raters.who is {raters.who}: simulated raters do not stand in for people")
    if raters.overlap > raters.count:
        raise ConfigError(
            f"raters.overlap is {raters.overlap}, but raters.count {raters.count}: nobody judges an item twice"
        )


def _items(root: Path, config: AnnotationConfig) -> tuple[list[NewItem], str]:
    """Items in the order of the queue, answers in the order of a hash, and what they are from."""
    found = read_items(root, config)
    return [blinded(item) for item in found.items], found.described


def _settings(raters: RatersConfig, seed: int) -> AnnotationConfig:
    """One item of each prompt, so many verdicts of each and no more; nothing is hidden in the stream.

    Items are drawn at random: with judges' scores in the folder, a mix would prefer those they find hard.
    """
    pairwise = raters.ranked == 2
    selection = (
        SelectionConfig(strategy="random") if pairwise else SelectionConfig(strategy="random", ranked=raters.ranked)
    )
    return AnnotationConfig(
        name="simulated raters",
        kind="pairwise" if pairwise else "ranking",
        overlap=raters.overlap,
        extra_raters=0,
        gold_share=0,
        repeat_share=0,
        edits=False,
        selection=selection,
        seed=seed,
    )


def _known(out: Path, identity: str) -> dict[str, Any] | None:
    """The summary of a collection of the same inputs, or None where there is none at all."""
    if not out.exists():
        return None
    path = out / SUMMARY
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    if found.get("identity") != identity:
        what = "simulated raters said of other answers, or with other settings" if found else "people said"
        raise StoreError(f"{out} holds what {what}: it is not replaced; move it away, or choose another folder")
    return found


def _collected(
    work: Path,
    config: AnnotationConfig,
    people: Sequence[SimulatedRater],
    items: list[NewItem],
    source: str,
    quality: Mapping[str, float],
    identity: str,
) -> dict[str, Any]:
    """A project of these items in `work`, judged until nothing is left, and exported beside it."""
    database = open_database(work / DATABASE)
    try:
        with owned(database):
            _judge(database, config, people, items, source, quality, identity)
        with database.reading.connect() as connection:
            return export_project(connection, work / FOLDER)
    finally:
        database.close()


def _judge(
    database: Database,
    config: AnnotationConfig,
    people: Sequence[SimulatedRater],
    items: list[NewItem],
    source: str,
    quality: Mapping[str, float],
    identity: str,
) -> None:
    def fill(connection: sa.Connection) -> list[int]:
        create_project(connection, config, f"{source}; the raters are simulated", START)
        connection.execute(sa.update(project).values(secret=content_id("secret", identity)))
        add_items(connection, items)
        return enrol(connection, len(people), START)

    writer = Writer(database.writing)
    try:
        ids = writer.run(fill)
        working = dict(zip(ids, people, strict=True))
        simulate(writer, working, quality, start=START, seed=int(identity, 16))  # other rounds, other noise
    finally:
        writer.close()


def _summary(raters: RatersConfig, exported: Mapping[str, Any], seed: int, identity: str) -> dict[str, Any]:
    people = enumerate(simulated_raters(raters), 1)
    counted = {name: exported[name] for name in ("judgements", "open_items", "pairs")}
    return {
        "schema": 1,
        "simulated": True,
        "identity": identity,
        "seed": seed,
        "settings": raters.model_dump(mode="json"),
        "raters": [{"name": f"simulated-{n}", "skill": one.skill, "tie": one.tie} for n, one in people],
        "items": sum(exported["counts"]["items"].values()),
        **counted,
    }


def _mark(out: Path, summary: Mapping[str, Any]) -> None:
    """Say of everything that was exported that its raters are simulated."""
    judgements = read_records(out / JUDGEMENTS, Judgement)
    marked = [replace(said, raw={**said.raw, SIMULATED: True}) for said in judgements]
    write_records(out / JUDGEMENTS, marked, Judgement)
    for card in (out / "README.md", out / "preferences" / "README.md"):
        text = card.read_text(encoding="utf-8")
        write_text(card, _TITLE.sub(lambda found: f"{found[0]}{NOTICE}", text, count=1))
    write_json(out / PROJECT, {**read_json(out / PROJECT), SIMULATED: True})
    write_json(out / SUMMARY, summary)
