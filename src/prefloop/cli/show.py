"""`prefloop show`: what a run found, in the terminal."""

from __future__ import annotations

from prefloop.cli.options import Json, StoredRun, print_json


def show(run: StoredRun, json_: Json = False) -> None:
    """Print a finished run's figures and ten unseen questions side by side, or the rounds of a loop.

    Example: prefloop show runs/nba-sql
    """
    from prefloop.store.run_folder import read_manifest

    manifest = read_manifest(run)
    if json_:
        print_json(manifest)
        return
    if "best" in manifest:
        from prefloop.loop.show_rounds import show_rounds

        show_rounds(run)
        return
    from prefloop.loop.show import show_run

    show_run(run)
