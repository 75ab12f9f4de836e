"""Files of prompts, as a run wrote them or of one's own, read some prompts at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from prefloop.errors import ConfigError, DataError
from prefloop.records import Completion, Message, Prompt
from prefloop.store.grouped import ids_of
from prefloop.store.objects import fetched
from prefloop.store.tables import each_record, read_column

META = {
    "gold_sql": str,
    "compare_sql": str,
    "comparison": dict,
    "gold_length": int,
    "alternatives": list,
    "tables": list,
    "dialect": str,
}
"""What the execution judge reads of a prompt's meta, and its types."""


def read_prompts(path: Path) -> list[Prompt]:
    """All prompts of a file; see `each_prompt`."""
    return list(each_prompt(path))


def each_prompt(path: Path) -> Iterator[Prompt]:
    """Prompts of a records file, or of JSON lines with ``prompt`` (text or messages) in each, one at a time.

    Raises:
        DataError: the file is missing or empty, or a line is malformed; names the line.
    """
    path = fetched(path)
    if path.suffix == ".parquet":
        yield from each_record(path, Prompt)
        return
    if not path.is_file():
        raise DataError(f"{path} does not exist: give prompts.parquet or a .jsonl file")
    lines: dict[str, int] = {}
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip():
                prompt = _prompt_line(path, number, line)
                if prompt.id in lines:
                    raise DataError(f"{path}, line {number}: the same prompt as in line {lines[prompt.id]}; remove one")
                lines[prompt.id] = number
                yield prompt
    if not lines:
        raise DataError(f"{path} is empty: put one JSON object with a 'prompt' on each line")


def prompt_ids(path: Path) -> pa.Array:
    """The ids of a file's prompts, in its order; raises as `each_prompt` does."""
    path = fetched(path)
    if path.suffix == ".parquet":
        return read_column(path, Prompt, "id").combine_chunks()
    return ids_of(each_prompt(path))


def require_league(prompts: Iterable[Prompt], given: object) -> None:
    """Refuse to put questions about a real league to the simulated ones, on which they run and mean nothing.

    Args:
        given: the user's own databases, if any.

    Raises:
        ConfigError: there are none.
    """
    named = next((prompt.meta["league"] for prompt in prompts if "league" in prompt.meta), None)
    if named and not given:
        raise ConfigError(f"the questions are about {named}, not about the simulated leagues: give it by --database")


def require_gold(prompts: Iterable[Prompt], completions: Path) -> None:
    """Refuse answers that execution could not judge before it judges any.

    Raises:
        DataError: some are to prompts without a gold query.
    """
    without = ids_of(prompt for prompt in prompts if "gold_sql" not in prompt.meta)
    if not len(without):
        return
    from prefloop.judging.execution import refuse_without_gold

    asked = pc.unique(read_column(completions, Completion, "prompt_id"))
    refuse_without_gold(without.filter(pc.is_in(without, value_set=asked)).to_pylist())


def _prompt_line(path: Path, number: int, line: bytes) -> Prompt:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not valid JSON ({error})") from error
    messages = messages_of(row.get("prompt") if isinstance(row, dict) else None, f"{path}, line {number}")
    meta = row.get("meta") or {}
    for key, kinds in META.items():
        if not isinstance(meta, dict) or not isinstance(meta.get(key), kinds | None):
            raise DataError(f"{path}, line {number}: meta.{key} must be {kinds.__name__}, and meta an object")
    return Prompt.create(messages, str(row.get("task", "custom")), str(row.get("split", "train")), meta)


def messages_of(prompt: Any, place: str) -> tuple[Message, ...]:
    """A prompt that is text or a list of messages, as messages.

    Raises:
        DataError: it is neither; names the place.
    """
    if isinstance(prompt, str) and prompt.strip():
        prompt = [{"role": "user", "content": prompt}]
    valid = (
        isinstance(prompt, list)
        and prompt
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in prompt
        )
    )
    if not valid or not _unicode(prompt):
        raise DataError(f"{place}: 'prompt' must be Unicode text or a list of messages with role and content")
    return tuple({"role": m["role"], "content": m["content"]} for m in prompt)


def _unicode(messages: Sequence[Mapping[str, str]]) -> bool:
    """Whether UTF-8 can hold the texts: JSON can spell half a character."""
    try:
        "".join(message["content"] for message in messages).encode()
    except UnicodeEncodeError:
        return False
    return True
