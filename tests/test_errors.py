"""Values in error messages: whole where they are short, shortened where they are long."""

from __future__ import annotations

import pytest
from support.hostile import (
    nested,
)

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.errors import shown, unknown


class Explodes:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "start"),
    [
        ("x" * 10**6, "'xxx"),
        (["x" * 1000] * 10**6, "['xxx"),
        (10**5000, "<an integer of 16,610 bits>"),
        (nested(100_000), "[[[[...]]]]"),
        ({"a" * 10**5: "b" * 10**5}, "{'aaa"),
        (b"x" * 10**6, "b'xxx"),
        (Explodes(), "<Explodes instance"),
        ("\x1b[31m\u202e\udcff\n" * 1000, "'\\x1b[31m\\u202e\\udcff\\n"),
    ],
    ids=["text", "list", "number", "nested", "dict", "bytes", "no repr", "controls"],
)
def test_values_are_shown_in_short(value, start):
    text = shown(value)
    assert text.startswith(start)
    assert len(text) <= 200
    assert text.isprintable()


@pytest.mark.parametrize("value", ["abb", "", "a'b", 3, None, (3, 4), [1.5, "x"], {"a": 1}, True])
def test_short_values_are_shown_as_they_are(value):
    assert shown(value) == repr(value)


def test_an_unknown_name_of_a_megabyte_is_refused_in_short(capsys):
    """difflib would take minutes for it."""
    name = "resnet" * 200_000
    for make in (ab.create_model, ab.recipe, lambda n: unknown("x", n, ["a"] * 40)):
        with pytest.raises(ValueError) as caught:
            raise make(name)
        assert len(str(caught.value)) < 1200
    for words in ([name], ["train", "--model", name], ["models", name], ["eval", name]):
        assert main(words) == 2
        assert len(capsys.readouterr().err) < 1200
