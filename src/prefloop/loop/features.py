"""Feature vectors of answers, from a reward model: by these `prefloop annotate` chooses the pairs that teach most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from prefloop.config.judges import RewardModelConfig
from prefloop.errors import DataError
from prefloop.records import Completion, Prompt
from prefloop.store.files import atomic_path, unused
from prefloop.store.tables import read_records


def features_file(run: Path, out: Path, config: RewardModelConfig) -> dict[str, Any]:
    """Vectors of the answers of a run, written to an ``.npz`` with ``ids`` [n] and ``features`` [n, d]; counts.

    Raises:
        DataError: `out` is no .npz, or no answer could be read.
    """
    run, out = Path(run), Path(out)
    if out.suffix != ".npz":
        raise DataError(f"{out}: features are written as .npz; name it {out.with_suffix('.npz').name}")
    unused(out)
    prompts = read_records(run / "prompts.parquet", Prompt)
    completions = read_records(run / "completions.parquet", Completion)
    from prefloop.judging.reward_model import RewardModelJudge

    with RewardModelJudge(config) as judge:
        found = judge.features(prompts, completions)
    if not found:
        raise DataError(
            f"{config.model} could read none of the {len(completions):,} answers: are they too long for it?"
        )
    table = np.array(list(found.values()), dtype=np.float32)
    with atomic_path(out) as path, path.open("wb") as handle:
        np.savez_compressed(handle, ids=np.array(list(found)), features=table)
    return {"answers": len(completions), "read": len(found), "dimensions": table.shape[1]}
