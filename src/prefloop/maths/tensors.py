"""What the training objectives share: a check of shapes, and sums over the tokens or answers of a group.

From here upwards: `prefloop.maths.objectives` and its neighbours.
"""

from __future__ import annotations

from torch import Tensor


def same_shape(*tensors: Tensor) -> None:
    """Refuse tensors that would broadcast: a pair scored against all pairs is a wrong loss without an error."""
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) != 1 or tensors[0].ndim != 1:
        raise ValueError(f"expected tensors of one equal dimension, got shapes {sorted(shapes)}")


def group_sums(values_T: Tensor, owner_T: Tensor, groups: int) -> Tensor:
    """Sum of the values of each group, [N]: ``S_n = Σ_{t: owner_t = n} v_t``; a group without values gives 0.

    >>> group_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    tensor([3., 0., 4.])
    """
    same_shape(values_T, owner_T)
    return values_T.new_zeros(groups).index_add(0, owner_T, values_T)
