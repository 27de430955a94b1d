"""A finished run that the tests of exporting share."""

import pytest

import accuracy_booster as ab


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run with AB on the digits, which no test changes."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    ab.train("resnet8", block="ab", epochs=1, device="cpu", output=str(folder), data="digits")
    return folder
