"""Tiny finished runs that are published, and what a fresh process makes of their directories."""

# N batch, C channels, H W space

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import accuracy_booster as ab

OPTIONS = {"epochs": 1, "batch_size": 8, "device": "cpu", "compile": "off", "seed": 3}
# names that Markdown, YAML, HTML and shells could misread
ODD_CLASSES = ('a: "b"', "don't | stop", "日本語", "```", "- x", "<script>", "null")
ODD_DATA = 'it\'s "odd": | ünï <b> `x` #1'


def small_run(data, output, **options):
    """A run of an epoch on the images of a folder, which are made 32x32."""
    given = {"model": "timm/test_resnet", "image_size": 32, "preset": "cifar_resnet", **options}
    ab.train(**{**OPTIONS, **given}, data=str(data), output=str(output))
    return Path(output)


def network_and_images(run, **options) -> tuple[nn.Module, torch.Tensor]:
    """A run's network in eval mode, contiguous, and the same two images for every process."""
    network = ab.load_run(run, **options).to(memory_format=torch.contiguous_format)
    size = network.pretrained_cfg["input_size"]
    return network, torch.randn(2, *size, generator=torch.Generator().manual_seed(0))


def logits_in_a_fresh_process(source, images, *, register: bool) -> torch.Tensor:
    """What `timm.create_model(source, pretrained=True)` gives there, for images [N, C, H, W].

    Raises:
        subprocess.CalledProcessError: if it fails; `stderr` holds the traceback.
    """
    folder = Path(source.removeprefix("local-dir:"))
    images_file, logits_file = folder.parent / "images.pt", folder.parent / "logits.pt"
    torch.save(images, images_file)
    lines = ["import sys, timm, torch", "torch.set_num_threads(1)"]
    lines += ["import accuracy_booster as ab; ab.integrations.timm.register()"] * register
    lines += [
        f"model = timm.create_model({source!r}, pretrained=True).eval()",
        f"with torch.no_grad(): logits = model(torch.load({str(images_file)!r}))",
        f"torch.save(logits, {str(logits_file)!r})",
        f"assert ('accuracy_booster' in sys.modules) is {register}",
    ]
    code = "\n".join(lines)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return torch.load(logits_file)
