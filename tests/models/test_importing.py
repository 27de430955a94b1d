"""Import paths of the user's own code: a module's or a file's."""

from __future__ import annotations

import sys

import pytest

from accuracy_booster.models.importing import import_path, is_import_path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a package and a file that imports what lies beside it."""
    (tmp_path / "nets_t2").mkdir()
    (tmp_path / "nets_t2" / "__init__.py").write_text("")
    (tmp_path / "nets_t2" / "small.py").write_text("class Net:\n    width = 3\n")
    (tmp_path / "beside_t2.py").write_text("WIDTH = 5\n")
    (tmp_path / "own_t2.py").write_text(
        "from beside_t2 import WIDTH\ndef make():\n    return WIDTH\n"
    )
    (tmp_path / "broken_t2.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0].endswith("_t2")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        *(("pkg.mod:make", True), ("file.py:make", True), ("a/b/my file.py:Net.small", True)),
        *(("resnet8", False), ("timm/resnet18", False), ("own/ResNet", False)),
        *(("photos/x.jpg", False), (":make", False), ("file.py:", False), ("a b:c", False)),
    ],
)
def test_what_is_an_import_path(text, is_one):
    assert is_import_path(text) is is_one


def test_a_module_of_the_working_directory_and_a_file_are_found(here):
    before = list(sys.path)
    assert import_path("nets_t2.small:Net").width == 3
    assert import_path("nets_t2.small:Net.width") == 3
    make = import_path(f"{here / 'own_t2.py'}:make")
    assert make() == 5
    assert import_path("own_t2.py:make") is make, "a file is run once"
    assert sys.path == before


def test_an_installed_module_comes_first(here):
    """Whatever lies in the current directory."""
    (here / "colorsys.py").write_text("def rgb_to_hsv():\n    return 'hostile'\n")
    sys.modules.pop("colorsys", None)
    assert import_path("colorsys:rgb_to_hsv")(1, 1, 1) == (0.0, 0.0, 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nets_t2.smal:Net", "there is no module 'nets_t2.smal'"),
        ("nothing_t2:Net", "there is no module 'nothing_t2'"),
        ("nothing_t2.py:Net", "there is no such file"),
        ("nets_t2.small:Nett", "nearest: Net"),
        ("broken_t2:make", "importing broken_t2 failed: ZeroDivisionError"),
        ("broken_t2.py:make", "importing broken_t2.py failed: ZeroDivisionError"),
        ("no path", "must be package.module:function"),
    ],
)
def test_what_cannot_be_imported_is_told_in_one_line(here, text, told):
    with pytest.raises(ValueError, match=told) as caught:
        import_path(text)
    assert "\n" not in str(caught.value)
    assert "broken_t2" not in sys.modules, "half a module is not left behind"
