"""The graph forms of folded gates: same outputs in each runtime, and what a file then holds."""

# N batch, C channels, H W space

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.networks import randomise
from torch import nn

import accuracy_booster as ab
from accuracy_booster.deploy import graph_forms
from accuracy_booster.deploy.graph_forms import AS_FOLDED, exportable, forms_of

CLOSE = 2e-5  # of the largest output
SHAPE = (3, 12, 10)


class Block(nn.Module):
    """A bottleneck, whose last kernel may be larger, with or without a sum."""

    def __init__(self, kernel=1, sums=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(32, 16, 1), nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, kernel, padding=kernel // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.head = nn.Conv2d(32, 5, 1)
        self.sums = sums

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.head(F.relu(y + x if self.sums else y)).mean((2, 3))


def folded(block="ab", **options):
    """A folded network with one gate at `bn2`, and images."""
    torch.manual_seed(0)
    network = ab.boost(Block(**options), block, where=["bn2"])
    network = randomise(network).eval()
    x = torch.randn(3, *SHAPE)
    return ab.fold(network, kernel="off", example=x[:1]), x


def each_form(network, runtime):
    """The network in each form that its gate may have, by the form's name."""
    example = torch.randn(1, *SHAPE)
    (site,) = graph_forms._sites(network, example)
    found = {}
    for name, build in graph_forms._forms(site, runtime).items():
        form = exportable(network, runtime, example, measure=False)
        form.set_submodule(site.name, build())
        found[name] = form
    return found


def exported(network):
    """A program with a dynamic batch."""
    example = torch.randn(2, *SHAPE)
    batch = torch.export.Dim("batch")
    return torch.export.export(network, (example,), dynamic_shapes=({0: batch},))


def in_onnxruntime(network, folder=None):
    """What runs a network in onnxruntime; its optimised graph goes into the folder."""
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(exported(network), dynamo=True, verbose=False)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if folder is not None:
        options.optimized_model_filepath = str(folder / "optimised.onnx")
    graph = program.model_proto.SerializeToString()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x.numpy()})[0]


def in_openvino(network):
    ov = pytest.importorskip("openvino")
    model = ov.convert_model(exported(network))
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: compiled(x.numpy())[0]


def in_torch(network):
    program = exported(network).module()
    return lambda x: program(x).detach().numpy()


RUNS = {"onnx": in_onnxruntime, "openvino": in_openvino, "torch": in_torch}


def assert_same(found, expected):
    expected = expected.detach().numpy()
    assert np.abs(found - expected).max() <= CLOSE * np.abs(expected).max()


@pytest.mark.parametrize("runtime", RUNS)
@pytest.mark.parametrize("block", ["ab", "se"])
def test_each_form_is_the_folded_network_for_any_batch(runtime, block):
    network, x = folded(block)
    forms = each_form(network, runtime)
    assert len(forms) >= 2
    for form in forms.values():
        run = RUNS[runtime](form)
        for n in (1, 3):
            assert_same(run(x[:n]), network(x[:n]))


@pytest.mark.parametrize("block", ["ab", "ab_plus", "se", "eca", "ge_theta_minus"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("sums", [True, False])
def test_each_form_computes_the_same_in_torch(block, kernel, sums):
    network, x = folded(block, kernel=kernel, sums=sums)
    expected = network(x)
    for runtime in RUNS:
        for form in each_form(network, runtime).values():
            assert_same(form(x).detach().numpy(), expected)


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_gate_of_means_moves_to_the_other_side(side, monkeypatch):
    monkeypatch.setattr("accuracy_booster.fastpath.folding.choose_form", lambda *a, **k: side)
    network, x = folded("ab")
    assert network.conv2.form == side
    forms = each_form(network, "openvino")
    kinds = ("reduced", "pooled", "convolutions")
    # on the input's side the gate is a matrix, which is no product of single channels
    expected = {f"{s}, {k}, broadcast" for s in ("input", "output") for k in kinds}
    assert set(forms) == expected - {"input, pooled, broadcast"}
    assert next(iter(forms)).startswith(side)
    for form in forms.values():
        assert_same(form(x).detach().numpy(), network(x))


def test_a_matrix_is_not_taken_for_a_gate_of_single_channels(monkeypatch):
    monkeypatch.setattr("accuracy_booster.fastpath.folding.choose_form", lambda *a, **k: "input")
    network, x = folded("se")
    forms = each_form(network, "openvino")
    assert {name.split(", ")[0] for name in forms} == {"input"}
    for form in forms.values():
        assert_same(form(x).detach().numpy(), network(x))


def test_a_gate_after_an_activation_has_a_form_too():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    network = randomise(ab.boost(network, "ab", where=["1"])).eval()
    x = torch.randn(2, *SHAPE)
    network = ab.fold(network, kernel="off", example=x)
    form = exportable(network, "onnx", x, measure=False)
    assert [f.form for f in forms_of(form)] == ["output, convolutions, broadcast"]
    assert_same(form(x).detach().numpy(), network(x))


def test_a_map_keeps_onnxruntime_in_its_blocked_layout(tmp_path):
    onnx = pytest.importorskip("onnx")
    forms = each_form(folded()[0], "onnx")
    reorders = {}
    for name, form in forms.items():
        in_onnxruntime(form, tmp_path)
        graph = onnx.load(tmp_path / "optimised.onnx").graph
        reorders[name] = sum(node.op_type.startswith("Reorder") for node in graph.node)
    if not any(reorders.values()):
        pytest.skip("onnxruntime has no blocked layout on this machine")
    # the first convolution and the mean at the end are in the plain layout anyhow
    assert {reorders[f"{s}, convolutions, map"] for s in ("input", "output")} <= {0, 1, 2}
    assert reorders["input, convolutions, broadcast"] > reorders["input, convolutions, map"]


def test_measured_forms_are_of_least_time_in_the_mean():
    pytest.importorskip("openvino")
    network, x = folded()
    form = exportable(network, "openvino", x, batches=(1, 2), seconds=0)
    (told,) = forms_of(form)
    assert told.name == "conv2"
    default = next(iter(told.of_default))
    assert told.of_default[default] == {1: 1, 2: 1}
    means = {name: sum(by.values()) / 2 for name, by in told.of_default.items()}
    best = min(means, key=means.get)
    assert told.form == (best if means[best] < 1 - graph_forms.GAIN else default)
    assert_same(form(x).detach().numpy(), network(x))


def test_the_folded_network_does_not_change():
    network, x = folded()
    before = {name: type(m) for name, m in network.named_modules()}
    form = exportable(network, "onnx", x, measure=False)
    assert {name: type(m) for name, m in network.named_modules()} == before
    assert forms_of(network) == []
    assert type(form.conv2) is not type(network.conv2)


def test_without_the_runtime_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(graph_forms, "find_spec", lambda package: None)
    network, x = folded()
    (told,) = forms_of(exportable(network, "onnx", x))
    assert told.of_default == {}


def test_gates_that_are_not_folded_stay():
    network, x = folded("cbam")
    form = exportable(network, "onnx", x, measure=False)
    assert forms_of(form) == []
    assert_same(form(x).detach().numpy(), network(x))


def test_torch_keeps_the_folded_module_unless_another_is_faster():
    network, x = folded()
    (told,) = forms_of(exportable(network, "torch", x, measure=False))
    assert told.form == AS_FOLDED


def test_other_precisions_stay_as_folded():
    network, x = folded()
    form = exportable(network.double(), "onnx", x.double(), measure=False)
    assert forms_of(form) == []


def test_bad_arguments():
    network, x = folded()
    with pytest.raises(ValueError, match="tensorrt"):
        exportable(network, "tensorrt", x)
    with pytest.raises(ValueError, match=r"call eval\(\) first"):
        exportable(network.train(), "onnx", x)
