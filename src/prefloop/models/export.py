"""An adapter folded into a plain model folder, which is read back and must answer as base and adapter do."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from prefloop.errors import ConfigError, ModelError, StoreError
from prefloop.models.lineage import LINEAGE_FILE, Lineage, hash_folder
from prefloop.models.load import (
    DTYPES,
    Policy,
    device_of,
    model_folder,
    quantised,
    quiet_transformers,
    read_model,
    read_tokenizer,
    with_adapter,
)
from prefloop.models.reward import HEAD, KIND
from prefloop.store.files import read_json, write_json, writing

EXACT = 1e-4
"""Difference that the order of float32 sums explains, as a share of the largest logit."""
KERNELS = 2e-2
"""The same for 4-bit products, which bitsandbytes takes in bfloat16 on some hardware."""
TEXTS = (
    "How many points per game did the league's leading scorer average in the 2019-20 season?",
    "SELECT player, AVG(pts) FROM box_scores GROUP BY player ORDER BY 2 DESC LIMIT 10;",
)
PROBE_TOKENS = 48


@dataclass(frozen=True)
class Quantisation:
    """What four bits cost: their weights against the original ones."""

    weights_moved: float
    """‖dequantised − original‖ / ‖original‖ over all quantised matrices."""
    difference_to_4bit: float
    """Of the exported folder to the 4-bit model with the adapter, which is what was trained."""
    difference_on_original: float
    """To the same model, had the adapter been folded into the original weights."""


@dataclass(frozen=True)
class Exported:
    """A written model folder and how it differs from base and adapter: largest differences of logits or scores."""

    policy: str
    """Lineage id of the folder."""
    kind: str
    dtype: str
    size_bytes: int
    largest_logit: float
    difference: float
    """Folder against base with adapter, both with float32 products."""
    difference_of_rounding: float
    """The part of it that rounding the weights to `dtype` makes by itself."""
    same_top: float | None
    """Share of probe positions with the same likeliest token; none for a reward model."""
    quantisation: Quantisation | None


def export_model(
    source: str | Path,
    adapter: Path,
    out: Path,
    dtype: str = "float32",
    onto_quantised: bool | None = None,
    device: str = "auto",
) -> Exported:
    """Fold an adapter into its base and write the result as an ordinary `from_pretrained` folder.

    Merged in float32 and then rounded to `dtype`. The folder appears after it was read back: its logits on probe
    sequences may differ from those of base and adapter by what rounding the weights makes, measured apart, and by
    the order of float32 sums.

    Args:
        adapter: of a causal model, or of a reward model (task type SEQ_CLS, with its head).
        onto_quantised: fold into the dequantised NF4 weights, on which QLoRA trained; without a value as the
            adapter's own record says.

    Raises:
        ConfigError: an unknown dtype or device.
        ModelError: no adapter, another model's, or one that cannot be merged; or the folder answers otherwise.
        StoreError: `out` exists or cannot be written, or the disk is full. Nothing is left behind.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown: give one of {', '.join(DTYPES)}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise StoreError(f"{out} exists already: choose another --out or remove it first")
    options = _kind(adapter)
    start = _base(source, device, options)
    _check_space(start.model, dtype, out)
    if onto_quantised is None:
        onto_quantised = _trained_on_4bit(adapter)
    probes = _probes(start)
    adapted = with_adapter(start, adapter)
    wanted = _answers(adapted.model, probes)
    moved, on_original, in_4bit = 0.0, wanted, wanted
    if onto_quantised:
        adapted.model.unload()
        moved, in_4bit = _quantise(start, adapter, probes, options)
        adapted = with_adapter(start, adapter)
        wanted = _answers(adapted.model, probes)
        _check(in_4bit, wanted, KERNELS, f"the dequantised weights of {source} do not answer as the 4-bit ones do")
    model = _merged(adapted, adapter)
    merged = _answers(model, probes)
    _check(wanted, merged, EXACT, f"the adapter {adapter} cannot be folded into {source}")
    _round(model, dtype)
    rounded = _answers(model, probes)
    record = {"base": start.lineage.base, "merged": [hash_folder(adapter)], "dequantised": onto_quantised}
    with _folder(out) as folder:
        _write(model, start, dtype, folder, record)
        del adapted, model
        found = _answers(read_model(folder, "float32", options["kind"]).to(start.device).eval(), probes)
        _check(rounded, found, EXACT, f"what was written to {out} is not what was merged")
    return Exported(
        policy=Lineage(hash_folder(out)).id,
        kind="reward model" if options["kind"] == KIND else "causal language model",
        dtype=dtype,
        size_bytes=sum(path.stat().st_size for path in out.iterdir()),
        largest_logit=_largest(wanted),
        difference=_difference(wanted, found),
        difference_of_rounding=_difference(merged, rounded),
        same_top=None if options["kind"] == KIND else _same_top(wanted, found),
        quantisation=Quantisation(moved, _difference(in_4bit, found), _difference(in_4bit, on_original))
        if onto_quantised
        else None,
    )


def _kind(adapter: Path) -> dict[str, Any]:
    """Options of `read_model` for the adapter's base: a sequence classifier's head comes from the adapter."""
    config = adapter / "adapter_config.json"
    if not config.is_file():
        whole = " (it is a whole model: use it as it is)" if (adapter / "config.json").is_file() else ""
        raise ModelError(f"{adapter} is not an adapter folder: it has no adapter_config.json{whole}")
    try:
        task = read_json(config).get("task_type")
    except (StoreError, AttributeError) as error:
        raise ModelError(f"{config} is damaged: copy the adapter again") from error
    if task == "SEQ_CLS":
        return {"kind": KIND, "new": f"{HEAD}.", "num_labels": 1}
    if task not in (None, "CAUSAL_LM"):
        raise ModelError(f"{adapter} is an adapter of kind {task}: only CAUSAL_LM and SEQ_CLS are exported")
    return {"kind": "AutoModelForCausalLM"}


def _trained_on_4bit(adapter: Path) -> bool:
    recorded = adapter / LINEAGE_FILE
    return recorded.is_file() and read_json(recorded).get("method") == "qlora"


def _base(source: str | Path, device: str, options: dict[str, Any]) -> Policy:
    folder = model_folder(str(source))
    model = read_model(folder, "float32", **options)
    if getattr(model, "is_quantized", False):
        raise ModelError(f"the weights in {folder} are quantised: export onto the model they were made from")
    tokenizer = read_tokenizer(folder, model)
    if options["kind"] == KIND:  # batches of a classifier need it: the score stands at the last token before padding
        model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return Policy(model.to(device_of(device)).eval(), tokenizer, Lineage(hash_folder(folder)), str(source))


def _check_space(model: Any, dtype: str, out: Path) -> None:
    """Refuse before minutes of work what cannot be written after them."""
    needed = sum(parameter.numel() for parameter in model.parameters()) * getattr(torch, dtype).itemsize
    place = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StoreError(
            f"disk full: {out} needs {needed / 1e9:.2f} GB in {dtype} and {free / 1e9:.2f} GB are free; "
            "free some space or choose another --out"
        )


def _quantise(
    start: Policy, adapter: Path, probes: list[Tensor], options: dict[str, Any]
) -> tuple[float, list[Tensor]]:
    """Give `start`'s model the weights that its 4-bit copy has; how far they moved, and what the copy answers."""
    small = quantised(start, "float32", **options)
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit
    from transformers.pytorch_utils import Conv1D

    moved = total = 0.0
    for name, layer in small.named_modules():
        if isinstance(layer, Linear4bit):
            weight = start.model.get_submodule(name).weight.data
            four = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(weight)
            if isinstance(start.model.get_submodule(name), Conv1D):  # GPT-2's: (in, out); 4-bit layers are (out, in)
                four = four.T
            moved += float((four - weight).square().sum())
            total += float(weight.square().sum())
            weight.copy_(four)
    if not total:
        raise ModelError(f"{start.name} has no linear layer that QLoRA quantises: export without --quantised")
    adapted = with_adapter(replace(start, model=small), adapter)
    return (moved / total) ** 0.5, _answers(adapted.model, probes)


def _merged(adapted: Policy, adapter: Path) -> Any:
    model: Any = adapted.model
    inner = model.get_base_model()
    layers = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    if layers[1] and inner.config.tie_word_embeddings and any(isinstance(layer, BaseTunerLayer) for layer in layers):
        head = layers[1].get_base_layer() if isinstance(layers[1], BaseTunerLayer) else layers[1]
        head.weight = torch.nn.Parameter(head.weight.detach().clone())  # PEFT then records that they are two
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about these two; the folder is read back
            return model.merge_and_unload(safe_merge=True).eval()
    except Exception as error:  # PEFT has many kinds of adapters, and as many ways to say that one cannot be merged
        raise ModelError(f"the adapter {adapter} cannot be folded into weights: {error}") from error


@torch.no_grad()
def _round(model: Any, dtype: str) -> None:
    """Round the parameters to `dtype`, kept as float32."""
    for name, parameter in model.named_parameters():
        parameter.copy_(parameter.to(getattr(torch, dtype)))
        if not bool(parameter.isfinite().all()):
            raise ModelError(f"{dtype} cannot hold the weights {name}: use --dtype bfloat16 or float32")


def _write(model: Any, start: Policy, dtype: str, folder: Path, record: dict[str, Any]) -> None:
    model.to(getattr(torch, dtype))
    with quiet_transformers():
        model.save_pretrained(folder)
        start.tokenizer.save_pretrained(folder)
    write_json(folder / LINEAGE_FILE, {**record, "policy": Lineage(hash_folder(folder)).id})


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end, or goes away."""
    partial = out.with_name(f".{out.name}.partial")
    with writing(out):
        try:
            shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
            partial.mkdir(parents=True)
            yield partial
            for path in partial.iterdir():
                with path.open("rb+") as handle:
                    os.fsync(handle.fileno())
            partial.replace(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _probes(policy: Policy) -> list[Tensor]:
    """Token ids [1, T]: a few texts, and ids drawn from the whole vocabulary."""
    ids = [policy.tokenizer(text)["input_ids"][:PROBE_TOKENS] for text in TEXTS]
    vocabulary = policy.model.get_input_embeddings().num_embeddings
    drawn = torch.randint(vocabulary, (1, PROBE_TOKENS), generator=torch.Generator().manual_seed(0))
    return [drawn, *(torch.tensor([row]) for row in ids if row)]


@torch.no_grad()
def _answers(model: Any, probes: list[Tensor]) -> list[Tensor]:
    """Logits [T, vocabulary] of each probe, or its score [1]."""
    return [model(input_ids=ids.to(model.device)).logits[0].float().cpu() for ids in probes]


def _largest(answers: list[Tensor]) -> float:
    return max(float(row.abs().max()) for row in answers)


def _difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def _same_top(one: list[Tensor], other: list[Tensor]) -> float:
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(one, other, strict=True)])
    return float(same.float().mean())


def _check(wanted: list[Tensor], found: list[Tensor], share: float, meaning: str) -> None:
    difference, largest = _difference(wanted, found), _largest(wanted)
    if not difference <= share * largest:  # also where one of them is not a number
        raise ModelError(
            f"{meaning}: logits up to {largest:.3g} differ by {difference:.2g}, "
            f"more than {share * largest:.1g}; nothing was written"
        )
