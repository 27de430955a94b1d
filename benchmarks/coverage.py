"""Boost every convolutional architecture of timm and torchvision and check every promise.

    python benchmarks/coverage.py [--only PATTERN] [--max_parameters 60] [--minutes 60] [--output F]

For each architecture of residual_blocks.json (without weights): all norm affines, running
statistics, skip gains and layer scales are randomised first, since many branches start at zero and
would hide any error. Writes coverage.json beside the table after every architecture; an
architecture that is in it already is not run again.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import gc
import json
import math
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from count_residual_blocks import build
from torch import nn

import accuracy_booster as ab

HERE = Path(__file__).parent
SIZE = 96


def randomise(model: nn.Module, x: torch.Tensor) -> None:
    """Give every 1-D parameter and every gain a value of its own, then fit running statistics."""
    for parameter in model.parameters():
        if parameter.ndim <= 1 or parameter.numel() == max(parameter.shape):
            scale = parameter.detach().abs().max() < 1e-3
            nn.init.normal_(parameter, 0.3 if scale else 1.0, 0.1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.2)
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.1
            if module.running_var is not None:
                module.running_mean += 0.1 * torch.randn_like(module.running_mean)
                module.running_var *= 0.8 + 0.4 * torch.rand_like(module.running_var)


def first(output) -> torch.Tensor:
    while not isinstance(output, torch.Tensor):
        output = output[0]
    return output


class Wrong(Exception):
    pass


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise Wrong(what)


def check(name: str, expected: int, size: int = SIZE) -> dict:
    """{"result": boosted, refused or wrong, ...} for one architecture."""
    torch.manual_seed(0)
    model = build(name)
    x = torch.randn(2, 3, size, size)
    randomise(model, x)
    state = copy.deepcopy(model.state_dict())

    def outputs(network: nn.Module, train: bool) -> torch.Tensor:
        network.load_state_dict(state, strict=False)
        torch.manual_seed(1)
        with torch.no_grad():
            return first(network.train(train)(x))

    y_eval, y_train = outputs(model, False), outputs(model, True)
    outputs(model, False)
    expect(bool(y_eval.isfinite().all()), "the base's own output is not finite: no check possible")
    start = time.perf_counter()
    try:
        planned = ab.plan(model, "ab", example=x[:1])
    except ValueError as e:
        kind = "refused" if expected else "rightly refused"
        return {"result": kind, "expected": expected, "sites": 0, "reason": str(e), "once": True}
    seconds = time.perf_counter() - start
    sites = len(planned.gates)
    found = {"expected": expected, "sites": sites, "plan_seconds": round(seconds, 3)}
    boosted = ab.boost(copy.deepcopy(model), "ab", example=x[:1], init="identity")
    keys = [k for k in boosted.state_dict() if ".recalibrate." not in f".{k}"]
    expect(keys == list(state), "a name of the base has changed")
    expect(torch.equal(outputs(boosted, False), y_eval), "identity differs in eval mode")
    expect(torch.equal(outputs(boosted, True), y_train), "identity differs in training mode")
    for _ in range(4):  # stochastic depth drops branches of a pass
        first(boosted.train()(x)).square().mean().backward()
    grads = [
        p.grad for n, p in boosted.named_parameters() if n.endswith("0.bn.weight") and "recal" in n
    ]
    expect(all(g is not None and bool(g.isfinite().all()) for g in grads), "a gate got no gradient")
    expect(all(float(g.abs().sum()) > 0 for g in grads), "a gate's gradient is zero")
    boosted.zero_grad(set_to_none=True)
    check_once(model, boosted, outputs)
    for site in ab.surgery.attached(boosted).values():
        nn.init.normal_(site[0].bn.weight, 0, 1)
        nn.init.normal_(site[0].bn.bias, 0, 1)
    changed = outputs(boosted, False)
    expect(not torch.equal(changed, y_eval), "gates that are no identity change nothing")
    with ab.disabled(boosted):
        expect(torch.equal(outputs(boosted, False), y_eval), "disabled is not the base")
    with tempfile.TemporaryDirectory() as folder:
        ab.save(boosted, folder)
        model.load_state_dict(state)
        again = ab.load(model, folder)
    expect(torch.equal(outputs(again, False), changed), "saved and loaded gates differ")
    ab.unboost(boosted)
    expect(list(boosted.state_dict()) == list(state), "unboost left or lost a name")
    expect(torch.equal(outputs(boosted, False), y_eval), "unboost is not the base")
    result = "boosted" if sites == expected else "boosted, other number"
    return {"result": result, **found, "once": True}  # the check that each gate acts once was made


def check_once(model: nn.Module, boosted: nn.Module, outputs: Callable) -> None:
    """With every gate at 0.5 the network is its base with those operands halved, once."""
    gates = ab.surgery.attached(boosted)
    for gate in gates.values():  # 2 sigmoid(log 1/3) = 0.5
        nn.init.zeros_(gate[0].bn.weight)
        nn.init.constant_(gate[0].bn.bias, -math.log(3))
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda m, args, y: y / 2) for name in gates
    ]
    expected, got = outputs(model, False), outputs(boosted, False)
    for hook in hooks:
        hook.remove()
    error = float((got - expected).abs().max() / expected.abs().max())
    expect(error < 1e-3, f"gates at 0.5 do not act exactly once: {error:.2g} of the output")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="a pattern, such as 'timm/resnet*'")
    parser.add_argument("--max_parameters", type=float, default=60, help="in millions")
    parser.add_argument("--minutes", type=float, default=60, help="stop after so long")
    parser.add_argument("--output", type=Path, default=HERE / "coverage.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    counts = json.loads((HERE / "residual_blocks.json").read_text())
    path = arguments.output
    done = json.loads(path.read_text()) if path.exists() else {}
    end = time.monotonic() + 60 * arguments.minutes
    for name, expected in counts.items():
        if name in done or not fnmatch.fnmatch(name, arguments.only) or time.monotonic() > end:
            continue
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in build(name).parameters()) / 1e6
        except NotImplementedError:
            size = 0
        if size > arguments.max_parameters:
            continue
        try:
            for size in (SIZE, 256, 299):  # some want more than 96, or a multiple of it
                try:
                    done[name] = check(name, expected, size)
                    break
                except (AssertionError, RuntimeError):
                    if size == 299:
                        raise
        except Wrong as e:
            done[name] = {"result": "wrong", "expected": expected, "reason": str(e)}
        except Exception as e:  # the architecture cannot be run at this size, or a bug of ours
            reason = f"{type(e).__name__}: {e}".splitlines()[0]
            done[name] = {"result": "error", "expected": expected, "reason": reason}
        print(name, done[name], flush=True)
        path.write_text(json.dumps(dict(sorted(done.items())), indent=0) + "\n")
        gc.collect()
    residual = [row for row in done.values() if row["expected"]]
    right = sum(row["result"] == "boosted" for row in residual)
    print(Counter(row["result"] for row in done.values()))
    print(
        f"{right} of {len(residual)} with residual branches boosted at the right number of sites;"
    )
    print(f"{len(counts) - len(done)} of {len(counts)} not run")


if __name__ == "__main__":
    main()
