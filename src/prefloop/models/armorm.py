"""ArmoRM (2406.12845): a reward of many objectives, mixed by a gate that has read the prompt alone.

With h the backbone's last hidden states, `last` the last token of the conversation and `gate` the token that closes
the user's last turn,

    r = W h[last]                                   rewards of the K = 19 objectives
    g = scale · softmax(MLP(h[gate]) / temperature)  how much each counts for this prompt
    score = Σ_k g_k (r T)_k = c · r,   c = g Tᵀ     T takes verbosity out of every objective

Built from the published tensors on `LlamaModel`; the code that comes with them is not run (it no longer loads in
transformers 5). The scores of one prompt's answers differ by hundredths, so everything after the backbone is float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prefloop.errors import ModelError
from prefloop.models.group import GroupBatch, GroupStates
from prefloop.models.lineage import Lineage, hash_folder
from prefloop.models.load import device_of, model_folder, read_model, read_tokenizer
from prefloop.models.reward import architecture, stored_shapes, stored_tensors
from prefloop.store.files import read_json

BACKBONE = "LlamaModel"
PREFIX = "model."
"""Start of the names of the backbone's tensors; all others are the head's."""

TEMPERATURE = 10.0
"""Of the gate, where the configuration does not say."""

GATING_PATTERN = (128009, 128006, 78191, 128007, 271)
"""``<|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n`` in Llama 3: the gate reads at its first token."""

OBJECTIVES = (
    "helpsteer-helpfulness",
    "helpsteer-correctness",
    "helpsteer-coherence",
    "helpsteer-complexity",
    "helpsteer-verbosity",
    "ultrafeedback-overall_score",
    "ultrafeedback-instruction_following",
    "ultrafeedback-truthfulness",
    "ultrafeedback-honesty",
    "ultrafeedback-helpfulness",
    "beavertails-is_safe",
    "prometheus-score",
    "argilla-overall_quality",
    "argilla-judge_lm",
    "code-complexity",
    "code-style",
    "code-explanation",
    "code-instruction-following",
    "code-readability",
)
"""Names of the K objectives, in the order of the published head."""


@dataclass(frozen=True, slots=True)
class ArmoScores:
    """What ArmoRM says of B conversations, in float32."""

    score_B: Tensor
    rewards_BK: Tensor
    """Each objective's own reward, r."""
    coefficients_BK: Tensor
    """How much each objective's own reward counts, c = g Tᵀ; score = c · r."""


class Gating(nn.Module):
    """Weights of the objectives: linear layers with ReLU between them, then a scaled softmax."""

    def __init__(self, widths: Sequence[int], temperature: float) -> None:
        """`widths`: of the input, every hidden layer, and the output."""
        super().__init__()
        self.temperature = temperature
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.logit_scale = nn.Parameter(torch.ones(1))

    def forward(self, hidden_Bd: Tensor) -> Tensor:
        """[B, d] hidden states at the gate → [B, K]."""
        for layer in self.layers[:-1]:
            hidden_Bd = torch.relu(layer(hidden_Bd))
        return self.logit_scale * torch.softmax(self.layers[-1](hidden_Bd) / self.temperature, dim=-1)


class ArmoHead(nn.Module):
    """What stands on the backbone, in float32; its parameters have the published names."""

    def __init__(self, gating_widths: Sequence[int], temperature: float) -> None:
        super().__init__()
        count = len(OBJECTIVES)
        self.regression_layer = nn.Linear(gating_widths[0], count, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.eye(count))
        self.gating = Gating(gating_widths, temperature)

    def forward(self, last_Bd: Tensor, gate_Bd: Tensor) -> ArmoScores:
        """Scores from the hidden states at the last token and at the gate, [B, d] each."""
        rewards_BK = self.regression_layer(last_Bd.float())
        coefficients_BK = self.gating(gate_Bd.float()) @ self.reward_transform_matrix.T
        return ArmoScores((coefficients_BK * rewards_BK).sum(-1), rewards_BK, coefficients_BK)


@dataclass(frozen=True)
class ArmoRM:
    """The model with its tokenizer, and where both came from."""

    backbone: Any
    head: ArmoHead
    tokenizer: Any
    lineage: Lineage
    name: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.backbone.device
        return device

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation the backbone was made for."""
        return int(self.backbone.config.max_position_embeddings)

    @torch.no_grad()
    def score(self, ids_BT: Tensor, mask_BT: Tensor, gate_B: Tensor) -> ArmoScores:
        """Scores of B conversations, padded on either side or not at all.

        Args:
            ids_BT: [B, T] long.
            mask_BT: [B, T] long, 1 for tokens and 0 for padding.
            gate_B: [B] long, the gate's place among a conversation's own tokens (`gate_position`).
        """
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        hidden_BTd = self.backbone(
            input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, use_cache=False
        )[0]
        rows = torch.arange(len(ids_BT), device=ids_BT.device)
        first_B = mask_BT.argmax(1)
        last_B = first_B + mask_BT.sum(1) - 1
        scores: ArmoScores = self.head(hidden_BTd[rows, last_B], hidden_BTd[rows, first_B + gate_B])
        return scores

    @torch.no_grad()
    def score_groups(
        self, states: GroupStates, batch: GroupBatch, prompt_N: Sequence[int], gate_N: Sequence[int]
    ) -> ArmoScores:
        """Scores of the N conversations of a batch of groups, whose prompts hold the gates and are computed once.

        Args:
            states: of this backbone.
            prompt_N: tokens of each conversation's shared start.
            gate_N: the gate's place in each conversation (`gate_position`).
        """
        hidden_Td = states.hidden(batch)
        # The first token of a completion is predicted at its prompt's last: from there it is known where both start.
        first_N = batch.lengths.cumsum(0) - batch.lengths
        back_N = torch.tensor([prompt - 1 - gate for prompt, gate in zip(prompt_N, gate_N, strict=True)])
        gates_N = batch.sources[first_N] - back_N.to(first_N.device)
        scores: ArmoScores = self.head(hidden_Td.index_select(0, batch.ends), hidden_Td.index_select(0, gates_N))
        return scores


def gate_position(prompt_ids: Sequence[int]) -> int | None:
    """Where the last `GATING_PATTERN` of a prompt starts, or None without one.

    In the prompt, not in the conversation: the pattern in an answer would let the answer choose its own weights.
    """
    pattern, width = list(GATING_PATTERN), len(GATING_PATTERN)
    starts = range(len(prompt_ids) - width, -1, -1)
    return next((i for i in starts if list(prompt_ids[i : i + width]) == pattern), None)


def load_armorm(source: str | Path, dtype: str = "bfloat16", device: str = "auto") -> ArmoRM:
    """ArmoRM from a folder or the hub.

    Args:
        dtype: of the backbone; the head is float32 whatever types the files mix.

    Raises:
        ModelError: the folder is not ArmoRM's, lacks tensors or has others, or cannot be read.
    """
    folder = model_folder(str(source))
    shapes = stored_shapes(folder)
    _check_kind(folder, shapes)
    head = _head(folder, shapes)
    backbone = read_model(folder, dtype, BACKBONE)
    _check_names(folder, set(shapes), {f"{PREFIX}{name}" for name in backbone.state_dict()} | set(head.state_dict()))
    tokenizer = read_tokenizer(folder, backbone)
    place = device_of(device)
    return ArmoRM(
        backbone.to(place).eval(), head.to(place).eval(), tokenizer, Lineage(hash_folder(folder)), str(source)
    )


def _check_kind(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "llama":
        raise ModelError(f"{folder} is not ArmoRM: it is a {architecture(folder)} of type {kind!r}, ArmoRM a 'llama'")
    if "regression_layer.weight" not in shapes:
        raise ModelError(
            f"{folder} is not ArmoRM: this {architecture(folder)} has no regression_layer.weight, the head of the "
            f"{len(OBJECTIVES)} objectives; sequence classifiers are judged with by 'reward-model'"
        )


def _head(folder: Path, shapes: dict[str, tuple[int, ...]]) -> ArmoHead:
    """The head in float32; the gate's widths are those of its tensors."""
    temperature = float(read_json(folder / "config.json").get("gating_temperature", TEMPERATURE))
    if not temperature > 0:
        raise ModelError(f"{folder}/config.json: gating_temperature is {temperature}, it must be above 0")
    count = sum(name.startswith("gating.layers.") and name.endswith(".weight") for name in shapes)
    inputs = [shapes.get(f"gating.layers.{i}.weight", (0, 0))[1] for i in range(count)]
    head = ArmoHead([*(inputs or [shapes["regression_layer.weight"][1]]), len(OBJECTIVES)], temperature)
    names = {name for name in shapes if not name.startswith(PREFIX)}
    _check_names(folder, names, set(head.state_dict()))
    try:
        head.load_state_dict(stored_tensors(folder, names))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"the head in {folder} is not ArmoRM's with {len(OBJECTIVES)} objectives: {reason}") from error
    return head


def _check_names(folder: Path, found: set[str], expected: set[str]) -> None:
    for kind, names in (("lack", expected - found), ("have, beside ArmoRM's,", found - expected)):
        if names:
            raise ModelError(f"the weights in {folder} {kind} {len(names)} tensors, {min(names)} first: copy it again")
