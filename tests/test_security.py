"""What comes from outside (files, names, numbers, signals) runs no code and does no other harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import accuracy_booster as ab
from accuracy_booster.blocks import Recipe, RecipeError, grammar
from accuracy_booster.ops.precision import bf16_works

PACKAGE = str(Path(ab.__file__).parents[1])
SITE = str(Path(torch.__file__).parents[1])
# modules that would be imported from the current directory if it were looked at
TRAPS = ("torch", "numpy", "yaml", "rich", "subprocess", "typing_extensions", "sitecustomize")


def python(*words, cwd=None, executable=sys.executable, **environment):
    """A process of its own, on this package."""
    return subprocess.run(
        [executable, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": PACKAGE, "OMP_NUM_THREADS": "1", **environment},
        timeout=120,
    )


def set_traps(folder):
    for name in TRAPS:
        (folder / f"{name}.py").write_text(
            f"open({str(folder / 'SPRUNG')!r}, 'a').write('{name} ')"
        )
    return folder


# --- 1: nothing is imported from the current directory


def test_the_bf16_probe_imports_nothing_from_the_current_directory(tmp_path):
    code = (
        "import os, sys, torch\n"
        "from accuracy_booster.ops.precision import bf16_works\n"
        "os.chdir(sys.argv[1])\n"
        "print(bf16_works('cpu'))"
    )
    done = python("-c", code, set_traps(tmp_path), cwd=Path(PACKAGE))
    assert done.stdout.strip() == str(bf16_works("cpu")), done.stderr
    assert not (tmp_path / "SPRUNG").exists()


def test_the_bf16_probe_works_where_torch_comes_from_pythonpath(tmp_path):
    """Python without this environment's packages finds torch by PYTHONPATH alone."""
    bare = getattr(sys, "_base_executable", sys.executable)
    code = "from accuracy_booster.ops.precision import bf16_works; print(bf16_works('cpu'))"
    path = os.pathsep.join((PACKAGE, SITE))
    done = python("-c", code, executable=bare, cwd=tmp_path, PYTHONPATH=path)
    assert done.stdout.strip() == str(bf16_works("cpu")), done.stderr


def test_python_m_imports_nothing_from_the_current_directory(tmp_path):
    done = python("-m", "accuracy_booster", "plan", "resnet8", cwd=set_traps(tmp_path))
    assert done.returncode == 0, done.stderr
    # Python itself looks for sitecustomize before the package is there
    sprung = tmp_path / "SPRUNG"
    assert not sprung.exists() or sprung.read_text().split() == ["sitecustomize"]


def test_python_m_still_runs_a_checkout_from_within_it():
    done = python("-m", "accuracy_booster", "--version", cwd=PACKAGE, PYTHONPATH="")
    assert done.stdout.strip() == f"accuracy-booster {ab.__version__}", done.stderr


# --- 4: recipes


def chained(count):
    return "gap" + "|bn" * count + "|sigmoid"


def test_parsing_takes_steps_in_proportion_to_the_text(monkeypatch):
    """Counted, not timed: each part is looked at so often, however long the recipe."""
    calls = [0]
    real = grammar.GateRecipe.parts.fget
    monkeypatch.setattr(grammar, "MAX_TEXT", 10**9)

    def parts(self):
        calls[0] += 1
        return real(self)

    monkeypatch.setattr(grammar.GateRecipe, "parts", property(parts))
    counts = []
    for count in (10, 1000):
        calls[0] = 0
        grammar.parse(chained(count))
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
    for make in (ab.recipe, grammar.parse):
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


def nested(depth, inner=None):
    value = inner if inner is not None else []
    for _ in range(depth):
        value = [value]
    return value


GAP, SIGMOID = {"part": "gap"}, {"part": "sigmoid"}


@pytest.mark.parametrize(
    "data",
    [
        {"gates": [{"descriptors": [GAP], "weigh": [{"part": "bn"}] * 100_000 + [SIGMOID]}]},
        {"gates": [{"descriptors": [GAP], "weigh": [SIGMOID]}] * 100_000},
        {"gates": [{"descriptors": [GAP], "weigh": [{"part": "dense", "init": nested(9000)}]}]},
        {"gates": [{"descriptors": [{"part": nested(9000)}], "weigh": [SIGMOID]}]},
        {"gates": nested(9000)},
        {"version": nested(9000), "gates": []},
        {"gates": [{"descriptors": [GAP], "weigh": [{"part": "sigmoid", "scale": 10**5000}]}]},
        {"gates": [{"descriptors": [GAP], "weigh": [{"part": "dense", "groups": -(10**5000)}]}]},
        {"gates": [{"descriptors": [GAP], "weigh": [{"part": "x" * 10**6}]}]},
        {"gates": [{"descriptors": [GAP], "weigh": [{"part": "bn", "x" * 10**6: 3}]}]},
        {"gates": "x" * 10**6},
    ],
    ids=range(11),
)
def test_huge_and_deep_recipes_of_files_are_refused_in_short(data):
    with pytest.raises(ValueError) as caught:
        Recipe.from_dict(data)
    assert len(str(caught.value)) < 1000


def test_json_that_is_nested_deeply_is_no_recipe():
    with pytest.raises(ValueError, match="nested too deeply"):
        Recipe.from_json('{"gates": ' + "[" * 100_000)


@pytest.mark.parametrize(
    "text",
    [
        "conv(99999) | sigmoid",
        "dwconv(257) | sigmoid",
        "gap | conv1d(1000001) | sigmoid",
        "channel_pool | conv2d(999) | sigmoid",
        f"gather({2**200}, learned=true) | sigmoid",
        f"gather({2**13}) | sigmoid",
    ],
)
def test_layers_of_absurd_sizes_are_refused(text):
    with pytest.raises(RecipeError, match="up to (255|4096)"):
        ab.recipe(text)
