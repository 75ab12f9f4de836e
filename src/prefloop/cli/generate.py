"""`prefloop generate`: prompts to completions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, overrides, print_json


def generate(
    prompts: Annotated[Path, typer.Argument(help="prompts.parquet, or a .jsonl file with a 'prompt' per line.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the completions (.parquet).")],
    model: Annotated[str, typer.Option(help="'embedded', a from_pretrained folder, or a hub id.")] = "embedded",
    adapter: Annotated[Path | None, typer.Option(help="LoRA adapter on top of the model.")] = None,
    k: Annotated[int | None, typer.Option("--k", min=1, help="Answers per prompt (default 8).")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.01, help="Softmax temperature (default 1).")] = None,
    top_p: Annotated[float | None, typer.Option(min=0.01, max=1.0, help="Nucleus (default 1: all).")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the k most probable tokens (default: all).")] = None,
    system: Annotated[str | None, typer.Option(help="System message for prompts that have none.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Base URL of an OpenAI-compatible server; --model is the model's name there.")
    ] = None,
    key_variable: Annotated[str, typer.Option(help="Environment variable with the server's key.")] = "OPENAI_API_KEY",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 256,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="One greedy answer per prompt instead of k samples.")
    ] = False,
    split: Annotated[str | None, typer.Option(help="Only prompts of this split (train, test).")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or nf4.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 1,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Where it is done: engine=ray (docs/ray.md), engine.workers=N, threads=N. Repeatable.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted generation.")] = False,
    json_: Json = False,
) -> None:
    """Sample answers to prompts from any causal language model, here or behind an endpoint.

    Examples:

      prefloop generate questions.jsonl --out completions.parquet --k 4

      prefloop generate questions.jsonl --out served.parquet --endpoint http://localhost:8000/v1 --model my-model

      prefloop generate questions.jsonl --out completions.parquet --model owner/name --set engine=ray
    """
    from prefloop.config.recipe import engine_section
    from prefloop.config.sampling import Sampling
    from prefloop.errors import ConfigError
    from prefloop.loop.generate_stage import generate_file

    if greedy and (k, temperature, top_p, top_k) != (None, None, None, None):
        raise typer.BadParameter("--k, --temperature, --top-p and --top-k have no effect with --greedy")
    if endpoint and (adapter or (dtype, device) != ("float32", "auto")):
        raise typer.BadParameter("--adapter, --dtype and --device have no effect with --endpoint")
    engine, threads, others = engine_section(overrides(settings))
    if others:
        raise ConfigError(f"--set {next(iter(others))} has no effect here: this command reads engine and threads")
    if endpoint and (engine.name, threads) != ("local", 0):
        raise ConfigError("--set engine and --set threads have no effect with --endpoint: the server does the work")
    drawn = (1 if greedy else k or 8, temperature or 1.0, top_p or 1.0, top_k or 0)
    sampling = Sampling(*drawn, max_new_tokens=max_new_tokens, greedy=greedy)
    summary = generate_file(
        prompts,
        out,
        model=model,
        adapter=adapter,
        sampling=sampling,
        split=split,
        system=system,
        endpoint=endpoint,
        key_variable=key_variable,
        dtype=dtype,
        device=device,
        seed=seed,
        resume=resume,
        engine=engine,
        threads=threads,
    )
    print_json(summary) if json_ else typer.echo(
        f"{summary['completions']:,} answers to {summary['prompts']:,} prompts in {out} "
        f"({summary['distinct']:.1%} distinct, {summary['finished']:.1%} finished, "
        f"{summary['mean_length']:.0f} {summary['unit']} on average)"
    )
