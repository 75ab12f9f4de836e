"""PairRM (2306.02561): an encoder that reads a source and two answers and says which answer is better.

    [CLS]<|source|>x[SEP] [CLS]<|candidate1|>a[SEP] [CLS]<|candidate2|>b[SEP]

s, a, b = the encoder's last hidden states at the three markers; head(z) = W4 tanh(W1 z + b1) + b4;

    logit(a, b) = mean over tasks of head([s; a]) − head([s; b]),    above 0: the left answer is better.

Lengths, counting [CLS], marker and [SEP]: S ≤ 1224 tokens of source, each answer ≤ 412 + ⌊(1224 − S) / 2⌋; what is
longer loses its end. S is this source's own length (llm-blender takes the longest source of its batch, so that its
scores depend on the batch). The hidden states are taken where the markers were put, never by searching for ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import linear

from prefloop.errors import ConfigError, ModelError
from prefloop.models.deberta import DebertaV3, is_version_3
from prefloop.models.lineage import hash_folder
from prefloop.models.load import DTYPES, device_of, is_hub_id, model_folder, quiet_transformers
from prefloop.models.unigram import read_tokenizer

MARKERS = ("<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>")
"""In the order of their ids, which follow the tokenizer's own."""
ID_KEYS = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id")
"""Where PairRM-hf's configuration keeps the ids of the first three."""
SOURCE_TOKENS, ANSWER_TOKENS = 1224, 412
ADDED = 3
"""[CLS], marker and [SEP]."""
CPU_TOKENS = 1_024
"""Most tokens of a batch on a CPU: its products win nothing by more, and fresh memory costs."""
SQUARE_FROM = 1_024
"""Longest sequence up to which memory counts as linear in its length; attention is quadratic."""

_REPLACED = re.compile("|".join(map(re.escape, (*MARKERS, "[SEP]"))) + "|[\ud800-\udfff]")
"""What would be taken for a marker or a segment's end, and what is no character (half of a surrogate pair)."""
_HEAD = ("head_layer.1.weight", "head_layer.1.bias", "head_layer.4.weight", "head_layer.4.bias")
_ENCODER = "pretrained_model."
_TOLERATED = {f"{_ENCODER}embeddings.position_ids"}


@dataclass(frozen=True, slots=True)
class Segment:
    """A source or an answer as it is shown."""

    ids: tuple[int, ...]
    """Without [CLS], marker and [SEP]."""
    cut: int
    """Tokens lost at the end."""
    sanitised: int
    """Markers, [SEP] and lone surrogates that became spaces."""


Triple = tuple[Segment, Segment, Segment]
"""Source, left answer, right answer."""


@dataclass(frozen=True)
class PairRM:
    """A loaded ranker."""

    encoder: DebertaV3
    head: tuple[Tensor, Tensor, Tensor, Tensor]
    """float32: W1 [d, 2d], b1 [d], W4 [tasks, d], b4 [tasks]."""
    tokenizer: Tokenizer
    ids: tuple[int, int, int, int, int]
    """[CLS], [SEP], source, left and right marker."""
    limits: tuple[int, int]
    """Most tokens of a source, and of an answer beside a source of that length."""
    name: str
    hash: str
    """Of weights and configuration."""

    def segments(self, source: str, answers: Sequence[str]) -> tuple[Segment, list[Segment]]:
        """A source and its answers in tokens, cut to the limits that this source's length leaves."""
        asked = self._segment(source, self.limits[0])
        left = self.limits[0] - len(asked.ids) - ADDED
        return asked, [self._segment(answer, self.limits[1] + left // 2) for answer in answers]

    def _segment(self, text: str, limit: int) -> Segment:
        clean, replaced = _REPLACED.subn(" ", text)
        ids = self.tokenizer.encode(clean, add_special_tokens=False).ids
        kept = max(limit - ADDED, 0)
        return Segment(tuple(ids[:kept]), max(len(ids) - kept, 0), replaced)

    @torch.inference_mode()
    def logits(self, triples: Sequence[Triple], tokens_per_batch: int) -> Tensor:
        """[P] float32 on the CPU: logit(left, right) of each triple, whatever they are batched with (up to rounding).

        Args:
            tokens_per_batch: most tokens of one forward pass, padding included; one triple is always run.
        """
        budget = min(tokens_per_batch, CPU_TOKENS) if self.encoder.device.type == "cpu" else tokens_per_batch
        lengths = [sum(len(segment.ids) + ADDED for segment in triple) for triple in triples]
        found_P = torch.zeros(len(triples))
        for rows in _batches(lengths, budget):
            found_P[rows] = self._forward([triples[row] for row in rows], max(lengths[row] for row in rows))
        return found_P

    def _forward(self, triples: Sequence[Triple], width: int) -> Tensor:
        cls, sep, *markers = self.ids
        rows, places = [], []
        for triple in triples:
            row: list[int] = []
            place = []
            for marker, segment in zip(markers, triple, strict=True):
                place.append(len(row) + 1)
                row += [cls, marker, *segment.ids, sep]
            rows.append(row + [0] * (width - len(row)))
            places.append(place)
        real_BN = torch.arange(width) < torch.tensor([[sum(len(s.ids) + ADDED for s in t)] for t in triples])
        s_BD, a_BD, b_BD = self.encoder(torch.tensor(rows), real_BN, torch.tensor(places)).float().unbind(1)
        return (self._score(s_BD, a_BD) - self._score(s_BD, b_BD)).mean(-1).cpu()

    def _score(self, source_BD: Tensor, answer_BD: Tensor) -> Tensor:
        w1, b1, w4, b4 = self.head
        return linear(torch.tanh(linear(torch.cat([source_BD, answer_BD], -1), w1, b1)), w4, b4)


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions in batches of at most `budget` padded tokens; longest first: what is too large fails at once."""
    rows: list[int] = []
    widest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if rows and (len(rows) + 1) * widest * max(1.0, widest / SQUARE_FROM) > budget:
            yield rows
            rows = []
        if not rows:
            widest = lengths[row]
        rows.append(row)
    if rows:
        yield rows


def load_pairrm(source: str, dtype: str = "float32", device: str = "auto") -> PairRM:
    """PairRM from a folder or the hub, in either published layout.

    ``llm-blender/PairRM``: config.json is the ranker's; the encoder's configuration, and ``spm.model`` where the folder
    has no tokenizer, come from the model it names (microsoft/deberta-v3-large): a folder of that name in this one,
    else the hub. ``PairRM-hf``: everything in one folder.

    Args:
        dtype: number type of the encoder; the head is always float32.

    Raises:
        ConfigError: a dtype or device that is not there.
        ModelError: missing or damaged files, or a model that is not PairRM.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown: give one of {', '.join(DTYPES)}")
    place = device_of(device)
    folder = model_folder(source)
    config = _config(folder, source)
    tensors = _tensors(folder)
    lacking = [name for name in _HEAD if name not in tensors]
    if lacking:
        raise _not_pairrm(source, str(config.get("model_type")), f"it has no {lacking[0]}")
    base = str(config.get("model_name") or "microsoft/deberta-v3-large")
    shape = _read_config(_file_of(folder, base, "config.json")) if "ranker_type" in config else config
    model = _encoder(folder, shape, tensors, dtype)
    tokenizer = _tokenizer(folder, base)
    ids = _ids(tokenizer, config, model.config.vocab_size, source)
    w1, b1, w4, b4 = (tensors[name].float().to(place) for name in _HEAD)
    return PairRM(
        DebertaV3(model.to(place)),
        (w1, b1, w4, b4),
        tokenizer,
        ids,
        (int(config.get("source_maxlength") or SOURCE_TOKENS), int(config.get("candidate_maxlength") or ANSWER_TOKENS)),
        source,
        hash_folder(folder),
    )


def _config(folder: Path, source: str) -> dict[str, Any]:
    config = _read_config(folder / "config.json")
    kind, ranker = str(config.get("model_type")), config.get("ranker_type")
    if ranker is not None and (ranker != "pairranker" or not kind.startswith("deberta")):
        raise _not_pairrm(source, f"{ranker} ({kind})", "its ranker_type is not pairranker on deberta")
    if ranker is None and kind != "deberta-v2":
        raise _not_pairrm(source, kind, f"its architecture is {', '.join(config.get('architectures') or ['unknown'])}")
    return config


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}): copy the model again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no configuration: copy the model again")
    return content


def _not_pairrm(source: str, kind: str, why: str) -> ModelError:
    return ModelError(
        f"{source} is a model of type {kind}, not PairRM ({why}): "
        "give llm-blender/PairRM or llm-blender/PairRM-hf, or use the judge reward-model for a scalar reward model"
    )


def _tensors(folder: Path) -> dict[str, Tensor]:
    try:
        return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read the weights in {folder}: {error}; copy the model again") from error


def _encoder(folder: Path, shape: dict[str, Any], tensors: dict[str, Tensor], dtype: str) -> Any:
    from transformers import DebertaV2Config, DebertaV2Model

    words = tensors.get(f"{_ENCODER}embeddings.word_embeddings.weight", torch.empty(0))
    try:
        config = DebertaV2Config.from_dict({**shape, "vocab_size": len(words)})
        if not is_version_3(config):
            raise ValueError("it is not DeBERTa-v3")
        with torch.device("meta"):
            expected = {_ENCODER + name: tuple(t.shape) for name, t in DebertaV2Model(config).state_dict().items()}
    except Exception as error:  # a configuration from a file: transformers raises many kinds for what it cannot mean
        raise ModelError(f"the encoder's configuration for {folder} cannot be used: {error}") from error
    hidden, tasks = config.hidden_size, len(tensors[_HEAD[2]])
    expected |= dict(zip(_HEAD, ((hidden, 2 * hidden), (hidden,), (tasks, hidden), (tasks,)), strict=True))
    _check_tensors(folder, {name: tuple(t.shape) for name, t in tensors.items()}, expected)
    state = {name.removeprefix(_ENCODER): tensors[name] for name in expected if name.startswith(_ENCODER)}
    with quiet_transformers():
        return DebertaV2Model.from_pretrained(None, config=config, state_dict=state, dtype=getattr(torch, dtype))


def _check_tensors(folder: Path, found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
    wrong = [f"lack {name}" for name in expected if name not in found]
    wrong += [f"have {name}, which PairRM has not" for name in sorted(found.keys() - expected.keys() - _TOLERATED)]
    wrong += [
        f"have {name} as {found[name]} in place of {size}"
        for name, size in expected.items()
        if found.get(name, size) != size
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ModelError(f"the weights in {folder} {wrong[0]}{more}: weights and configuration are of different models")


def _tokenizer(folder: Path, base: str) -> Tokenizer:
    own = (folder / "spm.model").is_file() or (folder / "tokenizer.json").is_file()
    place = folder if own else _file_of(folder, base, "spm.model").parent
    found = read_tokenizer(place, MARKERS)
    if found is None:
        raise ModelError(f"{place} has no spm.model and no tokenizer.json: copy spm.model of {base} there")
    return found


def _file_of(folder: Path, base: str, name: str) -> Path:
    """A file of the model that the ranker was built on, which may lie beside or in the ranker's folder."""
    for place in (folder / base, folder / base.rsplit("/", 1)[-1], Path(base).expanduser()):
        if (place / name).is_file():
            return place / name
    if not is_hub_id(base):
        raise ModelError(f"PairRM in {folder} needs {name} of {base}: copy it to {folder / Path(base).name}")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(base, name))
    except Exception as error:  # no network, no such model, no permission: many kinds, one meaning
        raise ModelError(
            f"PairRM in {folder} needs {name} of {base}, and the hub does not give it: copy it to "
            f"{folder / base.rsplit('/', 1)[-1]}, or connect once ({type(error).__name__})"
        ) from error


def _ids(tokenizer: Tokenizer, config: dict[str, Any], rows: int, source: str) -> tuple[int, int, int, int, int]:
    """Ids of [CLS], [SEP] and markers: PairRM-hf writes the markers' down, else they follow the tokenizer's own."""
    size = tokenizer.get_vocab_size()
    markers = [int(config.get(key, size + i)) for i, key in enumerate(ID_KEYS)]
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    written = any(key in config for key in ID_KEYS)
    fits = max(markers) < rows if written else rows == size + len(MARKERS)
    if cls is None or sep is None or size > rows or not fits:
        raise ModelError(
            f"{source}: a tokenizer of {size} tokens and markers {markers} do not go with {rows} word embeddings: "
            "tokenizer and weights belong to different models"
        )
    return cls, sep, markers[0], markers[1], markers[2]
