"""Whether a sum joins two resolutions, as the long sums of U-Net do, and so is not residual."""

# N batch, C channels, H W space

from __future__ import annotations

from accuracy_booster.surgery.layouts import flat, sides_of
from accuracy_booster.surgery.torch_functions import CONVOLUTIONS, LAYERS, UPSAMPLING
from accuracy_booster.surgery.trace import Call, Value


def ends_in_upsampling(branch: Value, forks: list[Value]) -> bool:
    """Whether the branch brings a coarser map to the size that the fork has already.

    Then the sum joins two resolutions. It does not matter how the map was upsampled, nor whether
    layers that see one position at a time follow. Where the fork is the coarser map, the shortcut
    was upsampled too, and the sum is that of a residual block that upsamples.
    """
    size = sides_of(branch)
    same_rank = [fork for fork in forks if len(fork.shape) == len(branch.shape)]
    if any(_is_coarser(sides_of(fork), size) for fork in same_rank):
        return False
    value = branch
    while value not in forks and (call := value.call) is not None:
        if call.name in UPSAMPLING:
            return True
        before = [i for i in call.inputs if any(fork.flows_into(i) for fork in forks)]
        layer = call.name in LAYERS
        if layer and len(value.shape) == len(branch.shape) and _is_coarser(sides_of(value), size):
            return True  # something other than a layer enlarged it, such as a shuffle by hand
        transposed = call.name.startswith("conv_transpose")
        if transposed and before and _is_coarser(sides_of(before[0]), sides_of(value)):
            return True
        if (layer and not _is_pointwise(call)) or len(before) != 1:
            return False
        value = before[0]
    return False


def _is_coarser(sides: tuple[int, ...], than: tuple[int, ...]) -> bool:
    """Whether a map is smaller by more than padding explains: a side is at most 2/3 as long."""
    pairs = list(zip(sides, than, strict=True))
    return any(3 * a <= 2 * b for a, b in pairs) and all(a <= b for a, b in pairs)


def _is_pointwise(call: Call) -> bool:
    """Whether a layer sees one position at a time: a linear layer, a convolution of size 1."""
    if call.name not in CONVOLUTIONS:
        return call.name in ("linear", "addmm")
    padding = call.arguments[4:5] or (0,)  # a larger kernel without padding shrinks the map
    return not any(flat(padding)) and call.inputs[0].shape[2:] == call.outputs[0].shape[2:]
