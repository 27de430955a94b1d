"""A comparison of three blocks, which the tests of this folder share."""

import pytest

import accuracy_booster as ab


@pytest.fixture(scope="session")
def comparison(tmp_path_factory):
    where = tmp_path_factory.mktemp("compare")
    return ab.compare(
        "resnet8",
        blocks=["none", "ab", "gap | dense(groups=4) | bn | sigmoid"],
        seeds=2,
        epochs=1,
        device="cpu",
        output=str(where / "c"),
    )
