"""int8 files of networks trained on the digits, in onnxruntime and in OpenVINO."""

# N images, C channels, H W space

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.datasets import one_line
from support.own_process import only_in_own_process
from support.quantised_files import about_of, opened, write_float

import accuracy_booster as ab
from accuracy_booster.deploy import quantising
from accuracy_booster.deploy.file_accuracy import calibration_batches
from accuracy_booster.deploy.quantising import check_int8, quantise
from accuracy_booster.exported import FORMATS, About, open_file

SUFFIXES = (".onnx", ".xml")

pytestmark = only_in_own_process


@pytest.fixture(scope="module", params=[("ab", ".onnx"), ("ab", ".xml"), ("se", ".onnx")])
def files(request, short_run, tmp_path_factory):
    """The float32 and the int8 file of a run."""
    block, suffix = request.param
    run = short_run(block)
    network = ab.load_run(run)
    folder = tmp_path_factory.mktemp("files")
    path = write_float(network, folder / f"float{suffix}", about_of(network, block))
    batches = calibration_batches(open_file(path), opened(run, "train"), 64)
    return path, quantise(path, batches).save(folder / f"int8{suffix}")


@pytest.fixture(scope="module")
def test_images(short_run):
    """The test digits, normalised, float32 [N, 1, 8, 8], and their classes, [N]."""
    data = opened(short_run("ab"), "test").data
    known = data.loaders["test"].dataset.images
    pixels = (known.images.float() / 255 - data.mean[0]) / data.std[0]
    return pixels.numpy(), known.labels.numpy()


def test_int8_is_nearly_as_right_and_not_the_same(files, test_images):
    images, labels = test_images
    wanted, found = (open_file(path, threads=1)(images) for path in files)
    right = [(outputs.argmax(1) == labels).mean() for outputs in (wanted, found)]
    assert found.dtype == np.float32
    assert right[0] > 0.8
    assert right[1] > right[0] - 0.03
    error = np.sqrt(((found - wanted) ** 2).mean()) / wanted.std()
    assert 1e-4 < error < 0.15


def test_any_number_of_images(files, test_images):
    int8, images = open_file(files[1], threads=1), test_images[0]
    whole = int8(images[:7])
    assert whole.shape == (7, 10)
    np.testing.assert_allclose(int8(images[:1]), whole[:1], atol=1e-4)


def test_the_texts_survive_and_tell_the_precision(files):
    before, after = (open_file(path).about for path in files)
    assert before.metrics == {"test_top1": 12.5}
    assert after == replace(before, metrics={**before.metrics, "precision": "int8"})


def test_the_weights_take_little_more_than_a_quarter(files):
    sizes = [bytes_of_weights(path) for path in files]
    assert sizes[1] < 0.35 * sizes[0]


def bytes_of_weights(path):
    if path.suffix == ".xml":
        return path.with_suffix(".bin").stat().st_size
    import onnx

    return sum(len(value.raw_data) for value in onnx.load(path).graph.initializer)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Float32 files of a network with a gate, and what they say of themselves."""
    torch.manual_seed(0)
    network = ab.create_model("resnet8", block="ab", in_chans=1, num_classes=4).eval()
    about = About("resnet8", "ab", tuple("abcd"), (1, 8, 8), (0.5,), (0.25,))
    folder = tmp_path_factory.mktemp("untrained")
    return {end: write_float(network, folder / f"n{end}", about) for end in SUFFIXES}


IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()


def test_gates_stay_in_float_in_onnx(untrained):
    nodes = quantise(untrained[".onnx"], [IMAGES]).model.graph.node
    maker = {output: node for node in nodes for output in node.output}
    sigmoids = [node for node in nodes if node.op_type == "Sigmoid"]
    assert len(sigmoids) == 3
    for node in sigmoids:
        assert maker[node.input[0]].op_type not in ("QuantizeLinear", "DequantizeLinear")
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert {maker[node.input[1]].op_type for node in convolutions} == {"DequantizeLinear"}


def test_gates_stay_in_float_in_openvino(untrained):
    ops = quantise(untrained[".xml"], [IMAGES]).model.get_ordered_ops()
    sigmoids = [op for op in ops if op.get_type_name() == "Sigmoid"]
    assert len(sigmoids) == 3
    for op in sigmoids:
        readers = [given.get_node() for given in op.output(0).get_target_inputs()]
        ends = [op.input_value(0).get_node(), *readers]
        assert "FakeQuantize" not in {end.get_type_name() for end in ends}
    convolutions = [op for op in ops if op.get_type_name() == "Convolution"]
    read = {op.input_value(0).get_node().get_type_name() for op in convolutions}
    assert read == {"FakeQuantize"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_printed(untrained, suffix, tmp_path, capfd):
    quantise(untrained[suffix], [IMAGES]).save(tmp_path / f"int8{suffix}")
    assert capfd.readouterr() == ("", "")


def test_images_that_do_not_do(untrained):
    file = untrained[".onnx"]
    with one_line("0 calibration images are too few"):
        quantise(file, [])
    with one_line("15 calibration images are too few"):
        quantise(file, [IMAGES[:9], IMAGES[:6]])
    with one_line(r"float64 \[16, 1, 8, 8\].*takes float32 \[N, 1, 8, 8\]"):
        quantise(file, [IMAGES.astype(np.float64)])
    with one_line(r"float32 \[16, 1, 4, 8\].*takes float32 \[N, 1, 8, 8\]"):
        quantise(file, [IMAGES[:, :, ::2]])


def test_files_that_do_not_do(untrained, tmp_path):
    made = quantise(untrained[".onnx"], [IMAGES])
    with one_line("must end with .onnx: quantising does not change the format"):
        made.save(tmp_path / "n.xml")
    with one_line("is an int8 file already"):
        quantise(made.save(tmp_path / "n.onnx"), [IMAGES])
    with one_line("formats onnx and openvino, not torch.*torchao"):
        quantise(tmp_path / "n.pt2", [IMAGES])


def test_a_missing_package_is_named(monkeypatch):
    found = quantising.find_spec
    gone = {"nncf", "sympy"}
    monkeypatch.setattr(quantising, "find_spec", lambda n: None if n in gone else found(n))
    with one_line("pip install nncf, or pip install 'accuracy-booster"):
        check_int8(FORMATS["openvino"])
    with one_line("pip install sympy, or pip install 'accuracy-booster"):
        check_int8(FORMATS["onnx"])
