"""Records that Argilla 2 and tasks that Label Studio exported: what was asked, and what people and models have said.

*Argilla*: what ``dataset.records.to_json(path)``, ``to_list()``, ``to_dict()`` or ``to_datasets()`` give
(docs.argilla.io/latest/how_to_guides/import_export). A record has ``fields``; ``responses`` by question, a list of
``{"value", "user_id"}``; and ``suggestions`` by question, ``{"value", "score", "agent"}``. The value of a ranking
question is the list of its options, best first (with ties ``[{"value", "rank"}, …]``), that of a label question its
label. The JSON export does not say which responses were drafts or discarded; the flat one does
(``question.responses.status``), and only submitted ones are read from it.

*Label Studio*: the JSON export (labelstud.io/guide/export, labelstud.io/guide/task_format): tasks with ``data`` and
``annotations`` (``result``, ``completed_by``, ``was_cancelled``) and ``predictions`` of models (``model_version``).
Results of three types are read: ``pairwise`` (``value.selected`` ``left`` or ``right``, labelstud.io/tags/pairwise),
``choices``, and ``ranker`` (``value.ranker``, a list of ids or the same under one name, labelstud.io/tags/ranker).
Buckets have no order.

Answers are fields named `ANSWER` (``response-1``, ``answer_b``, ``text1``, …) or by one of the `PAIRS` of files, or in
Label Studio the list of ``items`` with ``id``. An option or label means the answer with that name, with that name but
for case and punctuation, or with that number or letter at its end; or a tie; or both bad. Of several questions
that compare the same two answers the first is the verdict, and each is one of its ``objectives``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefloop.annotation.sources_files import LISTS, PAIRS, UNREADABLE, Gathered, checked, read_answer, read_prompt, why
from prefloop.errors import DataError
from prefloop.preferences.importers import IMPORTED
from prefloop.preferences.people import PEOPLE
from prefloop.preferences.rows import BadRowError
from prefloop.records import Judgement, Prompt
from prefloop.store.rows import BadRow
from prefloop.tasks.instructions.layouts import check_text

ANSWER = re.compile(r"(?:response|answer|completion|generation|reply|output|candidate|text)[-_ ]?(\d+|[a-z])", re.I)
TIES = ("tie", "equal", "same", "both", "both good", "no preference", "about the same", "about equal")
BOTH_BAD = ("both bad", "neither", "none", "tie (bothbad)", "both are bad")
SIDES = {"left": 0, "right": 1, "first": 0, "second": 1}
_BETTER = re.compile(r"\s+(?:is\s+)?(?:much\s+|slightly\s+)?better$", re.I)
_TEXTS = ("text", "body", "html", "title")
_NESTED = {"fields", "responses", "suggestions"}
Tiers = tuple[tuple[int, ...], ...]
Said = dict[str, list[tuple[str, Any]]]
"""Questions and their values by judge."""


@dataclass(frozen=True)
class _Shown:
    """A prompt's answers by the names that verdicts use."""

    prompt: Prompt
    names: tuple[str, ...]
    ids: tuple[str, ...]


def exported_by(row: Any, file: str) -> str | None:
    """``Argilla`` or ``Label Studio`` where the first row of a file shows it.

    Raises:
        DataError: it is Label Studio's JSON-MIN, which leaves out whose verdicts are whose.
    """
    if not isinstance(row, dict):
        return None
    if "fields" in row and ("responses" in row or "suggestions" in row):
        return "Argilla"
    if any(str(key).endswith((".responses", ".suggestion")) for key in row):
        return "Argilla"
    values = list(row.values())
    if values and all(isinstance(value, dict) and value.keys() >= _NESTED for value in values):
        return "Argilla"
    if isinstance(row.get("data"), dict) and ("annotations" in row or "predictions" in row):
        return "Label Studio"
    if row.keys() >= {"annotation_id", "annotator", "lead_time"}:
        raise DataError(f"{file} is Label Studio's JSON-MIN or CSV: export the project as JSON, which says more")
    return None


def read_argilla(numbered: Iterator[tuple[int, Any]], file: str, columns: Mapping[str, str], found: Gathered) -> None:
    """Add records; those that cannot be read go to `found.bad`."""
    for line, row in numbered:
        for record in _records(row):
            try:
                _add_record(record if "fields" in checked(record) else _nested(record), columns, found)
            except UNREADABLE as error:
                found.bad.append(BadRow(file, line, f"{_name(record)}{why(error)}"))


def read_label_studio(
    numbered: Iterator[tuple[int, Any]], file: str, columns: Mapping[str, str], found: Gathered
) -> None:
    """Add tasks; those that cannot be read go to `found.bad`."""
    for line, row in numbered:
        try:
            _add_task(row, columns, found)
        except UNREADABLE as error:
            found.bad.append(BadRow(file, line, f"{_name(row)}{why(error)}"))


def meant(value: Any, names: Sequence[str]) -> int | str | None:
    """The answer that an option or a label means: its index, ``tie``, ``both bad``, or None for none of these.

    >>> names = ("response-1", "response-2")
    >>> meant("Response 2", names), meant("1", names), meant("tie", names), meant("good", names)
    (1, 0, 'tie', None)
    """
    value = _BETTER.sub("", str(value))
    plain = _plain(value)
    known = [_plain(name) for name in names]
    if plain in known:
        return known.index(plain)
    ends = [match[1].lower() if (match := ANSWER.fullmatch(name)) else "" for name in names]
    end = match[1].lower() if (match := ANSWER.fullmatch(value)) else plain
    if end and ends.count(end) == 1:
        return ends.index(end)
    if plain in SIDES and len(names) == 2:
        return SIDES[plain]
    words = {_plain(word): "tie" for word in TIES} | {_plain(word): "both bad" for word in BOTH_BAD}
    return words.get(plain)


def _records(row: Any) -> list[Any]:
    """The record of a row, or all of a file that is one dictionary, by names or by ids."""
    if not isinstance(row, dict):
        return [row]
    if isinstance(row.get("fields"), list):
        count = len(row["fields"])
        columns = {key: values for key, values in row.items() if isinstance(values, list) and len(values) == count}
        return [{key: values[i] for key, values in columns.items()} for i in range(count)]
    if row and all(isinstance(value, dict) and value.keys() >= _NESTED for value in row.values()):
        return list(row.values())
    return [row]


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    """A flat record as the JSON export has it, responses with their status."""
    responses: dict[str, list[Any]] = {}
    suggestions: dict[str, Any] = {}
    for key, value in row.items():
        question, _, what = str(key).rpartition(".")
        if what == "responses" and isinstance(value, list):
            users, states = (row.get(f"{key}.{part}") or [None] * len(value) for part in ("users", "status"))
            said = zip(value, users, states, strict=True)
            responses[question] = [{"value": v, "user_id": user, "status": state} for v, user, state in said]
        elif what == "suggestion" and value is not None:
            suggestions[question] = {"value": value, "agent": row.get(f"{key}.agent")}
    fields = {key: value for key, value in row.items() if "." not in str(key) and key not in ("id", "status")}
    return {"id": row.get("id"), "fields": fields, "responses": responses, "suggestions": suggestions}


def _add_record(record: Any, columns: Mapping[str, str], found: Gathered) -> None:
    if not isinstance(record, dict) or not isinstance(record.get("fields"), dict):
        raise BadRowError("no fields")
    shown = _shown(record["fields"], columns, found)
    said: Said = {}
    for question, answers in (record.get("responses") or {}).items():
        for answer in answers or ():
            if answer.get("status") not in (None, "submitted"):
                found.count(f"responses {answer['status']}")
                continue
            said.setdefault(f"{PEOPLE}{answer.get('user_id')}", []).append((str(question), answer.get("value")))
    for question, suggestion in (record.get("suggestions") or {}).items():
        if suggestion and suggestion.get("value") is not None:
            agent = str(suggestion.get("agent") or "suggestion")
            said.setdefault(agent, []).append((str(question), suggestion["value"]))
    for judge, verdicts in said.items():
        _add_said(shown, judge, verdicts, found)


def _add_task(task: Any, columns: Mapping[str, str], found: Gathered) -> None:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise BadRowError("no data")
    shown = _shown(task["data"], columns, found)
    for annotation in task.get("annotations") or ():
        if annotation.get("was_cancelled"):
            found.count("annotations skipped by their annotator")
            continue
        by = annotation.get("completed_by")
        rater = by.get("id") if isinstance(by, dict) else by
        _add_results(shown, annotation, f"{PEOPLE}{'unknown' if rater is None else rater}", found)
    for prediction in task.get("predictions") or ():
        if isinstance(prediction, dict):
            _add_results(shown, prediction, str(prediction.get("model_version") or "prediction"), found)


def _add_results(shown: _Shown, annotation: Mapping[str, Any], judge: str, found: Gathered) -> None:
    said = []
    for result in annotation.get("result") or ():
        value, kind, name = result.get("value") or {}, result.get("type"), str(result.get("from_name"))
        if kind == "pairwise":
            said.append((name, _side(shown, str(result.get("to_name")), value.get("selected"))))
        elif kind == "choices" and isinstance(value.get("choices"), list) and len(value["choices"]) == 1:
            said.append((name, value["choices"][0]))
        elif kind == "ranker":
            said.append((name, _ranked(value.get("ranker"))))
        else:
            found.count(f"answers to {name} that compare nothing")
    _add_said(shown, judge, said, found)


def _side(shown: _Shown, to_name: str, selected: Any) -> str | None:
    """The name of the answer on the side selected: as the tag's ``toName`` tells, else in the order of the fields."""
    if selected not in ("left", "right") or len(shown.names) != 2:
        return None
    order = [meant(part.strip(), shown.names) for part in to_name.split(",")]
    first = order[0] if order in ([0, 1], [1, 0]) else 0
    return shown.names[int(first != 0) if selected == "left" else int(first == 0)]


def _ranked(value: Any) -> Any:
    """The one list of a ranker; buckets are no order."""
    if isinstance(value, dict) and len(value) == 1:
        return next(iter(value.values()))
    return value


def _shown(fields: Mapping[str, Any], columns: Mapping[str, str], found: Gathered) -> _Shown:
    """Add prompt and answers of a record."""
    if missing := [name for name in columns.values() if name not in fields]:
        raise BadRowError(f"no field {missing[0]!r}")
    fields = dict(fields) | {ours: fields[theirs] for ours, theirs in columns.items()}
    messages = read_prompt(fields if "prompt" in columns else {**fields, **_spoken(fields)})
    named = _answers(fields, columns)
    if len(named) < 2:
        raise BadRowError(f"fewer than two answers among the fields {', '.join(map(str, fields))}")
    texts = [(read_answer(value, name)[1], model) for name, value, model in named]
    for text in (*(message["content"] for message in messages), *(text for text, _ in texts)):
        check_text(text)
    prompt = Prompt.create(messages, IMPORTED, "train")
    return _Shown(prompt, tuple(name for name, *_ in named), tuple(found.add(prompt, texts)))


def _spoken(fields: Mapping[str, Any]) -> dict[str, Any]:
    """``text`` is the prompt where no field has a better name."""
    named = any(fields.get(key) is not None for key in ("prompt", "question", "instruction", "messages"))
    return {} if named or not isinstance(fields.get("text"), str) else {"prompt": fields["text"]}


def _answers(fields: Mapping[str, Any], columns: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    """Name, value and model of each answer."""
    if "first" in columns and "second" in columns:
        return [(columns[key], fields[key], IMPORTED) for key in ("first", "second")]
    for key in ("items", *LISTS):
        listed = fields.get(key)
        if isinstance(listed, list) and listed and all(isinstance(entry, dict) and "id" in entry for entry in listed):
            return [(str(entry["id"]), _text(entry), str(entry.get("model") or IMPORTED)) for entry in listed]
    pair = next((pair for pair in PAIRS if all(fields.get(key) is not None for key in pair)), None)
    numbered = [key for key in fields if ANSWER.fullmatch(str(key)) and fields[key] is not None]
    names = numbered if len(numbered) >= 2 else list(pair or ())
    return [(name, fields[name], str(fields.get(f"{name}_model") or IMPORTED)) for name in names]


def _text(entry: Mapping[str, Any]) -> Any:
    return next((entry[key] for key in _TEXTS if isinstance(entry.get(key), str)), None)


def _add_said(shown: _Shown, judge: str, said: Sequence[tuple[str, Any]], found: Gathered) -> None:
    """One judgement of what a judge said of a record: a choice between two answers, or a ranking of more."""
    verdicts = []
    for question, value in said:
        tiers = _tiers(value, shown.names)
        if tiers is None:
            found.count(f"answers to {question} that compare nothing")
        else:
            verdicts.append((question, value, *tiers))
    if not verdicts:
        return
    question, value, first, word = verdicts[0]
    raw = {"question": question, "value": value} | ({"choice": word} if word else {})
    kept = found.labels if judge.startswith(PEOPLE) else found.judgements
    if len(shown.ids) == 2:
        parts = {name: _preferred(tiers) for name, _, tiers, _ in verdicts}
        choice = Judgement.create(
            shown.prompt.id, shown.ids, judge, "choice", parts[question], parts if len(parts) > 1 else {}, raw=raw
        )
        kept.append(choice)
        return
    for name, *_ in verdicts[1:]:
        found.count(f"rankings by {name}, beside those by {question}")
    ranking = tuple(tuple(shown.ids[i] for i in tier) for tier in first)
    kept.append(Judgement.create(shown.prompt.id, shown.ids, judge, "ranking", None, ranking=ranking, raw=raw))


def _preferred(tiers: Tiers) -> float:
    """1 where the first of two answers is better, 0 the second, ½ neither."""
    return 0.5 if len(tiers[0]) == 2 else float(tiers[0][0] == 0)


def _tiers(value: Any, names: Sequence[str]) -> tuple[Tiers, str] | None:
    """Indices, best first, and the word for a tie or both bad; None where the value does not compare the answers."""
    if isinstance(value, list):
        places: dict[int, list[int]] = {}
        for place, option in enumerate(value):
            named, rank = (option.get("value"), option.get("rank")) if isinstance(option, dict) else (option, None)
            index = meant(named, names)
            if not isinstance(index, int):
                return None
            places.setdefault(place if rank is None else int(rank), []).append(index)
        ranked = [index for tier in places.values() for index in tier]
        whole = len(set(ranked)) == len(ranked) >= 1
        return (tuple(tuple(sorted(places[place])) for place in sorted(places)), "") if whole else None
    found = meant(value, names) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if found is None:
        return None
    if isinstance(found, str):
        return (tuple(range(len(names))),), found
    return ((found,),), ""


def _plain(value: Any) -> str:
    return "".join(character for character in str(value).lower() if character.isalnum())


def _name(record: Any) -> str:
    identity = record.get("id") if isinstance(record, dict) else None
    return f"record {identity}: " if identity is not None else ""
