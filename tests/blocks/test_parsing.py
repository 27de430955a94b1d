"""Texts of recipes: what they mean, and where and why a bad one is refused."""

from __future__ import annotations

import builtins

import pytest
from support.blocks import NAMES
from support.recipes import (
    TEXTS,
    chain,
)

import accuracy_booster as ab
from accuracy_booster.blocks import Recipe, RecipeError, grammar, parsing, recipe


@pytest.mark.parametrize("text", TEXTS)
def test_text_prints_back_verbatim(text):
    assert str(recipe(text)) == text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("ab", chain(("gap", {}), ("dense", {"groups": "C"}), ("bn", {}), ("sigmoid", {}))),
        ("ab_plus", chain(("gap", {}), ("dense", {"groups": 1}), ("bn", {}), ("sigmoid", {}))),
        ("ab_g16", chain(("gap", {}), ("dense", {"groups": 16}), ("bn", {}), ("sigmoid", {}))),
        (
            "gap+gmp|bottleneck(2,bias=false)|sigmoid(scale=2.5)",
            chain(
                ("gap", {}),
                ("gmp", {}),
                ("bottleneck", {"reduction": 2, "bias": False}),
                ("sigmoid", {"scale": 2.5}),
                sum_of=2,
            ),
        ),
        (
            "gather(4, learned=true) | bn(eps=1e-3, momentum=.25, init=zeros) | sigmoid",
            chain(
                ("gather", {"extent": 4, "learned": True}),
                ("bn", {"eps": 1e-3, "momentum": 0.25, "init": "zeros"}),
                ("sigmoid", {}),
            ),
        ),
    ],
)
def test_text_means_what_the_dict_says(text, plain):
    assert recipe(text) == Recipe.from_dict(plain)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gap | bottleneck(8) | sigmoid", "gap | bottleneck(reduction=8) | sigmoid"),
        ("gap | bottleneck | sigmoid", "gap | bottleneck(16) | sigmoid"),
        ("gap | bottleneck() | sigmoid", "gap | bottleneck(16) | sigmoid"),
        ("gap | conv1d(5, bias=true) | sigmoid", "gap | conv1d(bias=true, kernel=5) | sigmoid"),
        ("conv(7) | sigmoid", "conv(kernel=7) | sigmoid"),
        ("gather(global) | sigmoid", "gather | sigmoid"),
        ("gather(2, learned=true) | sigmoid", "gather(learned=true, extent=2) | sigmoid"),
        ("gap|dense(groups=C)|bn|sigmoid", "  gap |\tdense( groups = C )\n| bn | sigmoid  "),
        ("ab", " ab "),
        ("gap | bn(eps=0.001) | sigmoid", "gap | bn(eps=1e-3) | sigmoid"),
        ("gap | sigmoid", "gap | sigmoid(scale=1)"),
    ],
)
def test_spellings_of_one_recipe(one, other):
    assert recipe(one) == recipe(other)
    assert str(recipe(one)) == str(recipe(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gap | dense | bn | sigmoid", "gap | dense(bias=false) | bn | sigmoid"),
        ("gap | sigmoid", "gmp | sigmoid"),
        ("gap | sigmoid ; gmp | sigmoid", "gmp | sigmoid ; gap | sigmoid"),
        ("conv(3) | sigmoid", "dwconv(3) | sigmoid"),
    ],
)
def test_different_recipes_differ(one, other):
    assert recipe(one) != recipe(other)


# The sign § marks where the error is. Two of them: anywhere between them.
BAD = {
    "empty": "§",
    "blank": "   §",
    "unknown first part": "§gapp | dense | sigmoid",
    "unknown later part": "gap | §dens(groups=C) | sigmoid",
    "a block's name inside a chain": "§ab | sigmoid",
    "unknown part in a sum": "gap + §max | sigmoid",
    "unknown part in the second gate": "gap | sigmoid ; gap | §dence | sigmoid",
    "bad character": "gap §$ | sigmoid",
    "bad first character": "§{gap} | sigmoid",
    "bad character in arguments": "gap | dense(groups=§'C') | sigmoid",
    "a number with letters": "gap | dense(groups=§2x) | sigmoid",
    "longer number with letters": "gap | dense(groups=§33abc) | sigmoid",
    "missing sigmoid": "gap | dense§",
    "missing sigmoid, one part": "gap§",
    "missing sigmoid before ;": "gap | dense §; gap | sigmoid",
    "sigmoid alone": "§sigmoid",
    "part after sigmoid": "gap | sigmoid | §bn",
    "sigmoid twice": "gap | sigmoid | §sigmoid",
    "sigmoid in a sum": "§sigmoid + sigmoid§",
    "sigmoid at the end of a sum": "conv(3) §+ sigmoid§",
    "sigmoid inside a sum": "§sigmoid(scale=2) + dwconv(3)§ | sigmoid",
    "trailing |": "gap | sigmoid |§",
    "trailing ;": "gap | sigmoid ;§",
    "trailing +": "gap +§",
    "leading |": "§| gap | sigmoid",
    "leading ;": "§; gap | sigmoid",
    "doubled |": "gap | §| sigmoid",
    "two parts without |": "gap §dense | sigmoid",
    "two parts without |, then the end": "gap | dense §sigmoid",
    "sum after |": "gap | dense §+ gap | sigmoid",
    "number for a part": "§3 | sigmoid",
    "sign for a part": "gap | §, | sigmoid",
    "open parenthesis at the end": "gap | dense(groups=C§",
    "open parenthesis in the middle": "gap | dense(groups=C §| bn | sigmoid",
    "open parenthesis alone": "gap | dense(§",
    "closing parenthesis alone": "gap | dense§) | sigmoid",
    "doubled closing parenthesis": "gap | dense(groups=C)§) | bn | sigmoid",
    "doubled opening parenthesis": "gap | dense(§(groups=C) | bn | sigmoid",
    "missing value": "gap | dense(groups=§) | sigmoid",
    "missing argument": "gap | dense(§, bias=true) | sigmoid",
    "trailing comma": "gap | dense(groups=C,§) | sigmoid",
    "missing comma": "gap | dense(groups=C §bias=true) | sigmoid",
    "number as a name": "gap | dense(§3=4) | sigmoid",
    "argument twice": "gap | dense(groups=2, §groups=4) | sigmoid",
    "argument by place and by name": "gap | bottleneck(8, §reduction=4) | sigmoid",
    "second argument by place": "gap | bottleneck(8, §true) | sigmoid",
    "argument by place that has a name only": "gap | dense(§4) | sigmoid",
    "argument of a part without any": "§gap(§3) | sigmoid",
    "bad argument name": "gap | §dense(group=2)§ | sigmoid",
    "bad argument name, no arguments": "§gap(size=2)§ | sigmoid",
    "bad argument name in the second gate": "gap | sigmoid ; gap | §bn(epsilon=1)§ | sigmoid",
    "zero reduction": "gap | §bottleneck(0)§ | sigmoid",
    "negative reduction": "gap | §bottleneck(-16)§ | sigmoid",
    "fractional reduction": "gap | §bottleneck(1.5)§ | sigmoid",
    "a word for a number": "gap | §bottleneck(C)§ | sigmoid",
    "zero groups": "gap | §dense(groups=0)§ | sigmoid",
    "groups true": "gap | §dense(groups=true)§ | sigmoid",
    "groups c": "gap | §dense(groups=c)§ | sigmoid",
    "even kernel": "§conv(4)§ | sigmoid",
    "even 1-D kernel": "gap | §conv1d(2)§ | sigmoid",
    "even plane kernel": "channel_pool | §conv2d(6)§ | sigmoid",
    "extent that is no power of two": "§gather(6)§ | sigmoid",
    "extent 1": "§gather(1)§ | sigmoid",
    "extent a word": "§gather(whole)§ | sigmoid",
    "learned a number": "§gather(4, learned=1)§ | sigmoid",
    "bias a number": "gap | §dense(bias=1)§ | sigmoid",
    "bias another number": "gap | §conv1d(3, bias=0)§ | sigmoid",
    "bias a word": "gap | §dense(bias=yes)§ | sigmoid",
    "init unknown": "gap | §dense(init=xavier)§ | sigmoid",
    "init of bn unknown": "gap | §bn(init=default)§ | sigmoid",
    "eps zero": "gap | §bn(eps=0)§ | sigmoid",
    "eps infinite": "gap | §bn(eps=1e999)§ | sigmoid",
    "momentum above 1": "gap | §bn(momentum=1.5)§ | sigmoid",
    "momentum a word": "gap | §bn(momentum=nan)§ | sigmoid",
    "scale zero": "gap | §sigmoid(scale=0)§",
    "scale negative": "gap | §sigmoid(scale=-2)§",
    "scale infinite": "gap | §sigmoid(scale=1e999)§",
    "scale true": "gap | §sigmoid(scale=true)§",
    "an integer beyond Python's limit": f"gap | §dense(groups={'9' * 5000})§ | sigmoid",
    "convolution of a vector": "gap | §conv(3) | sigmoid",
    "gap of a vector": "gap | §gap | sigmoid",
    "gather of a vector": "gmp | §gather(2) | sigmoid",
    "conv1d of a map": "§conv1d(3) | sigmoid",
    "conv2d of a map": "§conv2d(7) | sigmoid",
    "dense of planes": "channel_pool | §dense | sigmoid",
    "bn of planes": "channel_pool | §bn | sigmoid",
    "sigmoid of planes": "channel_pool | §sigmoid",
    "dense of a plane": "channel_pool | conv2d(7) | §dense | sigmoid",
    "sum of a vector and a map": "§gap + conv(3)§ | sigmoid",
    "sum of planes and a vector": "§channel_pool + gap§ | conv2d(7) | sigmoid",
    "misfit in the second gate": "gap | sigmoid ; gap | §conv(3) | sigmoid",
}


@pytest.mark.parametrize("marked", BAD.values(), ids=BAD.keys())
def test_bad_text_says_where(marked):
    text = marked.replace("§", "")
    first, *rest = (i for i, sign in enumerate(marked) if sign == "§")
    last = rest[0] - 1 if rest else first
    with pytest.raises(RecipeError) as caught:
        recipe(text)
    error = caught.value
    assert isinstance(error, ValueError)
    assert error.text == text
    assert first <= error.position <= last
    assert str(error.position) in str(error)
    assert error.reason in str(error)
    assert "\n" not in error.reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gap | dens | sigmoid", ["'dens'", "dense"]),
        ("gap | botleneck(16) | sigmoid", ["'botleneck'", "bottleneck"]),
        ("gap | dense(group=2) | sigmoid", ["'group'", "groups", "bias", "init"]),
        ("gap(size=2) | sigmoid", ["'size'", "no arguments"]),
        ("gap | bottleneck(0) | sigmoid", ["reduction=0", ">= 1"]),
        ("conv(4) | sigmoid", ["kernel=4", "odd", "global"]),
        ("gather(6) | sigmoid", ["extent=6", "power of two", "global"]),
        ("gap | dense(init=xavier) | sigmoid", ["init=xavier", "kaiming_normal", "zeros", "ones"]),
        ("gap | dense", ["sigmoid"]),
        ("gap | sigmoid | bn", ["sigmoid", ";"]),
        ("gap | conv(3) | sigmoid", ["conv", "feature map", "one value per channel"]),
        ("gap | dense(groups=C | bn | sigmoid", ["')'"]),
    ],
)
def test_bad_text_says_why(text, words):
    with pytest.raises(RecipeError) as caught:
        recipe(text)
    for word in words:
        assert word in caught.value.reason


MALICIOUS = [
    "__import__('os').system('touch {file}')",
    "gap | dense(groups=__import__('os').system('touch {file}')) | sigmoid",
    "gap | dense(groups=open('{file}', 'w')) | sigmoid",
    "exec(\"open('{file}', 'w')\")",
    "(lambda: open('{file}', 'w'))()",
    "gap | __class__ | sigmoid",
    "gap | dense(__class__=C) | sigmoid",
    "gap | dense(name=C) | sigmoid",
    "gap | dense(build=C) | sigmoid",
    "gap | dense(groups={{}}) | sigmoid",
    "gap | dense(groups=1+1) | sigmoid",
    "gap | dense(groups=2**9) | sigmoid",
    "gap | dense(groups=9.__class__) | sigmoid",
    'f\'{{open("{file}", "w")}}\'',
    "gap\0| sigmoid",
]


@pytest.mark.parametrize("text", MALICIOUS)
def test_nothing_is_evaluated(text, tmp_path):
    file = tmp_path / "written"
    with pytest.raises(ValueError):
        recipe(text.format(file=file))
    assert not file.exists()


def test_parsing_needs_no_eval(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the parser evaluates text")

    for name in ("eval", "exec", "compile"):
        monkeypatch.setattr(builtins, name, refuse)
    for text in [*NAMES, *TEXTS]:
        assert Recipe.from_json(recipe(text).to_json()) == recipe(text)


def chained(count):
    return "gap" + "|bn" * count + "|sigmoid"


def test_parsing_takes_steps_in_proportion_to_the_text(monkeypatch):
    """Counted, not timed: each part is looked at so often, however long the recipe."""
    calls = [0]
    real = grammar.GateRecipe.parts.fget
    monkeypatch.setattr(parsing, "MAX_TEXT", 10**9)

    def parts(self):
        calls[0] += 1
        return real(self)

    monkeypatch.setattr(grammar.GateRecipe, "parts", property(parts))
    counts = []
    for count in (10, 1000):
        calls[0] = 0
        parsing.parse(chained(count))
        counts.append(calls[0])
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "text",
    [
        " + ".join(["gap"] * 200_000) + " | sigmoid",
        chained(200_000),
        "x" * 1_000_000,
        "gap | dense(init=" + "a" * 500_000 + ") | sigmoid",
        "gap" + " " * 1_000_000 + "| sigmoid",
        "gap | sigmoid ; " * 100_000,
    ],
    ids=["sum", "chain", "word", "argument", "spaces", "gates"],
)
def test_a_long_recipe_is_refused_in_short(text):
    for make in (ab.recipe, parsing.parse):
        with pytest.raises(RecipeError, match="may have up to 10,000") as caught:
            make(text)
        assert f"{len(text.strip() if make is ab.recipe else text):,} characters" in str(
            caught.value
        )
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "gap | " + "bn | " * 1000 + "$ | sigmoid",
        "gap | dense(init=" + "a" * 5000 + ") | sigmoid",
        "gap | " + "b" * 5000 + " | sigmoid",
        "gap | dense(" + "g" * 5000 + "=3) | sigmoid",
        "gap | dense(groups=" + "9" * 9000 + ") | sigmoid",
        "gap | sigmoid(scale=" + "9" * 400 + ")",
        "gap | bn(eps=" + "9" * 4000 + ") | sigmoid",
        "a" * 9999,
        "ab," * 3000 + "ab",
    ],
)
def test_errors_show_the_piece_around_the_position(text):
    with pytest.raises(ValueError) as caught:
        ab.recipe(text)
    assert len(str(caught.value)) < 1000
    if isinstance(caught.value, RecipeError) and caught.value.position > 100:
        here = text[caught.value.position : caught.value.position + 20]
        assert here in str(caught.value)


def test_a_recipe_as_long_as_allowed_still_parses():
    text = chained((grammar.MAX_TEXT - 11) // 3)
    assert len(text) > grammar.MAX_TEXT - 5
    assert Recipe.from_dict(ab.recipe(text).to_dict()) == ab.recipe(text)
