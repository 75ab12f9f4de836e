"""A finished run of the shipped recipe with made-up records, as large as wanted: for `benchmarks/scale.py`."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from prefloop.config.recipe import load_recipe
from prefloop.evaluation.answers import Answers
from prefloop.evaluation.compare import evaluate
from prefloop.evaluation.metrics import HeldOutPair
from prefloop.models.load import base_lineage
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.files import write_json
from prefloop.store.run_folder import RunFolder
from prefloop.store.tables import read_batches, records_file, write_records

COMMAND = ["run", "nba-sql"]
DRAWS, PER_TEMPLATE, SAMPLED = 200, 20, 200
RIGHT = {"before": 0.4, "after": 0.6}


def finished_run(folder: Path, data: Path, tests: int) -> Path:
    """Write the folder of a run on the completions and judgements in `data`, with `tests` test prompts."""
    recipe = load_recipe("nba-sql", {})
    identity = {"recipe": recipe.settings, "seeds": 1, "baselines": False}
    identity["policy"] = base_lineage(recipe.policy.model).id
    asked = [_prompt(number) for number in range(tests)]
    with RunFolder.open(folder, identity, resume=False) as run:
        for name in ("completions.parquet", "judgements.parquet"):
            shutil.copy(data / name, folder / name)
        shutil.copy(data / "ours" / "records" / "preferences.parquet", folder / "preferences.parquet")
        with records_file(folder / "prompts.parquet", Prompt) as write:
            for batch in read_batches(data / "prompts.parquet", Prompt):
                write(batch)
            write(asked)
        sides = {side: _answers(folder, side, asked) for side in RIGHT}
        pairs = [HeldOutPair(p.meta["template"], 1.0, 0.5) for p in asked[:SAMPLED]]
        found = evaluate(asked, sides["before"], sides["after"], pairs, seed=1, draws=DRAWS, beta=0.1)
        write_json(folder / "evaluation.json", {**found, "seeds": []})
        write_json(run.path("evaluation/held-out.json"), [{"margin": 1.0}] * SAMPLED)
        write_json(run.path("checkpoint/training.json"), {"history": [{"loss": 0.69}, {"loss": 0.5}]})
        write_json(run.path("stages/preferences.json"), {"drops": {"prompts": tests}, "diagnostics": {}})
        for name in ("software", "lineage", "prompts"):
            write_json(run.path(f"stages/{name}.json"), {"threads": "1"} if name == "software" else {})
        run.finish({"schema": 1, "recipe": recipe.settings})
    return folder


def _prompt(number: int) -> Prompt:
    text = f"How many points did player {number} score per game in the {1950 + number % 70} season?"
    meta = {
        "question": text,
        "template": f"t{number // PER_TEMPLATE}",
        "family": "DEFGH"[number % 5],
        "register": ("question", "terse")[number % 2],
        "seen": number % 5 < 2,
        "trap": None,
        "gold_sql": f"SELECT {number % 30}.5",
    }
    return Prompt.create(({"role": "user", "content": text},), "nba-sql", "test", meta)


def _answers(folder: Path, side: str, prompts: Sequence[Prompt]) -> Answers:
    """A greedy answer to each prompt, right by chance, written and returned; and samples to some."""
    rng = random.Random(side)
    greedy = [_answer(prompt, side, -1, rng) for prompt in prompts]
    completions, judgements = ([pair[i] for pair in greedy] for i in (0, 1))
    write_records(folder / "evaluation" / f"{side}-greedy-completions.parquet", completions, Completion)
    write_records(folder / "evaluation" / f"{side}-greedy-judgements.parquet", judgements, Judgement)
    sampled = [_answer(prompt, side, index, rng) for prompt in prompts[:SAMPLED] for index in range(4)]
    return Answers(completions, judgements, [pair[0] for pair in sampled], [pair[1] for pair in sampled])


def _answer(prompt: Prompt, side: str, index: int, rng: random.Random) -> tuple[Completion, Judgement]:
    right = rng.random() < RIGHT[side]
    query = prompt.meta["gold_sql"] if right else f"SELECT {rng.randrange(1000)}"
    text = f"Plan: the mean of points over the games that the player played in that season.\n```sql\n{query}\n```"
    identity = Completion.make_id(prompt.id, side, {}, 1, 0, index)
    tokens = tuple(rng.choices(range(1000), k=60))
    completion = Completion(identity, prompt.id, index, 0, text, tokens, (0.0,) * 60, "stop", side, {}, 1)
    raw = {"sql": query, "status": "ok", "kind": "values", "columns": ["points"], "rows": [[1.5]], "digest": query}
    objectives = {"correct": float(right), "valid": 1.0, "reasoning": 1.0, "verbosity": 1.0}
    judgement = Judgement.create(prompt.id, (identity,), "execution", "score", float(right), objectives, raw=raw)
    return completion, judgement
