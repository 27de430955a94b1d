"""Random numbers that belong to what they are drawn for: a seed, an epoch, a sample.

They are the same whatever process, worker or device draws them, and in whatever order; so a
training that is resumed, or split over processes, sees the same images.
"""

# N samples

from __future__ import annotations

import torch

_MASK = (1 << 64) - 1
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(*keys: int) -> int:
    """A 63-bit number from whole numbers: splitmix64 (Steele et al. 2014) over them in turn."""
    state = 0
    for key in keys:
        z = state = (state + _STEP + (key & _MASK)) & _MASK
        z = ((z ^ (z >> 30)) * _FIRST) & _MASK
        z = ((z ^ (z >> 27)) * _SECOND) & _MASK
        state = z ^ (z >> 31)
    return state >> 1


def integers(high: int, samples: torch.Tensor, *keys: int) -> torch.Tensor:
    """Numbers in [0, high) for each of samples[N] (int64), from its own number and the keys.

    The modulus favours small numbers by high / 2**63 at most.
    """
    state = samples * _signed(_STEP) + mix(*keys)
    z = (state ^ _shift(state, 30)) * _signed(_FIRST)
    z = (z ^ _shift(z, 27)) * _signed(_SECOND)
    return ((z ^ _shift(z, 31)) & (_MASK >> 1)) % high


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shift(x: torch.Tensor, by: int) -> torch.Tensor:
    """x >> by for the bits of an unsigned number."""
    return (x >> by) & (_MASK >> by)
