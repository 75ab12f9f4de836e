"""What training will hold in memory, before it starts: estimated peak by part, and the token budget that fits.

Weights, adapters, gradients and AdamW's moments are counted from shapes; what a forward and backward pass holds is
found by running it on shapes (`prefloop.models.footprint`) with two layers and with four, of which all other layers
follow. Nothing is loaded, and a 7B model takes as long as a small one.

On the CPU a process holds more than its live tensors: `PROCESS_BYTES` for Python and its libraries, and what the C
allocator has been given back and keeps. glibc keeps much: after the first large tensor is freed it no longer takes
tensors below 32 MiB from the system one by one, and its heap, full of holes, grows to about twice what lives in it,
a tenth more or less from one run to the next. To forbid it that costs more time than the memory is worth
(docs/lab-notes.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefloop.errors import ModelError
from prefloop.models.attention import SHORT, Shape
from prefloop.models.footprint import on_meta, pass_bytes, quantised_layers
from prefloop.models.split_memory import split_plan

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from prefloop.config.training import Tuning

PROCESS_BYTES = 500 * 2**20
"""Python with torch, transformers and PEFT, after a first small pass, on the CPU (``benchmarks/memory.py``)."""

CUDA_ALLOCATOR = 0.1
"""Of what a pass holds: freed memory that the allocator keeps; a guess."""
CPU_ALLOCATOR, ADAPTERS_LONG, ADAPTERS_SHORT = 0.75, 1.0, 1.5
"""The same of glibc's (``benchmarks/memory.py``): as a rule, and with adapters in float32, each of which leaves holes
beside every product that is kept; more of them where attention gathers short rows."""

STEP_TOKENS = 64
"""Budgets are multiples of this."""

MOST_TOKENS = 65_536
"""No larger budget is proposed: passes beyond it are no faster."""

PROBED = (2, 4)
"""Layers of the models that are run on shapes: fewer plan the workspace of a bfloat16 training too small."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Estimated peak of one training process in bytes, by part."""

    tokens: int
    """Unique tokens of a forward pass."""
    weights: Mapping[str, int]
    """By type: the policy's own, and beside them the float32 copy of full training or the 4-bit copy of qlora."""
    adapters: int
    gradients: int
    moments: int
    """AdamW's two, float32."""
    activations: int
    """What autograd keeps of all layers between forward and backward pass, copies of weights by autocast included."""
    head: int
    """What is kept for the gradient of the LM head."""
    workspace: int
    """What comes and goes within a pass, above what is kept, at the worst moment."""
    process: int
    """Python and its libraries."""
    allocator: int
    """Freed memory that the process keeps."""
    exchange: int = 0
    """What several processes hold beside their share: whole layers for the time of their use, and buckets."""

    @property
    def total(self) -> int:
        """The peak."""
        return sum(size for _, size in self.parts)

    @property
    def parts(self) -> list[tuple[str, int]]:
        """(name, bytes) of every part."""
        return [
            *((f"weights ({kind})", size) for kind, size in self.weights.items()),
            ("adapters", self.adapters),
            ("gradients", self.gradients),
            ("optimizer moments", self.moments),
            (f"activations ({self.tokens:,} tokens)", self.activations),
            ("LM head", self.head),
            ("workspace", self.workspace),
            ("process", self.process),
            ("allocator", self.allocator),
            ("whole layers and buckets", self.exchange),
        ]

    def text(self) -> str:
        """An aligned table for the terminal; parts of no size are left out."""
        rows = [*((name, size) for name, size in self.parts if size), ("peak", self.total)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {size / 2**20:>10,.1f} MiB" for name, size in rows)


_plans: dict[tuple[Any, ...], tuple[Any, MemoryPlan]] = {}
"""Models on shapes alone and their plans that were made in this process, by all that they depend on."""


def plan_memory(
    config: PreTrainedConfig,
    tuning: Tuning,
    tokens: int,
    scored: int,
    longest: int,
    *,
    weight_bytes: int = 4,
    device: str = "cpu",
    strategy: str = "ddp",
    processes: int = 1,
) -> MemoryPlan:
    """Estimated peak of training a causal language model, on one device, several passes per optimizer step.

    Args:
        config: of the model; its weights are not needed.
        tuning: method, rank and type of the training.
        tokens: unique tokens of the largest forward pass (``tokens_per_batch``, or the longest group).
        scored: how many of them belong to completions.
        longest: prompt and completion of the longest row.
        weight_bytes: per weight of the loaded policy: 4 for float32, 2 for half precision.
        device: type of the device.
        strategy: what several processes split (`prefloop.loop.launch`): ddp nothing, zero1, zero2 or fsdp2.
        processes: how many there are.

    Raises:
        ModelError: transformers cannot build such a model, or it cannot run on shapes alone.
    """
    ways = [(strategy, processes)]
    return plan_split_memory(config, tuning, tokens, scored, longest, ways, weight_bytes=weight_bytes, device=device)[0]


def plan_split_memory(
    config: PreTrainedConfig,
    tuning: Tuning,
    tokens: int,
    scored: int,
    longest: int,
    ways: Sequence[tuple[str, int]],
    *,
    weight_bytes: int = 4,
    device: str = "cpu",
) -> list[MemoryPlan]:
    """`plan_memory` of several ways to split one training, each a strategy and a number of processes."""
    shapes = even_groups(tokens, scored, longest)
    model = (type(config), config.to_json_string(), config._attn_implementation, weight_bytes, device)
    how = (tuning.method, tuning.dtype, tuning.lora_rank, tuning.lora_variant, tuning.checkpointing)
    key = (*model, *how, *shapes)
    try:
        if key not in _plans:  # the trials of a sweep ask for the same one
            shell = on_meta(config, tuning, weight_bytes, config.get_text_config().num_hidden_layers)
            _plans[key] = shell, _plan(shell, config, tuning, shapes, weight_bytes, device)
        shell, plan = _plans[key]
        return [plan if n == 1 else split_plan(plan, shell, tuning, strategy, n, device) for strategy, n in ways]
    # A model class may fail on shapes alone in any way its own code can; the plan is a help, not a condition.
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"no memory plan for a {config.model_type} model ({type(error).__name__}: {str(error)[:200]}): "
            "start with a small training.tokens_per_batch and raise it while memory lasts"
        ) from error


def largest_budget(
    config: PreTrainedConfig,
    tuning: Tuning,
    memory_bytes: int,
    *,
    scored_share: float,
    longest: int,
    weight_bytes: int = 4,
    device: str = "cpu",
) -> MemoryPlan:
    """The plan of the largest token budget (`MemoryPlan.tokens`, a multiple of `STEP_TOKENS`) that fits.

    Args:
        memory_bytes: what this process may hold in all (`prefloop.models.free_memory.available_memory`).
        scored_share: share of the tokens that belong to completions.
        longest: prompt and completion of the longest row; no budget below it is proposed.

    Raises:
        ModelError: not even the longest row fits; says what needs less.
    """

    def plan(steps: int) -> MemoryPlan:
        tokens = steps * STEP_TOKENS
        return plan_memory(
            config, tuning, tokens, round(tokens * scored_share), longest, weight_bytes=weight_bytes, device=device
        )

    low, beyond = -(-longest // STEP_TOKENS), MOST_TOKENS // STEP_TOKENS + 1
    best = plan(low)
    if best.total > memory_bytes:
        raise ModelError(_too_large(best, tuning, memory_bytes))
    rise = 1.3 * best.activations / low + 1  # nearly linear in tokens: the slope, taken too steep, names the first try
    while low + 1 < beyond:
        guess = low + max(1, int((memory_bytes - best.total) / rise))
        middle = min(guess, beyond - 1) if guess < beyond else (low + beyond) // 2
        tried = plan(middle)
        if tried.total > memory_bytes:
            beyond = middle
        else:
            rise = max(1.0, (tried.total - best.total) / (middle - low))
            low, best = middle, tried
    return best


def even_groups(tokens: int, scored: int, longest: int) -> list[Shape]:
    """Groups with two completions of one length and exactly this many tokens; the last one takes what is left.

    With s = scored/tokens and a row of prompt P and completion C: P + C = longest, 2C / (P + 2C) = s.

    >>> even_groups(1000, 500, 300)
    [(200, (100, 100)), (200, (100, 100)), (100, (50, 50))]
    """
    share = min(max(scored / tokens, 0.0), 1.0)
    completion = min(max(1, round(longest * share / (2 - share))), longest - 1)
    prompt = longest - completion
    whole, left = divmod(tokens, prompt + 2 * completion)
    shapes: list[Shape] = [(prompt, (completion, completion))] * whole
    if left >= 3:
        part = min(max(1, round(left * share / 2)), (left - 1) // 2)
        shapes.append((left - 2 * part, (part, part)))
    return shapes


def _plan(
    model: Any, config: PreTrainedConfig, tuning: Tuning, shapes: Sequence[Shape], weight_bytes: int, device: str
) -> MemoryPlan:
    depth = config.get_text_config().num_hidden_layers
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    few, more = PROBED
    probed = [depth] if depth <= more else [few, more]
    passes = [pass_bytes(on_meta(config, tuning, weight_bytes, layers), tuning, shapes) for layers in probed]
    per_layer = (passes[-1].activations - passes[0].activations) // (more - few)
    activations = passes[-1].activations + (depth - probed[-1]) * per_layer
    held = activations + passes[-1].head + passes[-1].workspace
    return MemoryPlan(
        tokens=sum(prompt + sum(completions) for prompt, completions in shapes),
        weights=_weights(model, tuning, weight_bytes),
        adapters=0 if tuning.method == "full" else 4 * trained,
        gradients=4 * trained,
        moments=8 * trained,
        activations=activations,
        head=passes[-1].head,
        workspace=passes[-1].workspace,
        process=PROCESS_BYTES if device == "cpu" else 0,
        allocator=int(_allocator_share(tuning, shapes, device) * held),
    )


def _allocator_share(tuning: Tuning, shapes: Sequence[Shape], device: str) -> float:
    if device != "cpu":
        return CUDA_ALLOCATOR if device == "cuda" else 0.0
    if tuning.method == "full" or tuning.dtype != "float32":
        return CPU_ALLOCATOR
    longest = max(prompt + max(completions) for prompt, completions in shapes)
    return ADAPTERS_SHORT if longest <= SHORT else ADAPTERS_LONG


def _weights(model: Any, tuning: Tuning, weight_bytes: int) -> dict[str, int]:
    """Bytes of all weights in memory, by type; training keeps the policy's own beside its copy."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    frozen = {id(p): p for name, p in base.named_parameters() if "lora_" not in name}.values()
    own = weight_bytes * sum(p.numel() for p in frozen)
    found = {"float32" if weight_bytes == 4 else "half precision": own}
    if tuning.method == "full":
        found["float32 copy"] = 4 * sum(p.numel() for p in frozen)
    if tuning.method == "qlora":
        packed = {id(layer.weight): layer.weight.numel() for layer in quantised_layers(base)}
        found["4-bit copy"] = sum(_nf4_bytes(numel) for numel in packed.values())
        found["float32 copy of what stays"] = 4 * sum(p.numel() for p in frozen if id(p) not in packed)
    return found


def _nf4_bytes(weights: int) -> int:
    """Half a byte per weight, a byte per block of 64, and float32 per 256 blocks (double quantisation)."""
    blocks = -(-weights // 64)
    return -(-weights // 2) + blocks + 4 * -(-blocks // 256)


def _too_large(plan: MemoryPlan, tuning: Tuning, memory_bytes: int) -> str:
    ways = {"full": "training.method qlora or lora, ", "lora": "training.method qlora, ", "qlora": ""}[tuning.method]
    half = "training.dtype bfloat16, " if tuning.dtype == "float32" else ""
    return (
        f"training needs about {plan.total / 2**30:.1f} GiB for a pass of {plan.tokens} tokens, the longest row, and "
        f"{memory_bytes / 2**30:.1f} GiB are there: use {ways}{half}shorter texts, a smaller model, or activation "
        "checkpointing"
    )
