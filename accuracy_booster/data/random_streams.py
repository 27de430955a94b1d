"""Random numbers that depend only on what they are drawn for: a seed, an epoch, an image.

They are the same in every process, on every device and in every order. So a training that is
resumed, or split over processes, sees the same images. `batches` and `augmentation` draw them.
"""

# N images

from __future__ import annotations

import torch

# What a number is drawn for, the last of its keys. Draws for two purposes are independent.
ORDER, TOP, LEFT, MIRROR, IMAGE = range(5)

_MASK = (1 << 64) - 1
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(*keys: int) -> int:
    """A 63-bit number from integers: splitmix64 (Steele et al. 2014) over one after the other."""
    state = 0
    for key in keys:
        z = state = (state + _STEP + (key & _MASK)) & _MASK
        z = ((z ^ (z >> 30)) * _FIRST) & _MASK
        z = ((z ^ (z >> 27)) * _SECOND) & _MASK
        state = z ^ (z >> 31)
    return state >> 1


def integers(high: int, samples: torch.Tensor, *keys: int) -> torch.Tensor:
    """samples[N] (int64, the numbers of images) -> one random number in [0, high) for each, [N].

    A number depends on its sample and on the keys. Small numbers are more likely than large ones by
    no more than high / 2**63.
    """
    state = samples * _signed(_STEP) + mix(*keys)
    z = (state ^ _shift(state, 30)) * _signed(_FIRST)
    z = (z ^ _shift(z, 27)) * _signed(_SECOND)
    return ((z ^ _shift(z, 31)) & (_MASK >> 1)) % high


def _signed(value: int) -> int:
    """The int64 with the same 64 bits: torch computes with signed numbers."""
    return value - (1 << 64) if value >> 63 else value


def _shift(x: torch.Tensor, by: int) -> torch.Tensor:
    """x >> by, as for unsigned numbers: zeros come in from the left."""
    return (x >> by) & (_MASK >> by)
