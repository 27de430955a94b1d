"""Wilson's interval of an accuracy, against scipy's."""

import pytest
from scipy.stats import binomtest

from accuracy_booster.deploy.wilson import wilson


@pytest.mark.parametrize(
    ("hits", "images"), [(0, 1), (1, 1), (0, 360), (360, 360), (38, 360), (7654, 10_000), (1, 3)]
)
def test_it_is_scipys(hits, images):
    known = binomtest(hits, images).proportion_ci(0.95, method="wilson")
    assert wilson(hits, images) == pytest.approx((known.low, known.high), abs=1e-12)
    assert 0 <= wilson(hits, images)[0] <= hits / images <= wilson(hits, images)[1] <= 1


@pytest.mark.parametrize(("hits", "images"), [(-1, 5), (6, 5), (0, 0)])
def test_what_is_no_share_is_refused(hits, images):
    with pytest.raises(ValueError, match="must be from 0 to images"):
        wilson(hits, images)
