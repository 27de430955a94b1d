"""A network compiled ahead of time gives the network's outputs, in Python and in C++."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.repository import ROOT

import accuracy_booster as ab
from accuracy_booster.deploy import ahead_of_time
from accuracy_booster.deploy.ahead_of_time import compile_file, converted, kernel_of
from accuracy_booster.errors import FailsParity
from accuracy_booster.exported import About, open_file
from accuracy_booster.exported.sessions import KEY
from accuracy_booster.ops import native_code, packed_conv

SIZE = (3, 16, 16)
ABOUT = About("resnet8", "ab", ("cat", "dog", "é"), SIZE, (0.5,) * 3, (0.25,) * 3)
SCHEMAS = """
import sys, torch
{load}
ops = torch.ops.accuracy_booster
names = ("packed_conv", "packed_conv_onto", "gate_of_map")
print([str(getattr(ops, name).default._schema) for name in names])
"""

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
needs_kernel = pytest.mark.skipif(
    native_code.load(packed_conv.SOURCE) is not None, reason="no compiler or no AVX2 here"
)


@pytest.fixture(scope="module")
def network():
    """ResNet-8 with gates that are far from their start."""
    torch.manual_seed(0)
    network = ab.create_model("resnet8", num_classes=3, block="ab").eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
    return network


def shapes():
    return ({0: torch.export.Dim("batch", min=1)},)


@pytest.fixture(scope="module")
def program(network, tmp_path_factory):
    """A file .pt2 as `ab.export` writes it."""
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    folded = ab.fold(network, kernel="off")
    program = torch.export.export(folded, (torch.zeros(2, *SIZE),), dynamic_shapes=shapes())
    torch.export.save(program, path, extra_files={KEY: json.dumps(ABOUT.to_texts())})
    return path


@pytest.fixture(scope="module")
def package(program):
    """The same, compiled ahead of time."""
    return compile_file(program)


@pytest.fixture(scope="module")
def with_kernel(network, tmp_path_factory):
    """The network with our kernel, compiled ahead of time."""
    path = tmp_path_factory.mktemp("kernel") / "model.aoti.pt2"
    example = torch.zeros(2, *SIZE)
    save = converted(ab.fold(network, example=example, kernel="on"), example, shapes())
    save(path, ABOUT)
    return path


def command():
    """The command of the docs that compiles the program."""
    text = (ROOT / "docs/deploy.md").read_text()
    (found,) = [b for b in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "g++" in b]
    return found[: found.index("./predict")]


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    """The directory of the program of examples/cpp, compiled as the docs say."""
    folder = tmp_path_factory.mktemp("cpp")
    shutil.copy(ROOT / "examples/cpp/predict.cpp", folder)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(["bash", "-ec", command()], cwd=folder, check=True, env={"PATH": path})
    return folder / "predict"


def images(count):
    return np.random.default_rng(count).standard_normal((count, *SIZE), dtype=np.float32)


def outputs(network, batch):
    with torch.no_grad():
        return network(torch.from_numpy(batch)).numpy()


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def outputs_in_cpp(predict, package, batch, *kernel):
    """The outputs of the program, which starts without anything of Python's around it."""
    folder = predict.parent
    batch.tofile(folder / "images.f32")
    words = [predict, package, "images.f32", "logits.f32", *kernel]
    done = subprocess.run(
        words, cwd=folder, env={}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = np.fromfile(folder / "logits.f32", np.float32).reshape(len(batch), -1)
    assert [int(word) for word in done.stdout.split()[: len(batch)]] == found.argmax(1).tolist()
    return found


@pytest.mark.parametrize("count", [1, 2, 5])
def test_python_gets_the_networks_outputs_and_the_texts(package, network, count):
    session = open_file(package)
    assert session.about == ABOUT
    assert_close(session(images(count)), outputs(network, images(count)))
    backwards = np.asfortranarray(images(count))
    assert_close(session(backwards), outputs(network, images(count)))


@pytest.mark.parametrize("count", [1, 3])
def test_a_program_in_cpp_gets_the_networks_outputs(predict, package, network, count):
    found = outputs_in_cpp(predict, package, images(count))
    assert_close(found, outputs(network, images(count)))


@needs_kernel
@pytest.mark.parametrize("count", [1, 3])
def test_our_kernel_is_carried_along(predict, with_kernel, network, count):
    expected = outputs(network, images(count))
    assert_close(open_file(with_kernel)(images(count)), expected)
    found = outputs_in_cpp(predict, with_kernel, images(count), kernel_of(with_kernel))
    assert_close(found, expected)


@needs_kernel
def test_the_file_with_our_kernel_needs_it(predict, with_kernel, package):
    assert kernel_of(with_kernel).name == "model.aoti.so"
    assert not kernel_of(package).exists()
    with pytest.raises(AssertionError, match="accuracy_booster::packed_conv"):
        outputs_in_cpp(predict, with_kernel, images(1))


@needs_kernel
def test_the_kernel_defines_the_same_operators_as_python():
    library = native_code.compiled(packed_conv.SOURCE, with_torch=True)
    found = [
        subprocess.run(
            [sys.executable, "-c", SCHEMAS.format(load=load)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for load in (
            f"torch.ops.load_library({str(library)!r})",
            "from accuracy_booster.ops import gate_of_map, packed_conv",
        )
    ]
    assert found[0] == found[1]
    assert "shortcut" in found[0]


def test_the_texts_can_be_written_anew(network, package, tmp_path):
    import zipfile

    with zipfile.ZipFile(package) as archive:
        members = [(m, archive.read(m)) for m in archive.infolist()]
    about = ABOUT.__class__(**{**vars(ABOUT), "classes": ("a", "b", "c")})
    ahead_of_time._write(members, tmp_path / "new.aoti.pt2", about, {})
    session = open_file(tmp_path / "new.aoti.pt2")
    assert session.about.classes == ("a", "b", "c")
    assert_close(session(images(2)), outputs(network, images(2)))


def test_other_sizes_are_refused(package):
    with pytest.raises(ValueError, match=r"takes images \(3, 16, 16\), got \(3, 16, 15\)"):
        open_file(package)(images(2)[..., :15])


def test_what_is_no_program_of_ours_is_refused(package, program, tmp_path):
    with pytest.raises(ValueError, match="of the format aoti, and torch compiles its own"):
        compile_file(package)
    with pytest.raises(ValueError, match=r"'.*model\.pt2' must end with \.aoti\.pt2"):
        compile_file(program, tmp_path / "model.pt2")
    (tmp_path / "text.pt2").write_text("no program")
    with pytest.raises(ValueError, match="not a file that torch reads"):
        compile_file(tmp_path / "text.pt2")
    renamed = shutil.copy(program, tmp_path / "program.aoti.pt2")
    with pytest.raises(ValueError, match="not a file that torch reads"):
        open_file(renamed)
    renamed = shutil.copy(package, tmp_path / "package.pt2")
    with pytest.raises(ValueError, match="not a file that torch reads"):
        open_file(renamed)


def test_a_file_with_other_outputs_is_not_kept(program, package, monkeypatch, tmp_path):
    monkeypatch.setattr(
        ahead_of_time, "compiled", lambda _: lambda path, about: shutil.copy(package, path)
    )
    kept = open_file

    def changed(path):
        session = kept(path)
        if not path.name.endswith(".aoti.pt2"):
            return session
        return type(session)(path, session.about, lambda batch: session(batch) * 1.001)

    monkeypatch.setattr(ahead_of_time, "open_file", changed)
    with pytest.raises(FailsParity, match=r"not kept: its outputs differ .* by 0\.001 of"):
        compile_file(program, tmp_path / "model.aoti.pt2")
    assert list(tmp_path.iterdir()) == []
