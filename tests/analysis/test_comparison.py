"""`ab.compare`: what it refuses before it trains."""

import pytest

import accuracy_booster as ab


def test_compare_refuses_before_it_trains(tmp_path):
    output = tmp_path / "c"
    for wrong, match in (
        ({"blocks": ["none", "abb"]}, "unknown block"),
        ({"blocks": "ab"}, "list of recipes"),
        ({"blocks": []}, "list of recipes"),
        ({"blocks": ["none", "ab_g3"]}, "groups=3"),
        ({"model": "resnet57"}, "unknown model"),
        ({"lr": -1.0}, "lr"),
        ({"keep": "best"}, "needs a validation split"),
        ({"patience": 3}, "needs a validation split"),
    ):
        with pytest.raises(ValueError, match=match):
            ab.compare(**{"model": "resnet8", "epochs": 1, "output": str(output), **wrong})
        assert not output.exists()
