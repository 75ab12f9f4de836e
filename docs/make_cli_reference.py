"""Writes docs/cli.md from the commands themselves; a test fails when the page is stale."""

from __future__ import annotations

from pathlib import Path

import typer.main
from typer.core import TyperGroup

from prefloop.cli.app import app

OUT = Path(__file__).with_name("cli.md")
HEAD = "# Command-line reference\n\nWritten by `make docs` from the commands' own help.\n"


def reference() -> str:
    """The page."""
    root = typer.main.get_command(app)
    return HEAD + "".join(_section(command, name) for name, command in _commands(root, "prefloop"))


def _commands(command, name: str):
    yield name, command
    if isinstance(command, TyperGroup):
        for child in sorted(command.commands):
            yield from _commands(command.commands[child], f"{name} {child}")


def _section(command, name: str) -> str:
    lines = [f"\n## `{name}`\n", _plain(command.help or ""), ""]
    if isinstance(command, TyperGroup):
        lines += [f"- [`{name} {child}`](#{name.replace(' ', '-')}-{child})" for child in sorted(command.commands)]
        return "\n".join(lines) + "\n"
    lines += ["| argument or option | default | meaning |", "|---|---|---|"]
    for parameter in command.params:
        if parameter.name in {"install_completion", "show_completion"}:
            continue
        named = (
            parameter.opts
            if parameter.opts[0].startswith("-")
            else [(parameter.metavar or parameter.name or "").upper()]
        )
        names = ", ".join(f"`{name}`" for name in named)
        default = parameter.default
        shown = "" if default in (None, False, ()) or callable(default) else f"`{default}`"
        lines.append(f"| {names} | {shown} | {_plain(getattr(parameter, 'help', '') or '').replace('|', ' or ')} |")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    for mark in ("[bold]", "[/bold]"):
        text = text.replace(mark, "`" if "bold" in mark else "")
    return text.strip()


if __name__ == "__main__":
    OUT.write_text(reference(), encoding="utf-8")
