"""Finished runs that the tests of exporting share."""

from functools import cache

import pytest

import accuracy_booster as ab


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run with AB on the digits, which no test changes."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    ab.train("resnet8", block="ab", epochs=1, device="cpu", output=str(folder), data="digits")
    return folder


@pytest.fixture(scope="session")
def short_run(tmp_path_factory):
    """Makes, once for each block, a run whose gates are no longer what they started as."""

    @cache
    def run(block):
        path = tmp_path_factory.mktemp("short") / block
        given = {"model": "resnet8", "block": block, "data": "digits", "epochs": 3}
        ab.train(**given, batch_size=32, device="cpu", compile="off", fuse="off", output=str(path))
        return path

    return run
