"""The documentation: its code blocks run, its commands parse, its links, lists and pictures hold.

`support/documentation.py` finds the blocks and lists what is changed in them so that they are
quick, and which do not run. The blocks of a page run in turn, in one namespace and in a directory
of their own, where RUN is a run that has ended.
"""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from support import documentation as docs
from support.detectors import make_coco
from support.documentation import PAGES, ROOT
from support.ultralytics_runs import make_yolo

import accuracy_booster as ab
from accuracy_booster.cli import COMMANDS, main
from accuracy_booster.cli.program import _find_command, parser_of
from accuracy_booster.cli.words import normalise

WITH_PYTHON = [page for page in PAGES if docs.blocks(page, "python")]


@pytest.fixture
def without_downloads(monkeypatch):
    """Pretrained networks of timm get random weights instead of downloaded ones."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    build = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **given: build(name, **given)
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that has ended and was exported: ResNet-8 with AB, one epoch of the digits."""
    folder = tmp_path_factory.mktemp("finished") / "RUN"
    ab.train("resnet8", block="ab", data="digits", epochs=1, output=folder)
    ab.export(folder, batch_sizes=None)
    return folder


@pytest.fixture
def place(finished, tmp_path, make_folder, monkeypatch):
    """The current directory, with what the pages call RUN, photos/, FOLDER, own.pth and so on."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "RUN")
    for folder in ("photos", "FOLDER"):
        make_folder({f"{s}/{c}": 8 for s in ("train", "val") for c in "ab"}, (32, 32), name=folder)
    shutil.copytree("RUN", "runs/reproduce/RUN")
    Path("DATA").mkdir()
    shutil.copy("photos/val/a/000.png", "street.jpg")
    base = ab.create_model("resnet8").state_dict()
    torch.save(base, "FILE.pth")
    torch.save(timm.create_model("test_resnet", num_classes=2).state_dict(), "own.pth")
    renamed = {f"module.{k.replace('fc.', 'linear.')}": v for k, v in base.items()}
    torch.save({"state_dict": renamed}, "resnet8.th")
    save_file(ab.create_model("resnet8", in_chans=1).state_dict(), "weights.safetensors")
    return tmp_path


# --- code


@pytest.mark.parametrize("page", PAGES, ids=docs.name)
def test_every_block_names_its_language(page):
    for block in docs.blocks(page):
        assert block.language in docs.LANGUAGES, f"{docs.name(page)}:{block.line}"


@pytest.mark.parametrize("page", WITH_PYTHON, ids=docs.name)
@pytest.mark.filterwarnings("ignore")
def test_the_python_of_a_page_runs(page, place, without_downloads):
    make_coco(place / "coco")
    if page.stem == "ultralytics":
        make_yolo(place)
    namespace: dict[str, object] = {"__name__": "page"}
    for block in docs.blocks(page, "python"):
        if block.code.startswith("--8<--"):
            continue  # one of the examples, which have a test of their own
        code = compile("\n" * (block.line - 1) + docs.smaller(block.code), str(page), "exec")
        if not any(
            docs.name(page) == named and re.search(pattern, block.code)
            for named, pattern, _ in docs.COMPILED_ONLY
        ):
            exec(code, namespace)


@pytest.mark.parametrize("page", PAGES, ids=docs.name)
def test_commands_are_as_the_parsers_take_them(page):
    for words in docs.commands(page):
        name, rest = _find_command(words)
        assert name in COMMANDS, words
        parser = parser_of(name, COMMANDS[name])
        taken = normalise(rest, parser.lists(), parser.switches())
        assert parser.parse_args(taken, defaults=False) is not None


@pytest.mark.parametrize("command", docs.commands_that_run())
@pytest.mark.filterwarnings("ignore")
def test_a_command_runs(command, place, capsys):
    code = main(shlex.split(command))
    assert code == 0, capsys.readouterr().err


def test_each_entry_of_the_lists_is_needed():
    text = "\n".join(b.code for page in PAGES for b in docs.blocks(page, "python"))
    words = [shlex.join(words) for page in PAGES for words in docs.commands(page)]
    everything = "\n".join([text, *words])
    for pattern, replacement, _ in docs.SMALLER:
        assert re.search(pattern, everything, re.MULTILINE), replacement
    for pattern, _ in docs.PARSED_ONLY:
        assert any(re.search(pattern, each) for each in words), pattern


@pytest.mark.parametrize("page", PAGES, ids=docs.name)
def test_other_programs_are_known_and_their_files_are_there(page):
    for line in docs.lines(page):
        program, *words = shlex.split(line, comments=True) or ["#"]
        if program in ("accuracy-booster", "#"):
            continue
        assert program in docs.OTHER_PROGRAMS, line
        for word in words:
            if re.fullmatch(r"(?:\w+/)+\w+\.py", word):
                assert (ROOT / word).is_file(), line


# --- pictures, lists, names and links


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_the_folders_is_what_the_imports_are():
    drawn = load(ROOT / "docs" / "draw_architecture.py")
    assert drawn.PICTURE.read_text() == drawn.picture(), "run python docs/draw_architecture.py"


def test_the_list_of_commands_is_complete():
    written = load(ROOT / "docs" / "write_commands.py")
    text = written.PAGE.read_text()
    assert written.page(text) == text, "run python docs/write_commands.py"


def test_files_that_the_architecture_names_are_there():
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "accuracy_booster"
    for name in re.findall(r"`((?:\w+/)*\w+\.(?:py|md))`", text):
        found = (package / name).exists() or (ROOT / name).exists()
        assert found or list(package.rglob(name)), f"docs/architecture.md names {name}"
    for name in re.findall(r"`(\w+)/`", text):
        assert (package / name).is_dir(), f"docs/architecture.md names {name}/"


TESTS = "\n".join(file.read_text() for file in sorted((ROOT / "tests").rglob("test_*.py")))


@pytest.mark.parametrize("page", PAGES, ids=docs.name)
def test_tests_that_a_page_names_are_there(page):
    for name in re.findall(r"`(test_\w+?)(?:_?\.\.\.)?`", page.read_text()):
        assert f"def {name}" in TESTS, f"{docs.name(page)} names {name}"


def test_links_between_pages():
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


# --- examples

EXAMPLES = {
    "fine_tune": ["photos", "--model", "timm/test_resnet", "--epochs", "1", "--no-pretrained"],
    "new_block": ["--model", "resnet8", "--epochs", "1"],
    "own_images": ["--images", "64", "--epochs", "1"],
    "transformers_trainer": ["--images", "160", "--epochs", "1"],
    "yolo": ["--images", "8", "--epochs", "1", "--device", "cpu"],
}


def test_every_example_is_tested():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.filterwarnings("ignore:the batch norm of the gate")
def test_an_example_runs(name, place, monkeypatch, capsys, without_downloads):
    monkeypatch.setattr(sys, "argv", [name, *EXAMPLES[name]])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert re.search(r"\d %", out), "it prints an accuracy"
