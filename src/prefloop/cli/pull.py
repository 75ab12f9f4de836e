"""`prefloop pull`: a repository of the Hugging Face Hub to a folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, print_json


class Kind(StrEnum):
    """The Hub's kinds of repository that are pulled."""

    DATASET = "dataset"
    MODEL = "model"


def pull(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="owner/name")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; it appears whole or not at all.")],
    kind: Annotated[Kind | None, typer.Option(help="Default: whichever of the two exists, a model first.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: main.")] = None,
    skip_pickles: Annotated[
        bool, typer.Option("--skip-pickles", help="Leave pickled files out. Default: refuse a repository with some.")
    ] = False,
    json_: Json = False,
) -> None:
    """Fetch a data set, adapter or model from the Hugging Face Hub into a folder that the other commands read.

    OUT.source.json beside the folder records repository, revision and commit. After an interruption give the same
    command again: files that arrived are kept.

    Example: prefloop pull me/nba-preferences --out preferences
    """
    from dataclasses import asdict

    from prefloop.loop.publish import pull as pull_folder

    result = pull_folder(repo, out, kind=kind and kind.value, revision=revision, skip_pickles=skip_pickles)
    if json_:
        print_json(asdict(result))
        return
    size = sum(result.files.values()) / 1e6
    typer.echo(f"{out}: {result.kind} {result.repo_id}, {len(result.files)} files, {size:,.2f} MB")
    typer.echo(f"commit {result.commit} of {result.revision}, recorded in {out}.source.json")
    for name in result.left_out:
        typer.echo(f"  left out: {name} (a pickle)")
