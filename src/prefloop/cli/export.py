"""`prefloop export`: base and adapter to one plain model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefloop.cli.options import Json, print_json

if TYPE_CHECKING:
    from prefloop.models.export import Exported


def export(
    base: Annotated[str, typer.Argument(help="'embedded', a from_pretrained folder, or a hub id.")],
    adapter: Annotated[Path, typer.Option(help="Adapter folder: LoRA and relatives, or a reward model's.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the merged model.")],
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16; the 16-bit ones halve the folder and round.")
    ] = "float32",
    quantised: Annotated[
        bool | None,
        typer.Option(
            "--quantised/--no-quantised",
            help="Merge onto the base's weights as QLoRA saw them (NF4, dequantised). Default: as the adapter records.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    json_: Json = False,
) -> None:
    """Merge an adapter into a plain model folder that answers the same, and prove it by reading the folder back.

    Example: prefloop export embedded --adapter runs/nba-sql/checkpoint --out merged
    """
    from dataclasses import asdict

    from prefloop.models.export import export_model

    result = export_model(base, adapter, out, dtype, quantised, device)
    print_json(asdict(result)) if json_ else typer.echo("\n".join(_lines(result, base, adapter, out)))


def _lines(result: Exported, base: str, adapter: Path, out: Path) -> list[str]:
    what = "scores" if result.same_top is None else "logits"
    rounding = f"; rounding the weights alone makes {result.difference_of_rounding:.2g}"
    lines = [
        f"merged            {adapter} into {base}",
        f"written           {out}, {result.kind}, {result.dtype}, {result.size_bytes / 1e6:.1f} MB",
        f"read back         {what} up to {result.largest_logit:.3g} differ by at most {result.difference:.2g} "
        f"from base and adapter{rounding if result.dtype != 'float32' else ''}",
    ]
    if result.same_top is not None:
        lines.append(f"likeliest token   the same at {result.same_top:.1%} of the probed positions")
    if result.quantisation:
        cost = result.quantisation
        lines += [
            f"quantisation      moved the base's weights by {cost.weights_moved:.1%} (norm of change over norm)",
            f"4-bit model       {what} of the folder differ by at most {cost.difference_to_4bit:.2g} from it",
            f"original weights  merged onto these they would differ by {cost.difference_on_original:.2g}",
        ]
    return lines
