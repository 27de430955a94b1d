"""Boosted networks on a GPU in every precision and memory layout, compared with float64.

A fused or folded network is compared with the unfused one in the same precision: fusing may not
take it much further from the float64 result than that one is. Without a GPU the smallest cases run
on the CPU.

By chance a value near zero can round to the other side before a ReLU, and then all gradients before
it differ by a thousandth. A gate's linear layer, which a norm follows, has gradients that cancel
almost wholly. Both happen to the unfused network as to the fused one. So each case has three seeds,
and a mistake is what is there with each of them.
"""

# N batch, C channels, H W space

from __future__ import annotations

import contextlib
import copy
from statistics import median

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import accuracy_booster as ab
from accuracy_booster.models.preact_cifar import PreActResNet

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
needs_gpu = pytest.mark.skipif(not CUDA, reason="needs a GPU")

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
SIXTEEN = {"bf16": torch.bfloat16, "fp16": torch.float16}
SEEDS = range(3)
# by how much a result may be off, of its norm, beyond thrice what the unfused network is off
FLOOR = {"fp32": 2e-6, "bf16": 4e-3, "fp16": 5e-4}
# the block, and (batch, height, width); the maps of the last stages are 1x1 to 4x4
LARGE = {
    "resnet20": ("ab", (8, 32, 32)),
    "preact20": ("ab", (8, 32, 32)),  # scales the weights of each branch's last convolution
    "resnet50": ("ab_plus", (6, 96, 96)),
    "torchvision/resnet50": ("ab", (6, 64, 80)),
    "timm/regnety_002": ("se", (6, 97, 65)),
    "torchvision/mobilenet_v2": ("ab", (6, 96, 64)),
}
SMALL = {"resnet8": ("ab", (4, 16, 16)), "wrn10_1": ("eca", (4, 17, 9))}
NETWORKS = LARGE if CUDA else SMALL
PRECISIONS = ["fp32", "bf16", "fp16"] if CUDA else ["fp32"]

networks = pytest.mark.parametrize("name", NETWORKS)
precisions = pytest.mark.parametrize("precision", PRECISIONS)
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def network(name, layout="nhwc"):
    """A boosted network in float32 with norms far from the identity, so that no mistake hides."""
    block, (_, height, width) = (NETWORKS | SMALL)[name]
    if name == "preact20":
        model = ab.boost(PreActResNet(20), block, example=torch.zeros(1, 3, height, width))
    else:
        model = ab.create_model(name, block=block, num_classes=10, input_size=(3, height, width))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.running_var):
                    torch.nn.init.uniform_(tensor, 0.7, 1.3)
                for tensor in (module.bias, module.running_mean):
                    torch.nn.init.normal_(tensor, std=0.2)
    return model.to(DEVICE, memory_format=LAYOUTS[layout])


def images(name, layout="nhwc", n=None):
    batch, height, width = (NETWORKS | SMALL)[name][1]
    x = torch.randn(n or batch, 3, height, width, device=DEVICE)
    return x.contiguous(memory_format=LAYOUTS[layout])


def cast(precision):
    """Mixed precision, if it is one."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(DEVICE, dtype=SIXTEEN[precision])


def step(model, x, precision="fp32", forward=None):
    """{name: tensor} of a training step: logits, gradients, and buffers after it."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    labels = torch.arange(len(x), device=x.device) % 10
    with cast(precision):
        logits = (model if forward is None else forward)(x)
    loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)
    scale = 256.0  # as with a GradScaler, so that float16 holds the gradients
    (loss * scale).backward()
    found = {"logits": logits.detach(), "input": x.grad / scale}
    found |= {f"grad {n}": p.grad / scale for n, p in model.named_parameters()}
    return found | {n: b.clone() for n, b in model.named_buffers() if b.is_floating_point()}


def error(found, exact, least=0.0):
    """The error relative to the norm, which counts as `least` if it is smaller."""
    assert found.isfinite().all()
    return float((found.double() - exact).norm() / max(float(exact.norm()), least, 1e-12))


def errors(values, exact):
    """{name: relative error} of each value, and of all gradients together."""
    grads = [name for name in exact if name.startswith("grad ")]
    least = 1e-2 * max([float(exact[name].norm()) for name in grads], default=0.0)
    assert values.keys() == exact.keys()
    found = {n: error(values[n], v, least if n in grads else 0.0) for n, v in exact.items()}
    if grads:
        whole = [torch.cat([v[n].double().flatten() for n in grads]) for v in (values, exact)]
        found["all gradients"] = error(*whole)
    return found


def assert_no_worse(case, precision):
    """Each value that a network found is as near to float64 as that of the unfused network.

    `case()` gives the values (found, unfused, exact). The best of three seeds is compared with the
    median of the unfused network's.
    """
    own, unfused = [], []
    for seed in SEEDS:
        torch.manual_seed(seed)
        found, other, exact = case()
        own.append(errors(found, exact))
        unfused.append(errors(other, exact))
    worse = []
    for name in own[0]:
        best, usual = min(e[name] for e in own), median(e[name] for e in unfused)
        if not best <= 3 * usual + FLOOR[precision]:
            worse.append(f"{name}: {best:.2e}, unfused {usual:.2e}")
    assert not worse, "\n".join(worse)


def training_cases(name, precision, layout, compile=None, recompute=False):
    """`case()` of a step in training mode, and of one with running statistics."""

    def call(model):
        """As it is, or recomputed for the gradient, which moves running statistics twice."""
        if not recompute:
            return model
        return lambda x: checkpoint(model, x, use_reentrant=False)

    def case(training):
        unfused, x = network(name, layout), images(name, layout)
        fused = ab.fuse(copy.deepcopy(unfused), example=x[:1])
        assert ab.fast_path(fused).taken > 0
        exact = copy.deepcopy(unfused).double()
        for model in (unfused, fused, exact):
            model.train(training)
        forward = fused if compile is None else torch.compile(fused, dynamic=False, **compile)
        return (
            step(fused, x, precision, call(forward)),
            step(unfused, x, precision, call(unfused)),
            step(exact, x.double(), "fp32", call(exact)),
        )

    return [lambda: case(True), lambda: case(False)]
