"""The pages on the annotation app say what it is: every setting, every test that they name, every layout they print."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from prefloop.annotation.open import settings_of
from prefloop.annotation.protocol import SKIPS
from prefloop.annotation.sources import read_items
from prefloop.annotation.sources_known import known_items
from prefloop.config.annotation import AnnotationConfig

ROOT = Path(__file__).parent.parent
GUIDE, PROTOCOL, SECURITY = (
    (ROOT / "docs" / f"annotation{name}.md").read_text(encoding="utf-8") for name in ("", "-protocol", "-security")
)
REQUIRED = (
    "2.3.3 2.3.4 2.4.1 3.2.2 3.3.1 3.3.2 3.3.3 3.3.4 3.4.1 3.4.3 3.4.4 3.4.5 3.4.6 3.5.1 3.5.2 3.5.3 6.1.1 6.2.1 6.2.4 "
    "6.2.5 6.2.9 6.3.1 6.3.2 6.4.1 7.2.3 7.2.4 7.4.1 7.4.2 7.4.5 8.2.1 8.2.2 8.2.3 8.3.1"
).split()
"""Items that the app sets out to hold."""
TEST = re.compile(r"`(tests/\w+\.py)::([\w:]+)`")


def section(page: str, title: str) -> str:
    """What stands under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Cells of the rows of all tables, without their headings."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not set(line) <= set("|- ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if row[0] not in ("key", "item", "layout", "message", "figure", "role")]


def keys_of(section_: type[BaseModel], before: str = "") -> dict[str, Any]:
    """Every dotted key of a section and its default."""
    found: dict[str, Any] = {}
    for name, field in section_.model_fields.items():
        if isinstance(field.default, BaseModel):
            found |= keys_of(type(field.default), f"{before}{name}.")
        else:
            found[before + name] = field.default
    return found


def test_the_table_has_every_setting_with_its_default() -> None:
    told = {row[0].strip("`"): json.loads(row[1].strip("`")) for row in rows(section(GUIDE, "Settings"))}
    known = json.loads(json.dumps(keys_of(AnnotationConfig)))
    assert told == known


def test_every_setting_that_the_pages_give_is_one() -> None:
    for page in (GUIDE, PROTOCOL):
        given = re.findall(r"--set (\w[\w.]*)=", page)
        others = {"KEY", "judge", "judge.minimum"}
        assert set(given) - others <= keys_of(AnnotationConfig).keys()


def test_alone_an_item_is_judged_once() -> None:
    assert "Alone on one machine `overlap` is 1." in GUIDE
    assert settings_of({}, alone=True).overlap == 1
    assert settings_of({}, alone=False).overlap == keys_of(AnnotationConfig)["overlap"]


ROWS = {row[0]: re.findall(r"`([^`]*)`", row[1]) for row in rows(section(GUIDE, "What can be judged"))}


@pytest.mark.parametrize("layout", ROWS)
def test_every_layout_is_read_as_it_is_printed(layout: str, tmp_path: Path) -> None:
    given = ROWS[layout]
    if layout == "CSV":
        path, text = tmp_path / "rows.csv", "\n".join(given)
    else:
        path = tmp_path / "rows.json"
        second = {"prompt": "Name a prime.", "completion": "111", "model": "large"}  # its layout needs another row
        found = [json.loads(row) for row in given] + ([second] if layout == "one answer a row" else [])
        text = json.dumps(found)
    path.write_text(text, encoding="utf-8")
    (item,) = read_items(path, AnnotationConfig()).items
    assert [answer.text for answer in item.answers] == ["101", "111"]
    assert item.prompt.messages[-1]["content"] == "Name a prime."


def test_the_examples_of_files_are_read(tmp_path: Path) -> None:
    first, known = (json.loads(text) for text in re.findall(r"```json\n(.*?)\n```", GUIDE, re.DOTALL))
    (tmp_path / "a.jsonl").write_text(json.dumps(first))
    (tmp_path / "k.jsonl").write_text(json.dumps(known))
    assert len(read_items(tmp_path / "a.jsonl", AnnotationConfig()).items) == 1
    (item,) = known_items(tmp_path / "k.jsonl").items
    assert item.known == {"best": [0], "explanation": "Six sevens are 42."}


def test_the_python_of_the_guide_can_be_read() -> None:
    for text in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                module = __import__(str(node.module), fromlist=["*"])
                assert all(hasattr(module, name.name) for name in node.names)


def test_keys_and_steps_are_those_of_the_page() -> None:
    script = (ROOT / "src/prefloop/annotation/static/annotate.js").read_text(encoding="utf-8")
    for key in ("enter", "backspace", "s", "c", "#"):
        assert f'pressed === "{key}"' in script
    told = section(GUIDE, "Keys")
    assert all(f"`{key}`" in told for key in ("Enter", "Backspace", "S", "C", "#", "Esc", "0", "A"))
    steps = [row[0] for row in rows(section(PROTOCOL, "What is asked"))]
    assert steps == ["1", "2", "3", "4", "5", "0", "S"]
    assert all(reason.split("-")[0] in section(PROTOCOL, "What is asked") for reason in SKIPS)


@cache
def names_in(path: str) -> set[str]:
    """Tests of a file, those of classes as ``Class::test``."""
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found


@pytest.mark.parametrize("reference", sorted(set(TEST.findall(SECURITY))), ids="::".join)
def test_every_test_that_the_list_names_is_there(reference: tuple[str, str]) -> None:
    path, name = reference
    assert name.rpartition("::")[2].startswith("test_")
    assert name in names_in(path)


def test_every_line_of_the_list_has_a_test_or_says_why_not() -> None:
    for row in rows(SECURITY):
        assert len(row) == 4, row
        assert TEST.search(row[3]) or row[3] == "does not apply" or "**gap**" in row[2], row[0]


def test_the_list_has_every_item_that_the_app_sets_out_to_hold() -> None:
    told = set(re.findall(r"\b\d+\.\d+\.\d+\b", "\n".join(row[0] for row in rows(SECURITY))))
    assert [item for item in REQUIRED if item not in told] == []


def test_what_is_expected_to_fail_is_told_as_a_gap() -> None:
    """A test of the pages that is marked as failing stands in a line with a gap, and no other does there."""
    tree = ast.parse((ROOT / "tests/test_annotation_pages.py").read_text(encoding="utf-8"))
    failing = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any("xfail" in ast.unparse(decorator) for decorator in node.decorator_list)
    }
    told = {name for row in rows(SECURITY) if "**gap**" in row[2] for _, name in TEST.findall(row[3])}
    held = {name for row in rows(SECURITY) if "**gap**" not in row[2] for _, name in TEST.findall(row[3])}
    assert failing <= told
    assert not failing & held
