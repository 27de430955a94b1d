"""Opens the data and builds the detector that a `DetectConfig` describes."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from accuracy_booster.detection.config import PATH_FIELDS, DetectConfig
from accuracy_booster.detection.detector import Detector, faster_rcnn
from accuracy_booster.detection.loaders import DetectionData, load_coco


def open_data(config: DetectConfig, **more: Any) -> DetectionData:
    """The data that a configuration names.

    Args:
        more: arguments of `load_coco` in addition to those of the configuration, or in their place.
    """
    names = (
        *("batch_size", "eval_batch_size", "augment", "empty_images", "bad_annotations"),
        *("seed", "workers", *PATH_FIELDS),
    )
    given = {name: getattr(config, name) for name in names}
    return load_coco(config.data, **{**given, **more})


def build_detector(
    config: DetectConfig, *, pretrained: bool = False, filled: bool = False
) -> Detector:
    """The detector of a resolved configuration, in its memory format.

    Args:
        pretrained: whether the backbone gets its library's weights of classification.
        filled: whether weights are loaded into it afterwards. Then norms of weight zero are not
            warned of.
    """
    names = (
        *("head", "trainable_layers", "gates_of_frozen_layers", "norms", "min_size", "max_size"),
        *("image_mean", "image_std", "anchor_sizes"),
        *("rpn_post_nms_top_n_train", "rpn_post_nms_top_n_test", "box_batch_size_per_image"),
        *("box_score_thresh", "box_detections_per_img"),
    )
    with warnings.catch_warnings():
        if filled:
            warnings.filterwarnings("ignore", ".*weight (is )?zero")
        network = faster_rcnn(
            config.backbone,
            block=None if config.block == "none" else config.block,
            init="identity" if config.block != "none" and config.init == "identity" else "paper",
            num_classes=(config.num_classes or 0) + 1,
            pretrained=pretrained,
            **{name: getattr(config, name) for name in names},
        )
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return network.to(memory_format=layout)
