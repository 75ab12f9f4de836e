"""Memory, tokens per second and hours of each stage of a recipe on GPUs, computed from a model's shape.

Writing answers reads all weights and the cache of keys and values once per token step: bytes / bandwidth. Training
computes 2 FLOPs per weight and token forward, 2 backward through frozen weights (4 where they are trained, too), 2
again with activation checkpointing, and 2 for the reference, once. With FSDP2 every pass also reads the others'
shards, twice. Shares of the peaks that are reached are assumed (`prefloop.loop.hardware`); so are the lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefloop.config.recipe import Recipe
from prefloop.loop.hardware import BANDWIDTH_SHARE, COMPUTE_SHARE, LINK_GB_S, Gpu

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "nf4": 0.6}
"""Per weight; nf4's block scales, embeddings and head included (7.2B parameters: 4.3 GB)."""
PROMPT_TOKENS = 150
"""Mean prompt; assumed."""
ROWS = 32
"""Answers written side by side; assumed."""
JUDGES = {"pairrm": (0.44e9, 1.8), "armorm": (7.5e9, 15.0)}
"""Parameters, and GB of weights in the recipe's default number type, of the judges whose size is known."""


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind on machines of one kind."""

    gpu: Gpu
    per_machine: int
    machines: int = 1

    @property
    def gpus(self) -> int:
        """In all."""
        return self.per_machine * self.machines

    @property
    def link(self) -> float:
        """Bytes per second at which a GPU reads what others hold."""
        return LINK_GB_S["machine" if self.machines == 1 else "network"] * 1e9


@dataclass(frozen=True)
class Stage:
    """What one stage needs; all of it computed."""

    name: str
    gpus: int
    """That work on it."""
    memory: Sequence[tuple[str, int]]
    """Bytes per GPU, by part."""
    tokens: float
    tokens_per_second: float | None
    """By all its GPUs together; None: not known."""
    notes: Sequence[str] = ()

    @property
    def bytes(self) -> int:
        """Per GPU."""
        return sum(size for _, size in self.memory)

    @property
    def hours(self) -> float | None:
        """That it takes."""
        return None if self.tokens_per_second is None else self.tokens / self.tokens_per_second / 3_600

    def fits(self, gpu: Gpu) -> bool:
        """Whether the GPU has so much memory."""
        return self.bytes <= gpu.gib * 2**30


def written(recipe: Recipe) -> float:
    """Mean answer in tokens; assumed."""
    return recipe.generation.max_new_tokens / 2


def generation_stage(
    recipe: Recipe, config: PreTrainedConfig, parameters: int, answers: int, cluster: Cluster
) -> Stage:
    """Writing answers: on one GPU, by Ray on each, or by servers (``engine: endpoint``) that split the policy over as
    few GPUs as hold it."""
    text = config.get_text_config()
    kind, gpu = recipe.policy.dtype, cluster.gpu
    weights = round(parameters * WEIGHT_BYTES[kind])
    size = 4 if kind == "float32" else 2
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = 2 * text.num_hidden_layers * (text.num_key_value_heads or text.num_attention_heads) * head * size
    longest = PROMPT_TOKENS + recipe.generation.max_new_tokens
    memory = [
        ("weights", weights),
        (f"keys and values ({ROWS} answers)", ROWS * longest * per_token),
        ("logits", 3 * ROWS * text.vocab_size * 4),
    ]
    holders = _holders(sum(part for _, part in memory), gpu)
    served = recipe.generation.engine == "endpoint"
    width = min(holders, cluster.gpus) if served else 1
    workers = max(1, cluster.gpus // width) if served or _spread(recipe) else 1
    read = weights + ROWS * (PROMPT_TOKENS + written(recipe) / 2) * per_token
    rate = workers * width * ROWS * gpu.gb_s * 1e9 * BANDWIDTH_SHARE[kind] / read
    notes = []
    if holders > width:
        notes.append(
            f"does not fit on one GPU: generation.engine=endpoint, served on {holders} GPUs together, "
            "or policy.dtype=nf4, takes less of each"
        )
    elif (served and workers > 1) or width > 1:
        notes.append(f"{workers} server{'s' if workers > 1 else ''} on {width} GPU{'s' if width > 1 else ''} each")
    elif workers < cluster.gpus:
        notes.append(f"one of {cluster.gpus} GPUs; Ray uses all (docs/ray.md)")
    shares = [(name, -(-part // width)) for name, part in memory]
    return Stage("generate", workers * width, shares, answers * written(recipe), rate, notes)


def _holders(size: int, gpu: Gpu) -> int:
    """GPUs, a power of two, that hold so much together, a tenth of each left free."""
    holders = 1
    while size > holders * 0.9 * gpu.gib * 2**30:
        holders *= 2
    return holders


def judging_stage(recipe: Recipe, answers: int, cluster: Cluster) -> Stage:
    """Judging: on one GPU, or by Ray on all; by execution, people or a server no GPU is used."""
    k, name = recipe.generation.k, recipe.judge.name
    if name not in JUDGES:
        where = {"execution": "on the CPU", "llm": "by its model's server", "people": "by people"}
        return Stage("judge", 0, [], 0.0, None, (where.get(name, "not known") + f" ({name})",))
    parameters, gigabytes = JUDGES[name]
    each = (k - 1) * (PROMPT_TOKENS + 2 * written(recipe)) if name == "pairrm" else PROMPT_TOKENS + written(recipe)
    workers = cluster.gpus if _spread(recipe) else 1
    rate = workers * cluster.gpu.tflops * 1e12 * COMPUTE_SHARE / (2 * parameters)
    memory = [("weights", round(gigabytes * 1e9)), ("activations", 10**9)]
    return Stage("judge", workers, memory, answers * each, rate)


def training_stage(
    recipe: Recipe,
    parameters: int,
    pairs: int,
    cluster: Cluster,
    strategy: str,
    memory: Sequence[tuple[str, int]],
    name: str = "train",
) -> Stage:
    """Training on pairs by one process per GPU.

    Args:
        memory: of each process.
    """
    training, gpu, world = recipe.training, cluster.gpu, cluster.gpus
    each = PROMPT_TOKENS + 2 * written(recipe)
    backward = 4 if training.method == "full" else 2
    per_token = 2 + backward + (2 if training.checkpointing else 0) + 2 / training.epochs
    busy = min(1.0, training.batch_pairs / world)  # a step's pairs are dealt out whole
    seconds = per_token * parameters / (world * busy * gpu.tflops * 1e12 * COMPUTE_SHARE)
    notes = []
    if busy < 1:
        notes.append(
            f"a step has {training.batch_pairs} pairs for {world} GPUs, {world - training.batch_pairs} of which wait: "
            "training.batch_pairs says how many (it changes what is learned)"
        )
    if world > 1:
        passed = max(1.0, min(training.tokens_per_batch, training.batch_pairs * each / world))
        moved = _moved(strategy, parameters, recipe) * (1 - 1 / world) / cluster.link
        traffic = moved / (passed * world * busy)
        if traffic > seconds:
            notes.append("bound by what travels between GPUs: larger passes and steps use them better")
        seconds = max(seconds, traffic)  # what travels does so while others compute
    if strategy == "fsdp2" and world > 1:
        read = parameters * (WEIGHT_BYTES[recipe.policy.dtype] + (4 if training.method == "full" else 0))
        copies = read * cluster.per_machine / 2**30
        notes.append(f"the processes of a machine read the weights on its CPU first: {copies:,.0f} GiB there")
    return Stage(name, world, memory, pairs * each * training.epochs, 1 / seconds, notes)


def _moved(strategy: str, parameters: int, recipe: Recipe) -> float:
    """Bytes per pass that a process exchanges: shards of weights twice with FSDP2, gradients where all are trained."""
    full = recipe.training.method == "full"
    weights = 4.0 if full else WEIGHT_BYTES[recipe.policy.dtype]
    gradients = 8.0 * parameters if full else 0.0
    return gradients + (2 * weights * parameters if strategy == "fsdp2" else 0.0)


def _spread(recipe: Recipe) -> bool:
    engine = getattr(recipe, "engine", None)
    return getattr(engine, "name", None) == "ray" or recipe.generation.engine == "ray"
