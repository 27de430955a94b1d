"""The package as a whole: directions of imports, what an import costs, public names."""

import ast
import subprocess
import sys
from pathlib import Path

import accuracy_booster as ab

ROOT = Path(ab.__file__).parent
TESTS = Path(__file__).parent
# Each part may import what stands left of it.
ORDER = ["lazy", "version", "errors", "spelling", "files", "progress", "signals", "tables"]
ORDER += ["report", "ops", "blocks", "surgery", "fastpath", "pruning", "models", "data", "exported"]
ORDER += ["training", "prediction", "detection", "analysis", "integrations", "deploy"]
ORDER += ["inspection", "reproduction"]
ORDER += ["cli", "start", "__main__"]
MOST_LINES = 300
OF_NO_FILE = ("package.py", "docs.py", "benchmarks.py")  # tests of more than one file


def source_files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def module_of(file: Path) -> str:
    """The dotted name of a file's module, without the package's own name."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in source_files()}


def imports_of(file: Path) -> set[str]:
    """The modules of the package that a file imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[tuple[str, str]] = []
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [(node.module or "", alias.name) for alias in node.names]
        for module, name in names:
            if module.partition(".")[0] != "accuracy_booster":
                continue
            inner = module.removeprefix("accuracy_booster").removeprefix(".")
            whole = f"{inner}.{name}".strip(".")
            found.add(whole if whole in MODULES else inner)
    return found - {module_of(file)}


def test_folders_import_one_way():
    parts = {module.partition(".")[0] for module in MODULES} - {""}
    assert parts == set(ORDER), "a part of the package is missing in ORDER, or gone"
    for module, file in MODULES.items():
        part = module.partition(".")[0]
        for other in imports_of(file) if part else ():
            assert other, f"{module} imports the package's own __init__"
            there = other.partition(".")[0]
            assert ORDER.index(there) <= ORDER.index(part), f"{module} imports {other}"


def test_no_files_import_each_other():
    """Packages' `__init__` files count too, but for the imports of their own files."""
    inner = {
        module: {other for other in imports_of(file) if not f"{other}.".startswith(f"{module}.")}
        for module, file in MODULES.items()
        if module
    }
    while True:
        free = [module for module, needed in inner.items() if not needed & inner.keys()]
        if not free:
            break
        for module in free:
            del inner[module]
    # what is left is in a circle or needs one
    assert not inner, {module: sorted(needed & inner.keys()) for module, needed in inner.items()}


def test_files_are_short_and_say_what_they_hold():
    for file in source_files():
        text = file.read_text()
        assert len(text.splitlines()) <= MOST_LINES, f"{file.relative_to(ROOT)} is too long"
        assert ast.get_docstring(ast.parse(text)), f"{file.relative_to(ROOT)} has no docstring"


def test_tests_mirror_the_package():
    for file in TESTS.rglob("test_*.py"):
        folder, name = file.parent.relative_to(TESTS), file.name.removeprefix("test_")
        # public: what users of other tools do; gpu: whole networks and trainings on a GPU
        if str(folder) in ("public", "gpu") or (str(folder) == "." and name in OF_NO_FILE):
            continue
        assert (ROOT / folder / name).exists(), f"{folder}/{file.name} is named after no file"


def test_no_test_imports_a_test():
    for file in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tests = [n for n in names if any(p.startswith("test_") for p in n.split("."))]
            assert not tests, f"{file.relative_to(TESTS)} imports {tests}"


def test_import_is_cheap_and_needs_nothing_but_torch():
    code = (
        "import sys, accuracy_booster as ab; first = set(sys.modules); ab.Recalibrate(8, 'ab');"
        "print(*[m for m in ('torch', 'rich', 'yaml') if m in first]);"
        "print(*[m for m in ('torchvision', 'timm', 'accelerate', 'sklearn', 'matplotlib', 'rich')"
        " if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "\n\n", "import accuracy_booster, or a block, imports more than torch"


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
    packages = (ab, ab.training, ab.data, ab.detection, ab.prediction)
    for package in packages:
        table = getattr(package, "_PUBLIC", None) or package._NAMES
        files = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
        assert not files & set(table), package.__name__
