"""The package as a whole: directions of imports, what an import costs, public names."""

import ast
import subprocess
import sys
from pathlib import Path

import accuracy_booster as ab

ROOT = Path(ab.__file__).parent
# each may import what stands left of it (DESIGN: layout and direction)
ORDER = [
    "lazy",
    "errors",
    "files",
    "progress",
    "signals",
    "report",
    "ops",
    "blocks",
    "surgery",
    "fastpath",
    "pruning",
    "models",
    "data",
    "training",
]
ORDER += ["detection", "analysis", "inspection", "reproduction", "cli", "__main__"]


def imports_of(file: Path) -> set[str]:
    """The parts of the package that a file imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("accuracy_booster."):
                found.add(name.split(".")[1])
    return found


def test_imports_point_one_way():
    seen = set()
    for file in ROOT.rglob("*.py"):
        part = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        seen.add(part)
        later = {p for p in imports_of(file) if p in ORDER and ORDER.index(p) > ORDER.index(part)}
        assert not later, f"{file.relative_to(ROOT)} imports {later}, which stand right of it"
    assert seen == set(ORDER), "a part of the package is missing in ORDER, or gone"


def test_import_is_cheap_and_needs_nothing_but_torch():
    code = (
        "import sys, accuracy_booster as ab; first = set(sys.modules); ab.Recalibrate(8, 'ab');"
        "print(*[m for m in ('torch', 'rich', 'yaml') if m in first]);"
        "print(*[m for m in ('torchvision', 'timm', 'accelerate', 'sklearn', 'matplotlib', 'rich')"
        " if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "\n\n", "import accuracy_booster, or a block, imports more than torch"


def test_help_imports_no_torch():
    code = (
        "import sys; from accuracy_booster.cli import main; main(['--help']);"
        "print(*[m for m in ('torch', 'torchvision', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == ""


def test_public_names_resolve_and_are_documented():
    for name in ab.__all__:
        value = getattr(ab, name)
        assert name == "__version__" or value.__doc__, f"{name} has no docstring"
        assert name in dir(ab)


def test_submodules_are_attributes():
    code = "import accuracy_booster as ab; print(ab.models.from_akamaster({'linear.bias': 1}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "{'fc.bias': 1}"


def test_unknown_public_name():
    assert not hasattr(ab, "no_such_name")


def test_no_lazy_name_is_a_module_s():
    """Importing the module would set it in its package in place of what the name means."""
    packages = (ab, ab.training, ab.data, ab.detection)
    for package in packages:
        table = getattr(package, "_PUBLIC", None) or package._NAMES
        files = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
        assert not files & set(table), package.__name__
