"""Documentation that cannot drift: the CLI reference, the error table, the README's commands."""

from __future__ import annotations

import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prefloop.cli.app import app

ROOT = Path(__file__).parent.parent


def test_the_cli_reference_is_what_the_commands_say() -> None:
    spec = importlib.util.spec_from_file_location("make_cli_reference", ROOT / "docs" / "make_cli_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text() == module.reference(), "run `make docs`"


def commands() -> list[str]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    lines = {
        line.strip() for page in pages for line in re.findall(r"^ *(prefloop [a-z].*)$", page.read_text(), re.MULTILINE)
    }
    return sorted(line.split("  #")[0] for line in lines)


@cache
def helped(*words: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"})
    return found.exit_code, found.output


@pytest.mark.parametrize("line", commands())
def test_every_command_in_the_documentation_exists_with_its_options(line: str) -> None:
    words = shlex.split(line)[1:]
    depth = 2 if words[0] in {"league", "embedded", "task", "train"} else 1
    code, output = helped(*words[:depth])
    assert code == 0, output
    for option in (word.split("=")[0] for word in words if word.startswith("--")):
        assert option in output, (line, option)


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_the_project_speaks_of_itself_alone() -> None:
    paths = [
        p for pattern in ("src/**/*.py", "docs/**/*.md", "*.md", "Makefile", ".ci/run") for p in ROOT.glob(pattern)
    ]
    for path in paths:
        text = path.read_text()
        assert "/work/" not in text.replace("`work/`", ""), path
        assert not re.search(r"\b(claude|chatgpt|pypi\.org)\b", text, re.IGNORECASE), path
