"""What a name or a path means, and the nearest name for one that means nothing."""

from __future__ import annotations

import pytest
from support.datasets import (
    one_line,
)

from accuracy_booster.data import load_data


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown data set 'digit'.*digits"),
        ("cifar-10", "unknown data set 'cifar-10'.*cifar10"),
        ("no/such/place", r"'no/such/place': there is no such directory; \. holds no 'no'"),
    ],
)
def test_unknown_data_gives_the_nearest(name, message):
    with one_line(message):
        load_data(name)


def test_a_file_is_no_data_set(make_folder):
    root = make_folder({"train/a": 1})
    (root / "a.tar.gz").touch()
    with one_line("is a file; unpack it, and give the directory"):
        load_data(str(root / "a.tar.gz"))
    with one_line("is an address, .*; download the data, and give their directory"):
        load_data("https://example.org/photos.zip")
    with one_line("unknown data set 'photos'.*there is none of this name in /"):
        load_data("photos")
    with one_line("is a file; give the directory of it"):
        load_data(str(root / "train/a/000.png"))


def test_a_path_is_as_good_as_its_text(make_folder):
    root = make_folder({"train/a": 1, "val/a": 1})
    assert load_data(root).classes == ("a",)
    with one_line("there is no such directory; .* holds no 'missing'"):
        load_data(root / "missing")
    with one_line(f"there is no such directory; did you mean {root}/train?"):
        load_data(root / "trian" / "a")
