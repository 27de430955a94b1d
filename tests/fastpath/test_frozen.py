"""What a compiled network runs, in words."""

import pytest

from accuracy_booster.fastpath.frozen import Frozen


@pytest.mark.parametrize(
    ("frozen", "words"),
    [
        (
            Frozen(packed=36, plain=0, sums=2, relus=32, ours=17),
            "53 of 53 convolutions have frozen weights: 36 in torch's kernel (2 with the residual "
            "sum, 32 with the ReLU) and 17 in our kernel",
        ),
        (
            Frozen(packed=3, plain=4, sums=0, relus=1),
            "3 of 7 convolutions have frozen weights: 3 in torch's kernel (0 with the residual "
            "sum, 1 with the ReLU)",
        ),
        (
            Frozen(packed=0, plain=0, sums=0, ours=7),
            "7 of 7 convolutions have frozen weights: 7 in our kernel",
        ),
        (Frozen(packed=0, plain=2, sums=0), "0 of 2 convolutions have frozen weights"),
        (Frozen(packed=0, plain=0, sums=0), "there are no convolutions"),
    ],
)
def test_print_shows_a_sentence(frozen, words):
    assert str(frozen) == words
    assert repr(frozen).startswith("Frozen(packed=")
