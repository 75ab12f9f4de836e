"""`prefloop benchmark`: standard tasks before and after training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, print_json


def benchmark(
    before: Annotated[str, typer.Argument(help="Model before: 'embedded', a folder or a hub id.")],
    after: Annotated[str, typer.Argument(help="Model after; the same one where only an adapter came on top.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the scores of both and benchmark.json.")],
    task: Annotated[list[str], typer.Option("--task", "-t", help="A task, group or tag of the harness. Repeatable.")],
    task_folder: Annotated[Path | None, typer.Option(help="Folder with own tasks (.yaml).")] = None,
    adapter: Annotated[Path | None, typer.Option(help="LoRA adapter on top of the model after.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first documents of each task.")] = None,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="Ask through the chat template.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests in one pass; it may change last digits.")] = 8,
    dtype: Annotated[str, typer.Option(help="Number type of models: float32, bfloat16, float16 or nf4.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of examples in prompts, sampling and intervals.")] = 1234,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted benchmark.")] = False,
    json_: Json = False,
) -> None:
    """Check that training cost nothing elsewhere: tasks of lm-evaluation-harness before and after, paired by document.

    Needs pip install 'prefloop\\[harness]'. Tasks that run what a model wrote are refused. Own tasks are YAML and
    JSON lines: docs/benchmarks.md.

    Examples:

      prefloop benchmark embedded embedded --adapter runs/nba-sql/checkpoint --task my_task --task-folder tasks --out b

      prefloop benchmark mistralai/Mistral-7B-Instruct-v0.2 tuned --task arc_easy --task gsm8k --limit 500 --out b
    """
    from prefloop.evaluation.harness import Asking
    from prefloop.loop.regression import BenchmarkConfig, benchmark_models, summary

    asking = Asking(limit, batch_size, chat_template, seed)
    config = BenchmarkConfig(task, task_folder, asking, dtype, device)
    figures = benchmark_models(before, after, out, config, adapter=adapter, resume=resume)
    if json_:
        print_json(figures)
        return
    for line in summary(figures):
        typer.echo(line)
