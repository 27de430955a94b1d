"""Count residual branches from the classes of timm's and torchvision's blocks, not from data flow.

    python benchmarks/count_residual_blocks.py      # writes benchmarks/residual_blocks.json

The denominator of `coverage.py`. A rule was read off each block's own code: the class, in the file
it is defined in, and when it adds (or, in ShuffleNet, concatenates) a shortcut to a branch with a
convolution. Architectures with a residual block that has no rule are left out, and listed.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

TIMM_FAMILIES = [
    "byobnet",
    "convmixer",
    "convnext",
    "cspnet",
    "densenet",
    "dla",
    "dpn",
    "efficientnet",
    "edgenext",
    "fasternet",
    "fastvit",
    "ghostnet",
    "hardcorenas",
    "hgnet",
    "hrnet",
    "inception_next",
    "inception_resnet_v2",
    "inception_v3",
    "inception_v4",
    "mambaout",
    "mobilenetv3",
    "nfnet",
    "regnet",
    "repghost",
    "repvit",
    "res2net",
    "resnest",
    "resnet",
    "resnetv2",
    "rexnet",
    "selecsls",
    "senet",
    "sknet",
    "starnet",
    "tresnet",
    "vgg",
    "vovnet",
    "xception",
    "xception_aligned",
]
POOLFORMERS = "poolformer*"


def always(block: nn.Module) -> bool:
    return True


def when(attribute: str):
    return lambda block: bool(getattr(block, attribute))


def has(attribute: str):
    return lambda block: getattr(block, attribute) is not None


# (file, class): whether this block has a residual branch
RULES = {
    **{("resnet", name): always for name in ("BasicBlock", "Bottleneck")},
    **{
        ("senet", name): always
        for name in ("SEBottleneck", "SEResNetBottleneck", "SEResNeXtBottleneck", "SEResNetBlock")
    },
    ("res2net", "Bottle2neck"): always,
    ("resnest", "ResNestBottleneck"): always,
    **{("sknet", f"SelectiveKernel{name}"): always for name in ("Basic", "Bottleneck")},
    **{("tresnet", name): always for name in ("BasicBlock", "Bottleneck")},
    **{("dla", name): always for name in ("DlaBasic", "DlaBottleneck", "DlaBottle2neck")},
    **{
        ("resnetv2", name): always
        for name in ("PreActBottleneck", "PreActBasic", "Bottleneck", "BasicBlock")
    },
    **{("regnet", name): has("downsample") for name in ("Bottleneck", "PreBottleneck")},
    ("nfnet", "NormFreeBlock"): always,
    ("convnext", "ConvNeXtBlock"): always,
    ("convmixer", "Residual"): always,
    **{("cspnet", name): always for name in ("BottleneckBlock", "DarkBlock", "EdgeBlock")},
    **{
        ("_efficientnet_blocks", name): when("has_skip")
        for name in (
            *("ConvBnAct", "DepthwiseSeparableConv", "InvertedResidual", "CondConvResidual"),
            *("EdgeResidual", "UniversalInvertedResidual", "MobileAttention"),
        )
    },
    ("rexnet", "LinearBottleneck"): when("use_shortcut"),
    **{("ghostnet", name): always for name in ("GhostBottleneck", "GhostBottleneckV3")},
    ("repghost", "RepGhostBottleneck"): always,
    ("vovnet", "OsaBlock"): when("residual"),
    ("hgnet", "HighPerfGpuBlock"): when("residual"),
    **{("inception_resnet_v2", name): always for name in ("Block35", "Block17", "Block8")},
    ("inception_next", "MetaNeXtBlock"): always,
    ("xception", "Block"): always,
    **{
        ("xception_aligned", name): lambda block: not block.no_skip
        for name in ("XceptionModule", "PreXceptionModule")
    },
    ("dpn", "DualPathBlock"): always,
    **{
        ("byobnet", name): has("shortcut")
        for name in ("BasicBlock", "BottleneckBlock", "DarkBlock", "EdgeBlock", "SelfAttnBlock")
    },
    ("fastvit", "RepMixerBlock"): always,  # its MLP; the token mixer's sums are linear branches
    ("fastvit", "AttentionBlock"): always,  # its MLP; attention has no convolution
    ("repvit", "RepViTBlock"): always,  # its channel mixer
    ("repvit", "RepVitDownsample"): always,  # its feed-forward part
    ("starnet", "Block"): always,
    ("fasternet", "MLPBlock"): always,
    ("mambaout", "GatedConvBlock"): always,
    ("metaformer", "MetaFormerBlock"): always,  # in a PoolFormer: its MLP; pooling has no layer
    **{("non_local_attn", name): always for name in ("NonLocalAttn", "BatNonLocalAttn")},
    ("edgenext", "ConvBlock"): always,
    ("edgenext", "SplitTransposeBlock"): always,
    # torchvision
    ("mobilenetv2", "InvertedResidual"): when("use_res_connect"),
    ("mobilenetv3", "InvertedResidual"): when("use_res_connect"),
    **{("efficientnet", name): when("use_res_connect") for name in ("MBConv", "FusedMBConv")},
    ("regnet", "ResBottleneckBlock"): always,
    ("convnext", "CNBlock"): always,
    ("mnasnet", "_InvertedResidual"): when("apply_residual"),
    ("shufflenetv2", "InvertedResidual"): lambda block: block.stride == 1,
}
TORCHVISION = [
    "alexnet",
    "densenet",
    "efficientnet",
    "googlenet",
    "inception",
    "mnasnet",
    "mobilenet",
    "regnet",
    "resnet",
    "resnext",
    "shufflenet",
    "squeezenet",
    "vgg",
    "wide_resnet",
    "convnext",
]
# Blocks of these files are known to have no residual branch, or only through the blocks above.
SUSPECT = ("Block", "Bottleneck", "Residual")


def count(model: nn.Module) -> int:
    """The number of residual branches by the rules."""
    total = 0
    for module in model.modules():
        key = (type(module).__module__.rpartition(".")[2], type(module).__name__)
        total += key in RULES and RULES[key](module)
    return total


def architectures() -> list[str]:
    """All architectures of the families above, as timm/NAME and torchvision/NAME."""
    names = []
    for name in timm.list_models():
        family = timm.models._registry._model_to_module[name]
        if family in TIMM_FAMILIES:
            names.append(f"timm/{name}")
    names += [f"timm/{name}" for name in timm.list_models(POOLFORMERS)]
    ours = torchvision.models.list_models(module=torchvision.models)
    names += [f"torchvision/{n}" for n in ours if n.startswith(tuple(TORCHVISION))]
    return sorted(set(names))


def build(name: str) -> nn.Module:
    library, _, rest = name.partition("/")
    if library == "timm":
        return timm.create_model(rest)
    extra = {"init_weights": False} if rest in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(rest, weights=None, **extra)


def main() -> None:
    warnings.simplefilter("ignore")
    counts = {}
    for name in architectures():
        with torch.device("meta"):
            try:
                counts[name] = count(build(name))
            except NotImplementedError:  # a constructor that computes with values
                with torch.device("cpu"):
                    counts[name] = count(build(name))
    path = Path(__file__).with_name("residual_blocks.json")
    path.write_text(json.dumps(counts, indent=0) + "\n")
    residual = sum(value > 0 for value in counts.values())
    print(f"{len(counts)} architectures, {residual} with residual branches -> {path.name}")


if __name__ == "__main__":
    main()
