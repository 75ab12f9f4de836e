"""Which pairs teach a Bradley-Terry reward model most: a greedy D-optimal design on features of the answers.

With P(i better than j) = σ(θ·x), x = f_i − f_j, a label of the pair adds w x xᵀ to the Fisher information of θ. Its
weight is σ'(θ·x), taken in the mean over the prior θ ~ N(0, τ² I) by the probit approximation (MacKay 1992):

    w = ¼ / √(1 + π τ² |x|² / 8)

so pairs that the prior already expects to be one-sided count less. The design starts from the prior's precision I / τ²
and adds the pair with the greatest gain log(1 + w xᵀ A⁻¹ x) in log det A, again and again; A⁻¹ and the gains of all
pairs follow by Sherman-Morrison updates. Differences are scaled so that the mean of |x|² is 1: τ is the standard
deviation of a typical pair's logit.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from math import pi, sqrt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prefloop.errors import DataError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PRIOR = 2.0
"""τ: a typical pair's logit has this standard deviation before any label."""
LAYOUT = "an .npz with arrays 'ids' [n] and 'features' [n, d], or Parquet with columns completion_id and features"


def d_optimal(
    difference_NF: Floats, prompt_N: Integers, per_prompt: int, most: int | None = None, prior: float = PRIOR
) -> list[int]:
    """Pairs in the order in which they teach most; of equal ones the first.

    Args:
        difference_NF: [N, F] features of a pair's first answer less those of its second.
        prompt_N: [N] whose pair it is.
        per_prompt: pairs of a prompt that may be taken.
        most: pairs in all.

    The first two directions are orthogonal, though the third pair is nearly as long as the first:

    >>> d_optimal(np.array([[3.0, 0.0], [0.0, 2.0], [2.9, 0.0]]), np.array([0, 1, 2]), 1)
    [0, 1, 2]
    """
    rows, inverse = _information(difference_NF, prior)
    left = np.arange(len(rows))
    used: dict[int, int] = {}
    gains = np.einsum("nf,nf->n", rows @ inverse, rows)
    found: list[int] = []
    while len(left) and (most is None or len(found) < most):
        best = int(np.argmax(gains))
        found.append(int(left[best]))
        along = inverse @ rows[best] / sqrt(1 + max(float(gains[best]), 0.0))
        inverse -= np.outer(along, along)
        gains -= (rows @ along) ** 2
        gains[best] = -np.inf
        prompt = int(prompt_N[found[-1]])
        used[prompt] = used.get(prompt, 0) + 1
        if used[prompt] >= per_prompt:
            gains[prompt_N[left] == prompt] = -np.inf
        rows, gains, left = _without_taken(rows, gains, left)
    return found


def _information(difference: Floats, prior: float) -> tuple[Floats, Floats]:
    """Rows √w x, and the inverse of the prior's precision."""
    lengths = np.einsum("nf,nf->n", difference, difference)
    mean = float(lengths.mean()) if len(lengths) else 0.0
    scale = mean if mean > 0 else 1.0
    weights = 0.25 / np.sqrt(1 + pi * prior**2 * lengths / scale / 8)
    return difference * np.sqrt(weights / scale)[:, None], np.eye(difference.shape[1]) * prior**2


def _without_taken(rows: Floats, gains: Floats, left: Integers) -> tuple[Floats, Floats, Integers]:
    """Drop what cannot be taken any more, now and then: a copy costs as much as some steps."""
    alive = gains > -np.inf
    if alive.sum() > 0.8 * len(gains) and alive.any():
        return rows, gains, left
    return rows[alive], gains[alive], left[alive]


def read_features(path: Path) -> dict[str, Floats]:
    """Feature vectors [F] by completion id, from a file that another command has computed.

    Raises:
        DataError: the file is missing or laid out otherwise, or a vector has another length or is not finite.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: give {LAYOUT}")
    try:
        ids, table = _parquet(path) if path.suffix == ".parquet" else _npz(path)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise DataError(f"{path} holds no features ({error}): give {LAYOUT}") from error
    if table.ndim != 2 or len(table) != len(ids):
        raise DataError(f"{path}: {len(ids)} ids for features of shape {table.shape}: give {LAYOUT}")
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(bad):
        raise DataError(f"{path}: the features of completion {ids[bad[0]]} are not finite numbers: compute them again")
    return dict(zip(ids, table, strict=True))


def differences(pairs: Sequence[tuple[str, ...]], features: Mapping[str, Floats], same: Mapping[str, str]) -> Floats:
    """[N, F] for pairs of completion ids.

    Args:
        same: id by the id of an answer with the same text; one of the two needs features.

    Raises:
        DataError: a completion has none.
    """
    known = dict(features)
    for other, kept in same.items():
        if other in features:
            known.setdefault(kept, features[other])
    missing = sorted({i for pair in pairs for i in pair} - known.keys())
    if missing:
        raise DataError(
            f"{len(missing):,} answers have no features, completion {missing[0]} first: compute them for all answers "
            "that are to be judged, or choose another selection.strategy"
        )
    width = len(next(iter(known.values()), np.zeros(0)))
    return np.array([known[a] - known[b] for a, b in pairs], dtype=np.float64).reshape(len(pairs), width)


def _npz(path: Path) -> tuple[list[str], Floats]:
    with np.load(path, allow_pickle=False) as arrays:
        return [str(i) for i in arrays["ids"].tolist()], np.asarray(arrays["features"], dtype=np.float64)


def _parquet(path: Path) -> tuple[list[str], Floats]:
    table = pq.read_table(path, columns=["completion_id", "features"])
    rows = table.column("features").to_pylist()
    return [str(i) for i in table.column("completion_id").to_pylist()], np.asarray(rows, dtype=np.float64)
