"""`where` and `skip` as text: read, written, and read back."""

from __future__ import annotations

import re

import pytest

from accuracy_booster.surgery.where_text import read_skip, read_where, write_where


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("conv", "conv"),
        ("layer1.0.bn2", "layer1.0.bn2"),
        (" a , b.c ", ["a", "b.c"]),
        ("/bn[12]$/", re.compile("bn[12]$")),
        ("/a{1,2}/, stem,/x,y/", [re.compile("a{1,2}"), "stem", re.compile("x,y")]),
    ],
)
def test_a_text_is_read_and_written(text, value):
    assert read_where(text) == value
    assert read_where(write_where(value)) == value


def test_a_tuple_and_a_generator_are_written():
    assert write_where(("a", re.compile("b"))) == "a,/b/"
    assert write_where(name for name in ("a", "b")) == "a,b"


@pytest.mark.parametrize(
    "text", ["", ",", "//", "/", "a,,b", "/a/b", "/(/", "/" + "(" * 5000 + "/"]
)
def test_a_wrong_text_is_told(text):
    with pytest.raises(ValueError, match=r"^where='.* (must be residual, conv|is no regular)"):
        read_where(text)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        (lambda name, module: True, "cannot be written into a configuration"),
        (3, "cannot be written into a configuration"),
        (re.compile("a", re.IGNORECASE), r"has flags.*\(\?i\)"),
        (["a", 3], "names a module by 3"),
    ],
)
def test_what_no_text_can_say_is_told(where, told):
    with pytest.raises(ValueError, match=told):
        write_where(where)


def test_skip_is_a_text_or_several():
    assert read_skip(None) == read_skip("") == read_skip([]) == ()
    assert read_skip("a, b*,") == read_skip(["a", "b*"]) == read_skip(("a,b*", "a")) == ("a", "b*")
    for wrong in (3, ["a", 3]):
        with pytest.raises(ValueError, match=r"skip=.* must be names of modules"):
            read_skip(wrong)
