"""From what the command line names to a served project, and from a project to records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from prefloop.annotation.serve import Gathered, Serving, annotate
from prefloop.config.annotation import AnnotationConfig
from prefloop.errors import ConfigError, DataError
from prefloop.progress import note
from prefloop.store.files import read_json
from prefloop.store.run_folder import ASKED, PROJECT, RECIPE

if TYPE_CHECKING:
    from prefloop.annotation.items import NewItem

PEOPLE = "people"
"""A run's collected verdicts, where the judge `people` looks for them."""
_AT_ONCE = 200
SHOWN = 5
"""Bad rows that are told one by one."""


def open_project(
    source: str | None,
    database: str | None,
    serving: Serving,
    *,
    settings: Mapping[str, Any],
    gold: Sequence[Path] = (),
    calibration: Sequence[Path] = (),
    gold_of_run: int = 0,
    columns: Mapping[str, str] | None = None,
    features: Path | None = None,
    split: str = "train",
    sql: Path | None = None,
) -> None:
    """Serve the project of a source, made where there is none yet; until Ctrl-C.

    Args:
        source: as `prefloop.annotation.sources.read_items` takes it.
        database: file or URL; default a file in the run folder, or beside the file of answers.
        settings: dotted keys of `AnnotationConfig`; for a new project only.
        gold, calibration: files of items with known answers: hidden in the stream, or explained before it.
        gold_of_run: also hide so many pairs of the run that execution decided.
        columns: names of a file's columns, where they are others than the known ones.
        sql: database on which SQL answers are run, and kept as the setting of that name; default the league of an
            nba-sql run, or the SQLite copy of a task of one's own.

    Raises:
        PrefloopError: see `prefloop.annotation.serve.annotate` and `read_items`.
    """
    if source is None and database is None:
        raise ConfigError("name what is to be judged: a run folder, a file of answers, or a --database that has items")
    place = database or default_database(str(source))
    settings = {**_asked(source, told=sql is None and "sql" not in settings), **settings}
    if named := sql or settings.get("sql"):
        settings = {**settings, "sql": str(Path(named).expanduser().resolve())}
    config = settings_of(settings, alone=serving.alone)
    known = {"gold": gold, "training": calibration}
    items = None
    if source is not None:
        items = partial(
            gather,
            source,
            known=known,
            gold_of_run=gold_of_run,
            columns=columns,
            features=features,
            split=split,
        )
    annotate(place, items, config, serving, sorted({key.split(".")[0] for key in settings}))


def default_database(source: str) -> Path:
    """Where a source's project is kept unless --database says otherwise.

    >>> default_database("answers.jsonl")
    PosixPath('answers.annotation.db')
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path / PROJECT
    if path.exists() or path.suffix:
        return path.with_name(f"{path.stem}.{PROJECT}")
    return Path(f"{source.replace('/', '--')}.{PROJECT}")


def _asked(source: str | None, *, told: bool = True) -> dict[str, Any]:
    """Settings that the source itself asks for: a run's database, a loop's of a round that waits for rankings.

    Args:
        told: say so where the run's task folder is not found.
    """
    if source is None or not (run := Path(source).expanduser()).is_dir():
        return {}
    from prefloop.tasks.database.folder import TASK, only_copy
    from prefloop.tasks.database.task import NAME

    own, waiting = run / RECIPE, run / ASKED
    task = read_json(own).get("recipe", {}).get("task", {}) if own.is_file() else {}
    if task.get("name") == NAME:
        folder = _found(run, task["folder"], TASK)
        database = only_copy(folder) if folder else None
        if folder is None and told:
            note(f"{task['folder']} is not here: no results of queries are shown; name the run's database with --sql")
    else:
        database = _found(run, task.get("database")) or task.get("database")
    asked = {"sql": str(database)} if database else {}
    return asked | (dict(read_json(waiting)) if waiting.is_file() else {})


def _found(run: Path, place: str | None, inside: str = "") -> Path | None:
    """Where a path of a run's recipe is: as it stands, or from where the run was made, somewhere above its folder."""
    if not place:
        return None
    bases = (Path(), *run.resolve().parents)
    return next((base / place for base in bases if (base / place / inside).exists()), None)


def settings_of(given: Mapping[str, Any], *, alone: bool) -> AnnotationConfig:
    """Settings from dotted keys. One person alone judges an item once; a team three times.

    Raises:
        ConfigError: carries all findings.
    """
    nested: dict[str, Any] = {"overlap": 1} if alone else {}
    for key, value in given.items():
        *path, last = key.split(".")
        inner = nested
        for name in path:
            inner = inner.setdefault(name, {})
        inner[last] = value
    try:
        return AnnotationConfig(**nested)
    except ValidationError as error:
        raise ConfigError("; ".join(map(_told, error.errors()))) from error


def _told(finding: Mapping[str, Any]) -> str:
    place = ".".join(map(str, finding["loc"]))
    if finding["type"] == "extra_forbidden":
        return f"there is no setting {place}; there are {', '.join(AnnotationConfig.model_fields)}"
    return f"{place}: {finding['msg']}"


def gather(
    source: str,
    config: AnnotationConfig,
    *,
    known: Mapping[str, Sequence[Path]],
    gold_of_run: int,
    columns: Mapping[str, str] | None,
    features: Path | None,
    split: str,
) -> Gathered:
    """Items of a source with the rows of their queries, and gold; says what was left out."""
    from prefloop.annotation.items import blinded
    from prefloop.annotation.sources import read_items
    from prefloop.annotation.sources_known import known_items

    if config.sql is not None and not config.sql.is_file():
        raise DataError(f"{config.sql} does not exist: --sql names the SQLite file on which the answers are run")
    found = read_items(source, config, split=split, columns=columns, features=features)
    extra = [known_items(path, role, columns) for role, paths in known.items() for path in paths]
    bad = [row for one in (found, *extra) for row in one.bad]
    for row in bad[:SHOWN]:
        note(f"  line {row.line}: {row.reason}")
    if len(bad) > SHOWN:
        note(f"  and {len(bad) - SHOWN:,} more rows that could not be read")
    items = [item for one in extra for item in one.items]
    items += _gold_of_run(Path(source), gold_of_run, config.seed) if gold_of_run else []
    items = [blinded(item) for item in (*items, *found.items)]
    database = config.sql or _league(source)
    return Gathered(with_results(items, database) if database else items, found.described, found.labels)


def _gold_of_run(run: Path, count: int, seed: int) -> list[NewItem]:
    from prefloop.annotation.sources_known import gold_from_execution
    from prefloop.records import Completion, Judgement, Prompt
    from prefloop.store.tables import read_records

    checked = run / "stages" / "execution-judgements.parquet"  # of a run that another judge labels
    judged = read_records(checked if checked.is_file() else run / "judgements.parquet", Judgement)
    prompts = read_records(run / "prompts.parquet", Prompt)
    return gold_from_execution(prompts, read_records(run / "completions.parquet", Completion), judged, count, seed)


def with_results(items: Sequence[NewItem], database: Path) -> list[NewItem]:
    """Items with what their answers' queries return on a copy of `database`, run in the sandbox."""
    from prefloop.annotation.results import run_answers

    found: list[NewItem] = []
    for start in range(0, len(items), _AT_ONCE):
        part = items[start : start + _AT_ONCE]
        results = iter(run_answers([one.text for item in part for one in item.answers], database))
        found += [replace(item, results=tuple(asdict(next(results)) for _ in item.answers)) for item in part]
    return found


def _league(source: str) -> Path | None:
    """The league on which an nba-sql run's answers are examined."""
    manifest = Path(source).expanduser() / "stages" / "prompts.json"
    prompts = Path(source).expanduser() / "prompts.parquet"
    if not manifest.is_file() or not prompts.is_file():
        return None
    from prefloop.records import Prompt
    from prefloop.store.tables import read_records
    from prefloop.tasks.nba.task import NAME, judge_databases

    asked = read_records(prompts, Prompt)
    return judge_databases()[0] if asked and asked[0].task == NAME else None


def collect_project(
    source: str, out: Path | None, *, include_surplus: bool = False, sql: Path | None = None
) -> dict[str, Any]:
    """Write what people judged into a folder; a run's own is replaced by the newer one.

    Args:
        sql: SQLite file on which corrected answers are run, where it is another than the project's.

    Raises:
        DataError: there is no project, or no such file.
        StoreError: the folder holds something else.
    """
    from prefloop.annotation.database import check_file, open_database
    from prefloop.annotation.export import export_project
    from prefloop.annotation.items import has_project

    path = Path(source).expanduser()
    place = path / PROJECT if path.is_dir() else source
    if "://" not in source and not Path(place).is_file():
        raise DataError(f"{place} does not exist: give the run folder or database that 'prefloop annotate' served")
    if out is None and not path.is_dir():
        raise ConfigError("give --out: a database has no run folder to write into")
    target = out or path / PEOPLE
    if "://" not in str(place):
        if not Path(place).stat().st_size:  # opening it would make it a database
            raise DataError(f"{place} is empty and holds no project: give what 'prefloop annotate' served")
        check_file(Path(place))
    database = open_database(place)
    try:
        with database.reading.connect() as connection:
            if not has_project(connection):
                raise DataError(f"{database.shown} holds no project: 'prefloop annotate SOURCE' makes one")
            connection.rollback()
            found = export_project(connection, target, include_surplus=include_surplus, overwrite=out is None, sql=sql)
    finally:
        database.close()
    return {**found, "out": str(target)}
