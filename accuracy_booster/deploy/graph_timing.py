"""How long the graph forms of one site take in a runtime, beside one another."""

# N batch, C channels in, K channels out, H W space

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

# what a runtime takes to be measured, as Python packages
NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torch": ("torch",),
}
BLOCKS = 3
ROUNDS = (5, 40)  # at least, at most

Run = Callable[[np.ndarray], object]


class Around(nn.Module):
    """A site as it stands in a network: some blocks in a row, x[N, C, H, W] -> 16 channels.

    Each block is a convolution, a ReLU, a copy of the site with weights of its own, the sum, and
    the ReLU. So a runtime can join with the site's operators what it joins in a network, each sum
    reads what the block before wrote in the layout of that form, and the weights are not in the
    cache. A site that changes the map's size is one block.

    Args:
        site: a module [N, C, H, W] -> [N, K, H', W'].
        given, gives: the shapes (C, H, W) and (K, H', W').
        followed_by: "" for a site without a sum.
    """

    def __init__(
        self,
        site: nn.Module,
        given: tuple[int, ...],
        gives: tuple[int, ...],
        followed_by: str,
    ):
        super().__init__()
        blocks = BLOCKS if given[1:] == gives[1:] else 1
        stride = max(1, round(given[1] / gives[1]))
        self.followed_by = followed_by
        self.first = nn.Conv2d(given[0], given[0] if blocks == 1 else gives[0], 1)
        self.shortcut = nn.Conv2d(given[0], gives[0], 1, stride=stride) if blocks == 1 else None
        inside = given[0] if blocks == 1 else gives[0]
        self.before = nn.ModuleList(nn.Conv2d(inside, given[0], 1) for _ in range(blocks))
        self.sites = nn.ModuleList(copy.deepcopy(site) for _ in range(blocks))
        self.after = nn.Conv2d(gives[0], 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        for before, site in zip(self.before, self.sites, strict=True):
            z = site(torch.relu(before(x)))
            if self.followed_by:
                z = z + (x if self.shortcut is None else torch.relu(self.shortcut(x)))
            x = torch.relu(z)
        return self.after(x)


def times_of(
    networks: Mapping[str, nn.Module],
    runtime: str,
    shape: tuple[int, ...],
    batches: tuple[int, ...],
    seconds: float,
) -> dict[int, dict[str, float]]:
    """{batch size: {name: the network's time over that of the first}}, medians of rounds.

    Args:
        networks: by name; in each round each runs once.
        runtime: a key of `NEEDS`.
        shape: (C, H, W) of one input.
        batches: batch sizes.
        seconds: for the rounds of one batch size.
    """
    runs = {name: _OPENERS[runtime](network, shape) for name, network in networks.items()}
    generator = np.random.default_rng(0)
    found = {}
    for batch in batches:
        x = generator.standard_normal((batch, *shape), dtype=np.float32)
        for run in runs.values():
            run(x)
        rounds = _rounds(runs, x, seconds)
        first = rounds[next(iter(runs))]
        found[batch] = {
            name: statistics.median(a / b for a, b in zip(own, first, strict=True))
            for name, own in rounds.items()
        }
    return found


def _rounds(runs: Mapping[str, Run], x: np.ndarray, seconds: float) -> dict[str, list[float]]:
    """The seconds of each run in each round."""
    least, most = ROUNDS
    rounds: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    for number in range(most):
        if number >= least and time.perf_counter() > end:
            break
        for name, run in runs.items():
            start = time.perf_counter()
            run(x)
            rounds[name].append(time.perf_counter() - start)
    return rounds


def _dynamic(network: nn.Module, shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    example = torch.zeros(2, *shape)
    return torch.export.export(
        network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )


def _open_onnx(network: nn.Module, shape: tuple[int, ...]) -> Run:
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(_dynamic(network, shape), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    # threads that spin after a run would take a core from the next session's
    options.add_session_config_entry("session.force_spinning_stop", "1")
    graph = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def _open_openvino(network: nn.Module, shape: tuple[int, ...]) -> Run:
    import openvino

    model = openvino.convert_model(_dynamic(network, shape))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: request.infer({0: x})


def _open_torch(network: nn.Module, shape: tuple[int, ...]) -> Run:
    program = _dynamic(network, shape).module()

    def run(x: np.ndarray) -> object:
        with torch.no_grad():
            return program(torch.from_numpy(x))

    return run


_OPENERS = {"onnx": _open_onnx, "openvino": _open_openvino, "torch": _open_torch}
