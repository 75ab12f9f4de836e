"""`prefloop push`: a folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefloop.cli.options import Json, local_copy, print_json

if TYPE_CHECKING:
    from prefloop.loop.publish import Push


def push(
    folder: Annotated[
        Path, typer.Argument(help="Data set, adapter, model or reward model folder.", callback=local_copy)
    ],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="owner/name; made if need be.")],
    public: Annotated[bool, typer.Option("--public", help="For everybody to see. Default: private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, and say what would go where; nothing is sent.")
    ] = False,
    licence: Annotated[
        str | None, typer.Option("--license", help="The Hub's identifier for the card, e.g. apache-2.0.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Hub id of an adapter's base, where it was trained on a local copy.")
    ] = None,
    json_: Json = False,
) -> None:
    """Check a folder, write its card, and put all of it on the Hugging Face Hub in one commit; private by default.

    Log in with 'hf auth login' or HF_TOKEN. HF_ENDPOINT names another Hub. After an interruption give the same
    command again: what the Hub has is not sent twice.

    Example: prefloop push runs/nba-sql/preferences me/nba-preferences --dry-run
    """
    from dataclasses import asdict

    from prefloop.loop.publish import push as push_folder

    result = push_folder(folder, repo, public=public, dry_run=dry_run, licence=licence, base=base)
    print_json(asdict(result)) if json_ else typer.echo("\n".join(_lines(result, folder)))


def _lines(result: Push, folder: Path) -> list[str]:
    size = sum(result.files.values())
    lines = [
        f"kind       {result.kind}",
        f"from       {folder}",
        f"to         {result.url} ({'public' if result.public else 'private'})",
        f"message    {result.message}",
        *(f"note       {line}" for line in result.notes),
        *(f"  {name:<44} {size:>14,} bytes" for name, size in result.files.items()),
        *(f"  {name:<44} {'left out':>14}" for name in result.left_out),
    ]
    if result.commit is None:
        return [*lines, f"dry run    {len(result.files)} files, {size / 1e6:,.2f} MB; nothing was sent"]
    if not result.changed:
        return [*lines, f"unchanged  the Hub has these bytes already, commit {result.commit}"]
    return [*lines, f"pushed     {len(result.files)} files, {size / 1e6:,.2f} MB, commit {result.commit}"]
