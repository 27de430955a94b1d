"""What comes from outside (files, names, numbers, signals) runs no code and does no other harm."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch

import accuracy_booster as ab
from accuracy_booster import progress, signals
from accuracy_booster.blocks import Recipe, RecipeError, grammar
from accuracy_booster.cli import base, main
from accuracy_booster.errors import shown, unknown
from accuracy_booster.models.preact_cifar import PreActResNet, WideResNet
from accuracy_booster.models.resnet_cifar import ResNetCifar
from accuracy_booster.models.weight_files import read_weights
from accuracy_booster.ops.precision import bf16_works
from accuracy_booster.progress import printable
from accuracy_booster.training import checkpoint
from accuracy_booster.training.config import TrainConfig

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
    with pytest.raises(RecipeError, match=r"up to (255|4096)"):
        ab.recipe(text)


# --- 5: values in errors, and YAML


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


def bomb(last="mean"):
    """Aliases of aliases: 10 to the 9th values, in less than a kilobyte."""
    lines = ["model: resnet8", "a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    return "\n".join([*lines, f"{last}: *i"])


def merged_bomb():
    lines = ["model: resnet8", "a: &a {k: 1, l: 2}"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}")
    return "\n".join(lines)


YAMLS = {
    "aliases": bomb(),
    "merges": merged_bomb(),
    "brackets": "model: resnet8\nmean: " + "[" * 90_000,
    "brackets, closed": "model: resnet8\nmean: " + "[" * 40_000 + "]" * 40_000,
    "braces": "model: resnet8\nmean: " + "{a: " * 20_000,
    "dashes": "model: resnet8\nmean:\n  " + "- " * 40_000,
    "infinite": "model: resnet8\nepochs: 1e400",
    "infinite float": "model: resnet8\nlr: 1.0e+400",
    "not a number": "model: resnet8\nmean: [.nan]",
    "5000 digits": f"model: resnet8\nepochs: {'9' * 5000}",
    "400 digits": f"model: resnet8\nlr: {'9' * 400}",
    "400 digits in a list": f"model: resnet8\nstd: [{'9' * 400}]",
    "sexagesimal": "model: resnet8\nlr: 1" + ":59" * 300 + ".5",
    "long": f"model: resnet8\nblock: {'x' * 10**7}",
    "long name": f"model: {'r' * 90_000}",
    "long path": f"model: resnet8\noutput: {'r' * 90_000}",
    "long key": f"model: resnet8\n? {'k' * 90_000}\n: 3",
    "a date": "model: resnet8\nepochs: 2020-99-99",
    "code": "model: !!python/object/apply:os.system ['touch SPRUNG']",
    "another file": "model: resnet8\nconfig: other.yaml",
    "a key that is a number": "model: resnet8\n3: 4",
    "a side of true": "model: resnet8\nimage_size: true",
    "sides": "model: resnet8\nimage_size: [1, 2, 3]",
    "no mapping": "[1, 2]",
}


@pytest.mark.parametrize("text", YAMLS.values(), ids=YAMLS.keys())
def test_a_hostile_configuration_is_one_clear_line(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        TrainConfig.from_yaml(text)
    assert len(str(caught.value)) < 700
    assert str(caught.value).isprintable()
    Path("c.yaml").write_text(text)
    for words in (["--config", "c.yaml"], ["--config=c.yaml"], ["--config", text[:100_000]]):
        assert main(["train", *words, "--print_config"]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("accuracy-booster: error: ")
        assert len(err) < 900
    assert not Path("SPRUNG").exists()


def test_an_ordinary_configuration_is_read_as_before(tmp_path, capsys):
    text = "# a comment\nmodel: resnet8\nmean: &m [0.5]\nstd: *m\nlr: 1\nblock: 'gap | sigmoid'\n"
    config = TrainConfig.from_yaml(text)
    assert (config.mean, config.std, config.lr) == ((0.5,), (0.5,), 1.0)
    (tmp_path / "c.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "c.yaml"), "--print_config"]) == 0
    assert TrainConfig.from_yaml(capsys.readouterr().out).block == "gap | sigmoid"


HUGE = {
    "epochs": [10**400, 10**12, float("inf"), nested(9000)],
    "lr": [10**400, 10**5000, float("nan"), "x" * 10**6],
    "batch_size": [10**12],
    "eval_batch_size": [10**12],
    "workers": [100_000, 257],
    "image_size": [1_000_000, (8, 10**9), (8, 8, 8), 0, "x", 1.5, True],
    "in_chans": [0, 10**9],
    "num_classes": [10**12],
    "seed": [2**32, 10**5000],
    "mean": [(10**400,), (float("inf"),), "x", (True,)],
    "std": [(10**400,), [1, nested(9000)]],
    "milestones": [(float("nan"),), ("x" * 10**6,)],
    "data": ["x" * 10**6],
    "precision": ["x" * 10**4, nested(9000)],
    "x" * 10**6: [1],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in HUGE.items() for value in values],
    ids=[f"{name[:20]}{i}" for name, values in HUGE.items() for i in range(len(values))],
)
def test_absurd_options_are_refused_in_short(name, value):
    with pytest.raises(ValueError, match=name[:5]) as caught:
        TrainConfig("resnet8").change({name: value})
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("option", ["--mean", "--block", "--epochs", "--lr", "--image_size", "--x"])
@pytest.mark.parametrize(
    "value", ["[" * 100_000, "- " * 50_000, "x" * 10**6, "9" * 5000, "1e999", "x\n" * 1000]
)
def test_absurd_words_of_the_command_line_are_one_line(option, value, capsys):
    for words in ([option, value], [f"{option}={value}"]):
        assert main(["train", "--model", "resnet8", "--print_config", *words]) in (0, 2)
        err = capsys.readouterr().err
        assert err.count("\n") <= 1
        assert len(err) < 1000


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


def test_an_error_line_is_cut(monkeypatch, capsys):
    def fail(*_):
        raise ValueError("begin " + "x" * 10**6 + " end")

    monkeypatch.setattr("accuracy_booster.cli._main", fail)
    assert main([]) == 2
    err = capsys.readouterr().err
    assert err.startswith("accuracy-booster: error: begin xxx")
    assert err.endswith("x end\n")
    assert len(err) < 2100


# --- 6: memory

REFUSED = ["wrn16_999999", "wrn16_100", "wrn999994_1", "wrn2002_1", f"wrn16_{'9' * 5000}"]


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: name[:14])
@pytest.mark.parametrize("command", ["train", "plan", "complexity", "bench"])
def test_a_network_beyond_every_machine_is_refused_before_it_is_built(
    command, name, tmp_path, monkeypatch, capsys
):
    def refuse(*_, **__):
        raise AssertionError("a layer was built")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.nn, "Conv2d", refuse)
    assert main([command, "--model", name]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(r"must be <= 2,000|may have up to 250,000,000|unknown model", err)
    assert not any(tmp_path.iterdir())


def test_deep_networks_of_the_classes_are_refused():
    for build in (lambda: ResNetCifar(6 * 10**9 + 2), lambda: PreActResNet(9 * 10**9 + 2)):
        with pytest.raises(ValueError, match="must be <= 2,000"):
            build()
    with pytest.raises(ValueError, match="may have up to"):
        WideResNet(16, 10**400)


@pytest.mark.parametrize("name", ["wrn40_14", "wrn28_20", "wrn22_10"])
def test_published_networks_are_not_too_large(name):
    with torch.device("meta"):
        assert sum(p.numel() for p in ab.create_model(name).parameters()) > 10**7


NO_MEMORY = [
    MemoryError(),
    MemoryError("Unable to allocate 3.00 TiB for an array"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 3 bytes."),
    RuntimeError("Storage size calculation overflowed with sizes=[9, 9]"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    OSError(12, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda e: str(e)[:30])
@pytest.mark.parametrize("wrapped", [False, True])
def test_out_of_memory_is_one_line_with_the_remedy(error, wrapped, monkeypatch, capsys):
    def fail(*_):
        if not wrapped:
            raise error
        raise ValueError("the network cannot take this") from error

    monkeypatch.setattr("accuracy_booster.cli._main", fail)
    assert main([]) == 1
    err = capsys.readouterr().err
    assert err.startswith("accuracy-booster: error: out of memory (")
    assert err.count("\n") == 1
    for word in ("smaller batch", "--accumulate", "image_size"):
        assert word in err


def test_a_real_allocation_that_fails(capsys):
    words = ["--batch_sizes", "100000000000", "--compile", "off", "--blocks", "none"]
    assert main(["bench", "resnet8", *words]) == 1
    assert "out of memory" in capsys.readouterr().err


def test_other_errors_of_ours_still_show_their_traceback(monkeypatch):
    def fail(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr("accuracy_booster.cli._main", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        main([])


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "resnet8", "--input_size", "3,1000000,1000000"],
        ["complexity", "resnet8", "--input_size", "100000000,8,8"],
        ["bench", "resnet8", "--threads", "100000"],
        ["compare", "--model", "resnet8", "--seeds", "1000000"],
        ["train", "--model", "resnet8", "--workers", "100000"],
        ["train", "--model", "resnet8", "--image_size", "1000000"],
    ],
    ids=lambda words: " ".join(words),
)
def test_absurd_demands_of_the_command_are_refused(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "up to" in err or "<=" in err or "in [1, 10000]" in err
    assert not any(tmp_path.iterdir())


# --- 7: a terminal that is closed

needs_hangup = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has none")


def training(data, run, ignored=None):
    """A training of many epochs, in a process group of its own, with a loader's worker."""

    def before():
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)

    given = {"model": "resnet8", "data": data, "output": run, "epochs": 500, "batch_size": 6}
    given |= {"image_size": 16, "checkpoint_minutes": 0, "device": "cpu", "compile": "off"}
    words = [f"--{key}={value}" for key, value in {**given, "workers": 1}.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "accuracy_booster", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PACKAGE, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        preexec_fn=before,
    )


def until(holds, process, limit=90.0):
    end = time.monotonic() + limit
    while not holds() and process.poll() is None:
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


@pytest.fixture
def photos(make_folder):
    """Larger than what is kept in memory: a worker reads them."""
    return make_folder({f"{s}/{c}": 6 for s in ("train", "test") for c in "ab"}, size=(66, 70))


@needs_hangup
def test_a_closed_terminal_saves_the_training(photos, tmp_path):
    """The whole group hears of it, and more than once, as from a terminal and its shell."""
    run = tmp_path / "run"
    process = training(photos, run)
    until((run / "checkpoints/manifest.json").exists, process)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGHUP)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 129, err
    assert out == ""
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    found = re.search(r"stopped by signal 1 after step (\d+) of epoch (\d+), which is saved", last)
    assert found, err
    saved, problems = checkpoint.load(run)
    assert not problems
    assert (saved.values["step"], saved.values["epoch"] + 1) == tuple(map(int, found.groups()))


@needs_hangup
@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_what_is_ignored_stays_ignored(name, photos, tmp_path):
    """nohup, and the background of a script: the training goes on."""
    run, number = tmp_path / "run", getattr(signal, name)
    process = training(photos, run, ignored=number)
    rows = run / "metrics.csv"
    until(rows.exists, process)
    process.send_signal(number)
    size = rows.stat().st_size
    until(lambda: rows.stat().st_size > size + 100, process)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 143, err
    assert "stopped by signal 15" in err


@needs_hangup
def test_a_training_goes_on_where_its_terminal_is_gone(monkeypatch):
    """Printing to it would raise an error and end the training before it has saved."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        for descriptor in (1, 2):
            os.dup2(theirs, descriptor)
        os.close(ours)
        signals._leave_closed_terminal()
        written = [os.write(descriptor, b"x") for descriptor in (1, 2)]
    finally:
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(theirs)
    assert written == [1, 1]


@needs_hangup
def test_signals_are_as_before_after_a_training():
    names = ("SIGHUP", "SIGINT", "SIGTERM")
    before = [signal.getsignal(getattr(signal, name)) for name in names]
    with signals.StopRequest(""):
        pass
    assert [signal.getsignal(getattr(signal, name)) for name in names] == before
    assert signal.set_wakeup_fd(-1) == -1


# --- 2 and 3: what reaches the terminal

# colours, a title, C1's CSI, DEL, a carriage return, bidi controls, a space of no width
EVIL = "a\x1b[31mred\x1b]0;title\x07\x9b2J\x7f\rb\u202egnp.exe\u2066\u200b\u2028"
MARKUP = "m[/x][bold]n[red]:smile:[link=file:///]"
NOT_UTF8 = os.fsdecode(b"\xff\xfe")


def harmless(text):
    """Whether a terminal that shows the text only shows it."""
    return all(c.isprintable() or c in "\n" for c in text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[0m", r"\x1b[0m"),
        ("\x9b\x7f\r\t\0", r"\x9b\x7f\r\t\x00"),
        ("\u202e\u2066\u200e\u061c\ufeff\u2028", r"\u202e\u2066\u200e\u061c\ufeff\u2028"),
        ("\U000e0041", r"\U000e0041"),
        ("\udcff", r"\udcff"),
        ("line\nline", r"line\nline"),
        ("Käse 日本 ± \\x 😀 क\u200c्", "Käse 日本 ± \\x 😀 क\u200c्"),
        (MARKUP, MARKUP),
        (Path("/a b/c"), "/a b/c"),
    ],
)
def test_printable(text, expected):
    assert printable(text) == expected
    printable(text).encode()


def test_printable_keeps_what_it_is_told_to():
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@pytest.mark.parametrize("name", [EVIL, MARKUP, NOT_UTF8], ids=["controls", "markup", "bytes"])
def test_the_console_the_tables_and_the_notes(name, capsys):
    progress.note(f"note {name}")
    progress.console().print(f"line {name}")
    with progress.bars() as shown_bars:
        shown_bars.console.print(f"bars {name}")
    base.say(f"say {name}", name)
    base.print_table([f"head {name}"], [[f"cell {name}"]])
    base.say_json({"name": name})
    out, err = capsys.readouterr()
    assert harmless(out + err)
    for what in ("note", "line", "bars"):
        assert f"{what} {printable(name)}\n" in err
    for what in ("say", "head", "cell"):
        assert f"{what} {printable(name)}" in out
    assert json.loads(out.splitlines()[-1]) == {"name": name}


@pytest.mark.parametrize("name", [EVIL, MARKUP, NOT_UTF8], ids=["controls", "markup", "bytes"])
def test_the_progress_columns(name, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich's word for "take it for a terminal"
    monkeypatch.setenv("COLUMNS", "400")
    with progress.bars() as shown_bars:
        shown_bars.add_task(f"task {name}", total=3, note=f"{name} end")
        shown_bars.refresh()
    err = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().err)  # the bars' own
    assert f"task {printable(name)}" in err
    assert f"{printable(name)} end" in err
    assert all(c.isprintable() or c in "\n\r" for c in err)


def test_a_name_does_not_put_a_line_of_its_own_on_the_terminal(capsys):
    base.say("x\naccuracy-booster: error: forged")
    progress.note("x\naccuracy-booster: error: forged")
    out, err = capsys.readouterr()
    assert out.count("\n") == err.count("\n") == 1


COMMANDS = [
    ["train", "--model", "{}"],
    ["train", "--model", "resnet8", "--block", "{}"],
    ["train", "--model", "resnet8", "--block", "gap | {}"],
    ["train", "--model", "resnet8", "--data", "{}"],
    ["train", "--model", "resnet8", "--precision", "{}"],
    ["train", "--model", "resnet8", "--epochs", "{}"],
    ["train", "--model", "resnet8", "--mean", "{}"],
    ["train", "--model", "resnet8", "--weights", "{}"],
    ["train", "--model", "resnet8", "--preset", "{}"],
    ["train", "--config", "{}"],
    ["train", "--resume", "{}"],
    ["train", "--{}"],
    ["compare", "--blocks", "none,{}"],
    ["compare", "--resume", "{}"],
    ["plan", "{}"],
    ["plan", "timm/{}"],
    ["plan", "resnet8", "--where", "{}"],
    ["plan", "resnet8", "--where", "/({}/"],
    ["complexity", "resnet8", "--convention", "{}"],
    ["bench", "resnet8", "--modes", "{}"],
    ["bench", "resnet8", "--output", "{}/{}"],
    ["models", "{}"],
    ["runs", "{}"],
    ["eval", "{}"],
    ["reproduce", "{}"],
    ["{}"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("name", [EVIL, MARKUP, NOT_UTF8], ids=["controls", "markup", "bytes"])
def test_bad_names_are_one_harmless_line(words, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("{}", name) for word in words]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert harmless(err)
    err.encode()


@pytest.mark.parametrize(
    "name",
    [EVIL.replace("/", "_"), MARKUP.replace("/", "|"), NOT_UTF8],
    ids=["controls", "markup", "bytes"],
)
def test_a_run_and_data_with_evil_names(name, make_folder, tmp_path, monkeypatch, capsys):
    """Directories, classes and files of this name: trained, listed, measured, gone on with."""
    monkeypatch.chdir(tmp_path)
    data = make_folder({f"{split}/{c}": 4 for split in ("train", "test") for c in "ab"})
    for folder in [*data.glob("*/*")]:
        folder.rename(f"{folder}{name}")
    data = data.rename(f"data{name}")
    (data / f"train/a{name}/bad{name}.png").write_bytes(b"no image")
    (data / f"test/b{name}/notes{name}.xyz").write_text("left out")
    run = Path("run" if name == NOT_UTF8 else f"run{name}")
    words = ["--model", "resnet8", "--data", str(data), "--epochs", "1", "--batch_size", "2"]
    words += ["--device", "cpu", "--compile", "off"]
    assert main(["train", *words, "--output", str(run), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["output"] == str(run)
    assert harmless(out + err)
    assert "skipped" in err
    assert f"bad{printable(name)}" in err
    for command in (
        ["eval", str(run)],
        ["runs", "."],
        ["train", "--resume", str(run)],
        ["train", *words, "--output", str(run)],  # refused: there is one
        ["train", *words, "--print_config"],
    ):
        code = main(command)
        out, err = capsys.readouterr()
        assert code == (2 if "--output" in command else 0), err
        assert harmless(out + err)
        (out + err).encode()
        if "--resume" in command:
            assert printable(run) in out.splitlines()
        if command[0] == "runs":  # a cell may be broken into lines
            assert printable(run)[:6] in out
    assert main(["runs", ".", "--json"]) == 0
    assert [row["path"] for row in json.loads(capsys.readouterr().out)["runs"]] == [str(run)]


def test_a_run_in_a_directory_that_is_not_utf8_is_refused_before_it_starts(tmp_path, capsys):
    run = tmp_path / f"run{NOT_UTF8}"
    assert main(["train", "--model", "resnet8", "--epochs", "1", "--output", str(run)]) == 2
    err = capsys.readouterr().err
    assert "must be a path in UTF-8" in err
    assert r"\udcff\udcfe" in err
    assert not run.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_in_a_file_whose_name_is_not_utf8(suffix, tmp_path):
    tensors, path = {"weight": torch.arange(3.0)}, tmp_path / f"w{NOT_UTF8}{suffix}"
    if suffix == ".pth":
        with path.open("wb") as file:
            torch.save(tensors, file)
    else:
        path.write_bytes(safetensors.torch.save(tensors))
    assert torch.equal(read_weights(path)["weight"], tensors["weight"])


def test_results_on_a_stream_of_ascii(tmp_path):
    """± and box characters are escaped there instead of ending in UnicodeEncodeError."""
    done = python("-m", "accuracy_booster", "models", "resnet8", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    code = "from accuracy_booster.cli import main; import sys; sys.exit(main())"
    done = python("-c", code, "plan", "Ünknown\udcff", PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 2, done.stderr
    assert "unknown model" in done.stderr


def test_json_is_exact(capsys):
    value = {"a\x7f\x1b\u202e\udcff": [1.5, None, "±"], "b": {"c": "[/x]"}}
    base.say_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert harmless(out)
    assert out.isascii()


def test_warnings_of_the_command_are_one_harmless_line(monkeypatch, capsys):
    def warn(*_):
        warnings.warn(f"x {EVIL}\nforged {'y' * 10**6}", stacklevel=1)
        return 0

    monkeypatch.setattr("accuracy_booster.cli._main", warn)
    assert main([]) == 0
    err = capsys.readouterr().err
    assert err.startswith("accuracy-booster: warning: x a\\x1b[31m")
    assert (err.count("\n"), harmless(err)) == (1, True)
    assert len(err) < 2100


# --- 8: files and names that could run code


class Spring:
    """Unpickling it writes a file."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_run_no_code(wrapped, tmp_path, capsys):
    place, file = tmp_path / "SPRUNG", tmp_path / "w.pth"
    spring = Spring(place)
    torch.save({"state_dict": {"weight": torch.ones(1), "x": spring}} if wrapped else spring, file)
    with pytest.raises(ValueError, match="could run code"):
        read_weights(file)
    assert main(["train", "--model", "resnet8", "--weights", str(file)]) == 2
    assert "could run code" in capsys.readouterr().err
    assert not place.exists()


def test_weights_that_hold_themselves_are_refused(tmp_path):
    found = {}
    found["model"] = found
    torch.save(found, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no tensors by name"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "name",
    [
        *("timm/hf-hub:someone/network", "timm/hf_hub:someone/network", "timm/local-dir:{}"),
        *("hf-hub:someone/network", "torchvision/../{}", "torchvision/os.system", "timm/{}"),
        *("{}", "./network.py", "builtins.eval", "torchvision/get_model", "timm/__init__"),
    ],
)
def test_a_network_is_named_by_a_table_and_by_nothing_else(name, tmp_path, monkeypatch):
    """No repository, directory or module is opened for a name."""

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)
    for pretrained in (False, True):
        with pytest.raises(ValueError, match="unknown model"):
            ab.create_model(name.format(tmp_path), pretrained=pretrained)
