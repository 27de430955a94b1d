"""The documentation: every code block runs, commands parse, pictures and lists are up to date.

What would take hours, needs a download or a cluster is made small: `SMALLER` lists each change. The
blocks of a page run one after the other in one namespace, in a directory of their own, where RUN is
a small run that has ended.
"""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import timm

from accuracy_booster.cli import COMMANDS
from accuracy_booster.cli.program import _find_command, _parser
from accuracy_booster.cli.words import normalise

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

# (pattern, replacement) in the code of the documentation
SMALLER = [
    (r"\bpretrained=True\b", "pretrained=False"),
    (r"--pretrained\b", ""),
]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language; "" is for those that name none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [code for named, code in found if named == language]


def commands_of(page: Path) -> list[list[str]]:
    """The words of each `accuracy-booster` command that a page shows."""
    found = []
    for code in (*blocks(page, ""), *blocks(page, "bash")):
        for line in code.replace("\\\n", " ").splitlines():
            line = line.partition("&& ")[2] or line
            if line.startswith("accuracy-booster "):
                found.append(shlex.split(line, comments=True)[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_as_the_parsers_take_them(page):
    for words in commands_of(page):
        name, rest = _find_command(words)
        assert name in COMMANDS, words
        parsed = _parser(name, COMMANDS[name]).parse_args(normalise(rest), defaults=False)
        assert parsed is not None


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


def test_links_between_pages():
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


# --- examples

EXAMPLES = {
    "fine_tune": ["photos", "--model", "timm/test_resnet", "--epochs", "1", "--batch-size", "4"],
    "new_block": ["--model", "resnet8", "--epochs", "1"],
    "own_images": ["--images", "64", "--epochs", "1"],
}


def test_every_example_is_tested():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.fixture
def without_downloads(monkeypatch):
    """Pretrained networks of timm get random weights instead of downloaded ones."""
    build = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **given: build(name, **given)
    )


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.filterwarnings("ignore:the batch norm of the gate")
def test_an_example_runs(name, make_folder, tmp_path, monkeypatch, capsys, without_downloads):
    make_folder({f"{s}/{c}": 8 for s in ("train", "val") for c in "ab"}, (64, 64), name="photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *EXAMPLES[name]])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert re.search(r"\d %", out), "it prints an accuracy"
