"""Tiny networks of transformers with random weights: classifiers, detectors, backbones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

t = pytest.importorskip("transformers", exc_type=ImportError)

SIZE = 64
EXAMPLE = torch.zeros(1, 3, SIZE, SIZE)

STAGES = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
RESNET = {"embedding_size": 8, "layer_type": "basic", **STAGES}
DETR = {"d_model": 16, "num_queries": 4, "encoder_layers": 1, "decoder_layers": 2}
DETR |= {
    f"{part}_{what}": n
    for part in ("encoder", "decoder")
    for what, n in (("attention_heads", 2), ("ffn_dim", 16))
}
PARALLEL = {"encoder_hidden_dim": 16, "encoder_in_channels": [16] * 3, "encoder_ffn_dim": 16}
PARALLEL |= {"encoder_attention_heads": 2, "d_model": 16, "decoder_in_channels": [16] * 3}
PARALLEL |= {"decoder_ffn_dim": 16, "decoder_layers": 2, "decoder_attention_heads": 2}
PARALLEL |= {"num_queries": 5, "num_denoising": 0}


def resnet(*stages: int, **more: Any) -> Any:
    return t.ResNetConfig(**RESNET, out_features=[f"stage{i}" for i in stages], **more)


def resnet_vd() -> Any:
    return t.RTDetrResNetConfig(**RESNET, out_features=["stage2", "stage3", "stage4"])


def small_resnet(**more: Any) -> Any:
    """Two residual blocks, for trainings."""
    config = t.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **more
    )
    return t.ResNetForImageClassification(config)


def detector(name: str, **options: Any) -> Any:
    config = getattr(t, f"{name}Config")(**options)
    return getattr(t, f"{name}ForObjectDetection")(config)


def hgnet() -> Any:
    return t.HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 16, 16],
        stage_mid_channels=[8] * 4,
        stage_out_channels=[8, 16, 16, 16],
        stage_num_blocks=[1, 1, 2, 1],
        stage_numb_of_layers=[1] * 4,
        embedding_size=8,
        out_features=["stage2", "stage3", "stage4"],
        **STAGES,
    )


def convnext(version: str = "", **more: Any) -> Any:
    return getattr(t, f"ConvNext{version}Config")(hidden_sizes=[8, 16], depths=[1, 1], **more)


def mask_former() -> Any:
    inner = t.DetrConfig(
        **DETR | {"d_model": 32}, backbone_config=resnet(4), use_timm_backbone=False
    )
    config = t.MaskFormerConfig(
        backbone_config=resnet(1, 2, 3, 4),
        decoder_config=inner,
        fpn_feature_size=32,
        mask_feature_size=32,
    )
    return t.MaskFormerForInstanceSegmentation(config)


def uper_net(backbone: Any) -> Any:
    config = t.UperNetConfig(
        backbone_config=backbone, hidden_size=16, pool_scales=[1, 2], use_auxiliary_head=False
    )
    return t.UperNetForSemanticSegmentation(config)


# name: (how to build the network, how many gates it gets)
NETWORKS: dict[str, tuple[Callable[[], Any], int]] = {
    "resnet": (small_resnet, 2),
    "regnet": (
        lambda: t.RegNetForImageClassification(
            t.RegNetConfig(embedding_size=8, groups_width=8, **STAGES)
        ),
        4,
    ),
    "bit": (
        lambda: t.BitForImageClassification(
            t.BitConfig(embedding_size=8, hidden_sizes=[32, 32], depths=[1, 1], num_groups=4)
        ),
        2,
    ),
    "mobilenet_v2": (
        lambda: t.MobileNetV2ForImageClassification(t.MobileNetV2Config(depth_multiplier=0.25)),
        10,
    ),
    "efficientnet": (
        lambda: t.EfficientNetForImageClassification(
            t.EfficientNetConfig(
                width_coefficient=0.25, depth_coefficient=0.3, image_size=SIZE, hidden_dim=320
            )
        ),
        1,
    ),
    "convnext": (lambda: t.ConvNextForImageClassification(convnext(num_stages=2)), 2),
    "convnext_v2": (lambda: t.ConvNextV2ForImageClassification(convnext("V2", num_stages=2)), 2),
    "poolformer": (
        lambda: t.PoolFormerForImageClassification(
            t.PoolFormerConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4)
        ),
        4,
    ),
    "detr": (
        lambda: detector("Detr", backbone_config=resnet(4), use_timm_backbone=False, **DETR),
        4,
    ),
    "detr_timm": (
        lambda: detector(
            "Detr",
            use_timm_backbone=True,
            backbone="resnet18",
            use_pretrained_backbone=False,
            **DETR,
        ),
        8,
    ),
    "conditional_detr": (
        lambda: detector(
            "ConditionalDetr", backbone_config=resnet(4), use_timm_backbone=False, **DETR
        ),
        4,
    ),
    "deformable_detr": (
        lambda: detector(
            "DeformableDetr",
            backbone_config=resnet(2, 3, 4),
            use_timm_backbone=False,
            num_feature_levels=3,
            **DETR | {"d_model": 32},
        ),
        4,
    ),
    "rt_detr": (lambda: detector("RTDetr", backbone_config=resnet_vd(), **PARALLEL), 4),
    "rt_detr_v2": (lambda: detector("RTDetrV2", backbone_config=resnet_vd(), **PARALLEL), 4),
    "d_fine": (lambda: detector("DFine", backbone_config=hgnet(), **PARALLEL), 1),
    "mask_former": (mask_former, 4),
    "upernet_convnext": (
        lambda: uper_net(
            t.ConvNextConfig(
                hidden_sizes=[8, 8, 16, 16],
                depths=[1] * 4,
                out_features=["stage1", "stage2", "stage3", "stage4"],
            )
        ),
        4,
    ),
    "upernet_resnet": (lambda: uper_net(resnet(1, 2, 3, 4)), 4),
    "timm_wrapper": (
        lambda: t.TimmWrapperForImageClassification(
            t.TimmWrapperConfig(architecture="resnet10t", num_labels=3)
        ),
        4,
    ),
    "backbone": (lambda: t.AutoBackbone.from_config(resnet(2, 4)), 4),
}


# name: how to build the network, which has no residual branch of feature maps
WITHOUT_SITES: dict[str, Callable[[], Any]] = {
    "mobilenet_v1": lambda: t.MobileNetV1ForImageClassification(
        t.MobileNetV1Config(depth_multiplier=0.25)
    ),
    "levit": lambda: t.LevitForImageClassification(
        t.LevitConfig(
            image_size=SIZE,
            hidden_sizes=[16, 24, 32],
            num_attention_heads=[2, 2, 2],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
        )
    ),
    "segformer": lambda: t.SegformerForImageClassification(
        t.SegformerConfig(
            hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2]
        )
    ),
}


def outputs(model: torch.nn.Module, seed: int = 0) -> list[torch.Tensor]:
    """All tensors that a network gives for two images."""
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        given = model(images.to(next(model.parameters()).device))
    return list(_tensors(given.to_tuple()))


def _tensors(values: Any) -> Any:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
