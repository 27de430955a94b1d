"""Networks in the three formats compute in other runtimes what they compute in torch."""

# N images, C channels, H W space

from __future__ import annotations

import pytest
import torch
from support.networks import randomise
from torch import nn

import accuracy_booster as ab
from accuracy_booster.deploy.writing import check_opset, converted
from accuracy_booster.exported import FORMATS, About, open_file

SIZE = (3, 32, 32)
ABOUT = About("net", "ab", ('a "quoted" name', "ü <b>"), SIZE, (0.5,) * 3, (0.2,) * 3)
# aoti and executorch have tests of their own, on smaller networks
KINDS = pytest.mark.parametrize("kind", ["onnx", "torch", "openvino"])


def written(model, kind, file, size=SIZE, **how):
    """The session of a file that is written from a model."""
    file = file / f"net{FORMATS[kind].suffix}"
    converted(model, FORMATS[kind], size, **how)(file, ABOUT)
    return open_file(file)


def assert_same(session, model, size=SIZE, counts=(1, 2, 5)):
    for count in counts:
        x = torch.randn(count, *size)
        with torch.no_grad():
            expected = model.double()(x.double())
        found = torch.from_numpy(session(x.numpy())).double()
        limit = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("name", "block", "side", "kind"),  # a file of the format torch is the program itself
    [
        ("resnet8", "ab", 32, "onnx"),
        ("resnet8", "ab", 32, "openvino"),
        ("resnet8", "cbam", 16, "onnx"),  # not folded
        ("wrn10_2", "se", 16, "openvino"),  # norms before convolutions
        ("torchvision/shufflenet_v2_x0_5", "ab_plus", 64, "onnx"),  # before a concatenation
        ("torchvision/shufflenet_v2_x0_5", "ab", 64, "openvino"),
        ("timm/mobilenetv3_small_050", "eca", 32, "onnx"),  # after its own SE
    ],
)
def test_a_file_computes_what_the_network_does(tmp_path, name, block, side, kind):
    torch.manual_seed(0)
    size = (3, side, side)
    model = randomise(ab.create_model(name, block=block, num_classes=7), spread=0.2).eval()
    folded = ab.fold(model, example=torch.zeros(2, *size), kernel="off")
    session = written(folded, kind, tmp_path, size)
    assert session.about == ABOUT
    assert_same(session, model, size)


@KINDS
def test_no_path_of_this_machine_is_in_a_file(tmp_path, kind):
    written(ab.create_model("resnet8", block="ab").eval(), kind, tmp_path)
    source = ab.__file__.rpartition("/")[0].encode()
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert source not in content
        assert b"site-packages" not in content


class OfFixedBatch(nn.Module):
    """Takes three images and no other number."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, 4)

    def forward(self, x):
        return self.fc(x.reshape(3, -1))


@KINDS
def test_a_network_of_a_fixed_batch(tmp_path, kind):
    model = OfFixedBatch().eval()
    with pytest.raises(ValueError, match="this OfFixedBatch cannot be exported as"):
        written(model, kind, tmp_path)
    session = written(model, kind, tmp_path, batch=3)
    assert_same(session, model, counts=(3,))


class ThatDependsOnData(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


@KINDS
def test_an_error_is_one_line_without_pages_before_it(tmp_path, capfd, kind):
    with pytest.raises(ValueError, match="this ThatDependsOnData cannot be exported") as error:
        written(ThatDependsOnData().eval(), kind, tmp_path)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_logits_among_other_outputs(tmp_path):
    """Networks of transformers give an object, and others a tuple."""

    class Pair(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            y = self.network(x)
            return y, y.sum()

    inner = ab.create_model("resnet8").eval()
    assert_same(written(Pair(inner).eval(), "onnx", tmp_path), inner)


@pytest.mark.parametrize("opset", [18, 21])
def test_opsets(tmp_path, opset):
    import onnx

    model = ab.create_model("resnet8", block="ab").eval()
    session = written(model, "onnx", tmp_path, opset=opset)
    assert onnx.load(session.path).opset_import[0].version == opset
    assert_same(session, model)


@pytest.mark.parametrize("opset", [17, 99, "20", True])
def test_wrong_opsets(opset):
    with pytest.raises(ValueError, match="must be a whole number from 18 to"):
        check_opset(opset, FORMATS["onnx"])


def test_an_opset_is_of_onnx():
    check_opset(None, FORMATS["torch"])
    with pytest.raises(ValueError, match="is for the format onnx"):
        check_opset(18, FORMATS["torch"])


def test_another_runtime_knows_the_names(tmp_path):
    """Input and output have names, and the batch is a dimension of any size."""
    import onnxruntime

    session = written(ab.create_model("resnet8").eval(), "onnx", tmp_path)
    file = onnxruntime.InferenceSession(session.path)
    (given,), (found,) = file.get_inputs(), file.get_outputs()
    assert (given.name, given.shape) == ("images", ["batch", 3, 32, 32])
    assert found.name == "logits"
