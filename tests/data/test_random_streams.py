"""Random numbers against splitmix64 in plain Python, and their independence."""

import pytest
import torch

from accuracy_booster.data.random_streams import integers, mix

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def finish(z):
    """The output function of splitmix64."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def reference_mix(*keys):
    state = 0
    for key in keys:
        state = finish((state + GOLDEN + key) & MASK)
    return state >> 1


def reference_integer(high, sample, *keys):
    return (finish((sample * GOLDEN + reference_mix(*keys)) & MASK) & (MASK >> 1)) % high


def test_the_reference_is_splitmix64():
    """The first numbers of the generator seeded with 0 and with 1234567, as published."""
    states = [(i * GOLDEN) & MASK for i in (1, 2, 3)]
    assert [finish(s) for s in states] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]
    assert finish((1234567 + GOLDEN) & MASK) == 6457827717110365317


@pytest.mark.parametrize(
    "keys",
    [(0,), (1234567,), (0, 0), (1, 2), (2, 1), (3, 0, 7, 4), (MASK,), (1 << 63, 5), (-1, 2)],
)
def test_mix(keys):
    got = mix(*keys)
    assert got == reference_mix(*(key & MASK for key in keys))
    assert 0 <= got < 1 << 63


def test_mix_of_known_values():
    assert mix(0) == 0xE220A8397B1DCDAF >> 1
    assert mix(1234567) == 6457827717110365317 >> 1


def test_mix_tells_keys_apart():
    found = {mix(*keys) for keys in ((), (0,), (0, 0), (0, 1), (1, 0), (1,), (1, 0, 0), (0, 0, 1))}
    assert len(found) == 8
    assert len({mix(s, e, k) for s in range(20) for e in range(20) for k in range(5)}) == 2000


@pytest.mark.parametrize("high", [1, 2, 3, 9, 1000, (1 << 31) - 1])
@pytest.mark.parametrize("keys", [(0,), (3, 5, 1), (1 << 62, 7)])
def test_integers_are_the_references(high, keys):
    samples = torch.tensor([0, 1, 2, 17, 1_281_166, 1 << 31, 1 << 40, (1 << 63) - 1])
    got = integers(high, samples, *keys)
    assert got.dtype == torch.int64
    assert got.tolist() == [reference_integer(high, s, *keys) for s in samples.tolist()]
    assert got.min() >= 0
    assert got.max() < high


def test_integers_belong_to_the_sample_alone():
    """Whatever the batch, its order, its size, or how it lies in memory."""
    samples = torch.arange(1000)
    whole = integers(9, samples, 1, 2, 3)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(integers(9, samples[order], 1, 2, 3), whole[order])
    assert torch.equal(integers(9, samples.flip(0), 1, 2, 3), whole.flip(0))
    assert torch.equal(integers(9, samples[3::7], 1, 2, 3), whole[3::7])
    assert torch.equal(integers(9, samples[40:41], 1, 2, 3), whole[40:41])
    assert torch.equal(integers(9, samples[:, None].expand(-1, 3)[:, 1], 1, 2, 3), whole)
    assert integers(9, samples[:0], 1).shape == (0,)
    assert torch.equal(samples, torch.arange(1000))


def test_integers_leave_torchs_generator_alone():
    before = torch.get_rng_state()
    integers(9, torch.arange(5), 1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("high", [2, 9, 17])
@pytest.mark.parametrize("keys", [(0, 0, 1), (0, 0, 2), (0, 1, 1), (7, 3, 3)])
def test_integers_are_uniform(high, keys):
    """Chi-square of 20 000 numbers, over what 1 in 100 000 fair ones would exceed by far."""
    count = 20_000
    seen = integers(high, torch.arange(count), *keys).bincount(minlength=high).double()
    chi = float(((seen - count / high) ** 2 / (count / high)).sum())
    freedom = high - 1
    assert chi < freedom + 6 * (2 * freedom) ** 0.5 + 12


def test_streams_and_neighbours_are_independent():
    """Chi-square of pairs: two keys, two epochs, and a sample and the next one."""
    samples = torch.arange(20_000)
    top = integers(9, samples, 0, 0, 1)
    for other in (
        integers(9, samples, 0, 0, 2),
        integers(9, samples, 0, 1, 1),
        integers(9, samples, 1, 0, 1),
        top.roll(1),
    ):
        seen = (9 * top + other).bincount(minlength=81).double()
        chi = float(((seen - 20_000 / 81) ** 2 / (20_000 / 81)).sum())
        assert chi < 80 + 6 * 160**0.5 + 12
