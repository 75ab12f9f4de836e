"""M1, the model that self-rewarding starts from: SFT on examples of answering, of judging and of writing prompts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from prefloop.config.loop import SelfRewardingConfig
from prefloop.config.recipe import Recipe
from prefloop.errors import ConfigError
from prefloop.loop.launch import Launch
from prefloop.loop.policies import initial_source
from prefloop.loop.run_training import Training
from prefloop.loop.seed_data import SeedData, evaluation_texts, make_seed_data, read_judging, read_seed_data
from prefloop.models.export import export_model
from prefloop.models.load import NF4
from prefloop.preferences.instructions import Example, read_instructions
from prefloop.records import Prompt
from prefloop.store.files import read_json, write_jsonl
from prefloop.store.run_folder import RunFolder

SEED = "seed"
"""Folder of the seed data and of M1 in a run's folder."""


def settings(recipe: Recipe) -> SelfRewardingConfig:
    """The recipe's loop section.

    Raises:
        ConfigError: it is another loop's.
    """
    if not isinstance(recipe.loop, SelfRewardingConfig):
        raise ConfigError(f"recipe {recipe.name} is no self-rewarding loop: set loop.name=self-rewarding")
    return recipe.loop


def seed_model(recipe: Recipe, folder: RunFolder, launch: Launch | None = None) -> Path:
    """M1 in ``seed/model`` of the run, made if it is not there; ``seed/seed.json`` has its counts and figures.

    Beside it lie ``ift.jsonl``, ``eft.jsonl``, ``writing.jsonl`` and ``examined.jsonl``, in the form of `seed_data`.

    Raises:
        ConfigError: a task without seeds, or sizes that do not go together.
        DataError: seed data that cannot be used.
    """
    config, out = settings(recipe), folder.root / SEED / "model"
    if not (folder.root / SEED / "examined.jsonl").exists():
        with folder.timed("seed-data"):
            _write(folder, _seed_data(recipe, config, folder))
    trained = out if config.sft.method == "full" else out.with_name("adapter")
    if not (trained / "training.json").exists():
        with folder.timed("seed-training"):
            _train(recipe, config, folder, trained, launch)
    if not out.exists():
        dtype = recipe.policy.dtype if recipe.policy.dtype != NF4 else "bfloat16"
        export_model(recipe.policy.model, trained, out, dtype, device=recipe.policy.device)
    folder.document(f"{SEED}/seed.json", lambda: _figures(folder, trained))
    return out


def _seed_data(recipe: Recipe, config: SelfRewardingConfig, folder: RunFolder) -> SeedData:
    if config.seed_data:
        return read_seed_data(config, config.seed_data, recipe.seed)
    return make_seed_data(recipe, config, folder, evaluation_texts(recipe, folder))


def _write(folder: RunFolder, data: SeedData) -> None:
    """Each file whole; the one that says that all are there comes last."""
    folder.document(f"{SEED}/audit.json", lambda: data.audit)
    for name, examples in (("ift", data.answering), ("writing", data.writing)):
        rows = [{"messages": [*messages, {"role": "assistant", "content": text}]} for messages, text in examples]
        write_jsonl(folder.path(f"{SEED}/{name}.jsonl"), rows)
    for name, judged in (("eft", data.judging), ("examined", data.examined)):
        write_jsonl(folder.path(f"{SEED}/{name}.jsonl"), [example.row() for example in judged])


def _train(recipe: Recipe, config: SelfRewardingConfig, folder: RunFolder, out: Path, launch: Launch | None) -> None:
    examples = [example for name in ("ift", "eft", "writing") for example in _read(folder, name)]
    training = Training(
        initial_source(recipe),
        config.sft,
        recipe.seed,
        threads=recipe.threads,
        out=str(out.relative_to(folder.root)),
        work="seed-training",
        marks={"seed": True},
    )
    training.run(folder, examples, launch)


def _read(folder: RunFolder, name: str) -> list[Example]:
    path = folder.root / SEED / f"{name}.jsonl"
    if not path.stat().st_size:
        return []
    return [(messages, text) for messages, text in read_instructions(path).examples if messages]


def _figures(folder: RunFolder, trained: Path) -> dict[str, Any]:
    written = read_json(trained / "training.json")
    scores = {name: read_judging(folder.root / SEED / f"{name}.jsonl") for name in ("eft", "examined")}
    return {
        "schema": 1,
        "instructions": len(_read(folder, "ift")),
        "writing": len(_read(folder, "writing")),
        "audit": read_json(folder.root / SEED / "audit.json"),
        "training": {key: written.get(key) for key in ("steps", "final_loss", "pairs", "dropped")},
        **{
            name: {
                "examples": len(found),
                "scores": {str(s): n for s, n in sorted(Counter(e.score for e in found).items())},
            }
            for name, found in (("judged", scores["eft"]), ("examined", scores["examined"]))
        },
    }


def seed_prompts(recipe: Recipe, folder: RunFolder) -> list[Prompt]:
    """The prompts of the seed's answering examples: what new ones are written after."""
    return [
        Prompt.create(messages, recipe.task.name, "train", {"question": messages[-1]["content"]})
        for messages, _ in _read(folder, "ift")
        if messages[-1]["role"] == "user"
    ]
