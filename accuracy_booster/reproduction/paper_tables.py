"""The paper's tables of accuracy and time, declared as rows with the numbers that the paper prints.

Where the paper prints an error, the accuracy stands here: 71.4 % for an error of 28.6 %.
"""

from __future__ import annotations

from accuracy_booster.reproduction.table import AP, AP50, GATES, TIME, After, Row, Table, blocks


def _errors(model: str, none: float, se: float, ab: float, ab_plus: float) -> tuple[Row, ...]:
    """The rows of one network in Table 5 or 6, from the printed errors in %."""
    named = {"none": none, "se": se, "ab": ab, "ab_plus": ab_plus}
    return tuple(Row(LABELS[b], model, b, round(100 - e, 2)) for b, e in named.items())


LABELS = {"none": "no block", "se": "SE", "ab": "AB", "ab_plus": "AB-Plus"}
# ResNet-56 on CIFAR-100 (Tables 10 to 14): label, block, top-1 accuracy in %
BASE, SE, AB, AB_PLUS = (
    ("no block", "none", 71.4),
    ("SE", "se", 72.7),
    ("AB", "ab", 73.1),
    ("AB-Plus", "ab_plus", 73.7),
)
TABLE_11 = (
    ("E: GAP", "design_e", 72.0),
    ("F: GAP + BN", "design_f", 71.9),
    ("G: depthwise weighted average", "design_g", 72.8),
    ("H: full weighted average", "design_h", 73.8),
)
TABLE_12 = (
    ("I: 3x3 conv", "design_i", 71.36),
    ("J: 3x3 depthwise conv", "design_j", 70.6),
    ("K: 7x7 conv", "design_k", 72.3),
    ("L: 7x7 depthwise conv", "design_l", 72.3),
)
TABLE_14 = (
    ("M: 7x7 depthwise conv + GAP", "design_m", 72.8),
    ("N: M + depthwise 1x1 + BN", "design_n", 73.0),
    ("O: M + full 1x1 + BN", "design_o", 73.5),
)
NO_BN = 0.3  # points of accuracy that AB loses without BN on ResNet-56 (end of section 6.1)

# Table 9: label, block, AP at an IoU of 0.5, and the mean AP over IoUs from 0.5 to 0.95
DETECTORS = (
    ("no block", "none", 45.2, 25.1),
    ("SE", "se", 46.8, 26.4),
    ("AB", "ab", 47.2, 26.7),
)
# The detectors' settings are those of He et al. 2016 (C4 head, 300 proposals) and Ren et al. 2015
# (600 pixels, anchors from 64).
DETECTOR_SETTINGS = {
    **{"head": "c4", "min_size": (600,), "max_size": 1000, "anchor_sizes": (64, 128, 256, 512)},
    "rpn_post_nms_top_n_test": 300,
}
# for the budget smoke: a detector that a CPU trains in minutes, from random weights
SMALL_DETECTOR = {
    **{"min_size": (64,), "max_size": 96, "anchor_sizes": (16, 32, 64), "norms": "normal"},
    **{"rpn_post_nms_top_n_train": 16, "rpn_post_nms_top_n_test": 16},
    "box_batch_size_per_image": 8,
}
DETECTOR_NOTE = (
    "The paper does not say how its backbones were trained: each detector starts from the network "
    "of Table 2 with the same block and seed. Nor does it give the detectors' settings. Head, "
    "image size, anchors and proposals are those of Ren et al. 2015 and He et al. 2016; the "
    "schedule is our choice. Norms are frozen, those of the gates too, and so are the first two of "
    "the backbone's layers."
)

# Table 16: % of the channels that are zeroed; the top-1 accuracy where these channels have the
# highest weights, and where they have the lowest
ZEROED = (
    (5, 76.13, 91.32),
    (10, 53.52, 84.50),
    (15, 40.01, 74.26),
    (20, 29.24, 63.11),
    (25, 18.22, 52.40),
)
WHOLE = "all channels"


def detectors(
    model: str, rows: tuple[tuple[str, str, float, float], ...], data: str
) -> tuple[Row, ...]:
    """Table 9: for each detector a row with AP50 and a row with AP.

    Args:
        data: the data set that the classification network was trained on, from which the detector
            starts.
    """
    return tuple(
        Row(
            f"{label}, {name}",
            model,
            block,
            value,
            after=After(block, data=data),
            cell=cell,
            column=label,
        )
        for label, block, ap50, ap in rows
        for cell, name, value in ((AP50, "AP50", ap50), (AP, "AP", ap))
    )


def zeroing(model: str) -> tuple[Row, ...]:
    """Table 16, and as a control the same number of channels zeroed at random."""
    rows = [Row(WHOLE, model, "ab", 94.66, cell="top1")]
    for percent, highest, lowest in ZEROED:
        control = f"random {percent} %"
        both = (WHOLE, control)
        for kind, printed in (("highest", highest), ("lowest", lowest)):
            label, cell = f"{kind} {percent} %", f"{kind} {percent}"
            rows.append(Row(label, model, "ab", printed, cell=cell, against=both))
        cell, column = f"random {percent}", "as many at random"
        rows.append(Row(control, model, "ab", cell=cell, against=(WHOLE,), column=column))
    rows.append(Row("weights frozen at their means", model, "ab", cell="frozen", against=(WHOLE,)))
    return tuple(rows)


PAPER = (
    Table(
        "2",
        "ResNet-50 on ImageNet",
        "imagenet",
        (
            *blocks(
                "resnet50v1",
                ("no block", "none", 75.44, 92.50),
                ("SE", "se", 76.86, 93.30),
                ("CBAM", "cbam", 77.34, 93.69),
                ("AB", "ab", 77.6, 93.8),
                ("AB-Plus", "ab_plus", 77.9, 93.9),
            ),
            Row("ResNet-152", "resnet152v1", "none", 77.58, 93.66),
        ),
    ),
    Table(
        "3",
        "ResNet-50, seconds of inference per batch",
        "",
        blocks(
            "resnet50v1",
            ("no block", "none", 0.152),
            ("SE", "se", 0.187),
            ("AB", "ab", 0.163),
            ("AB-Plus", "ab_plus", 0.192),
        ),
        measures=TIME,
    ),
    Table(
        "4",
        "WRN-18-2 on ImageNet",
        "imagenet",
        blocks(
            "wrn18_2",
            ("no block", "none", 74.37, 91.80),
            ("SE", "se", 75.07, 92.35),
            ("CBAM", "cbam", 75.16, 92.37),
            ("AB", "ab", 75.3, 92.4),
            ("AB-Plus", "ab_plus", 75.4, 92.5),
        ),
    ),
    Table(
        "5",
        "CIFAR-10",
        "cifar10",
        (
            *_errors("resnet56", 6.5, 5.6, 5.34, 5.26),
            *_errors("resnet164", 5.5, 4.4, 4.0, 3.9),
            *_errors("wrn22_10", 4.4, 4.0, 3.7, 3.7),
        ),
    ),
    Table(
        "6",
        "CIFAR-100",
        "cifar100",
        (
            *_errors("resnet56", 28.6, 27.3, 26.9, 26.3),
            *_errors("resnet164", 24.3, 21.8, 21.5, 21.3),
            *_errors("wrn22_10", 20.6, 19.3, 19.0, 18.8),
        ),
    ),
    Table(
        "6.1",
        "AB without BN, CIFAR-100 (its last sentence)",
        "cifar100",
        tuple(
            row
            for model, ab, loss in (
                ("resnet56", 73.1, NO_BN),
                ("resnet164", 78.5, 0.2),
                ("wrn22_10", 81.0, 0.2),
            )
            for row in blocks(
                model, ("AB", "ab", ab), ("AB without BN", "ab_nobn", round(ab - loss, 2))
            )
        ),
        references=("ab",),
    ),
    Table(
        "7",
        "ShuffleNet 1x, g = 3, on ImageNet",
        "imagenet",
        blocks(
            "shufflenet_g3",
            ("no block", "none", 67.4, 87.5),
            ("SE", "se", 69.0, 88.9),
            ("AB", "ab", 69.5, 89.0),
            ("AB-Plus", "ab_plus", 69.7, 89.1),
        ),
    ),
    Table(
        "8",
        "ResNeXt-101 32x4d on ImageNet",
        "imagenet",
        blocks(
            "resnext101_32x4d",
            ("no block", "none", 78.8, 94.4),
            ("SE", "se", 79.3, 94.99),
            ("GE-theta+", "ge_theta_plus", 79.5, 95.2),
            ("GE-theta+ with AB", "ge_theta_plus_ab", 79.8, 95.4),
        ),
    ),
    Table(
        "9",
        "Faster R-CNN with ResNet-50 on COCO",
        "coco",
        detectors("resnet50v1", DETECTORS, "imagenet"),
        settings=DETECTOR_SETTINGS,
        budgets={"smoke": SMALL_DETECTOR},
        measures=AP,
        note=DETECTOR_NOTE,
    ),
    Table(
        "10",
        "ResNet-56 on CIFAR-100: depth of the block",
        "cifar100",
        blocks("resnet56", BASE, SE, AB, AB_PLUS),
    ),
    Table(
        "11",
        "ResNet-56 on CIFAR-100: how the average is taken",
        "cifar100",
        blocks("resnet56", BASE, AB, AB_PLUS, *TABLE_11),
        references=("none", "ab"),
    ),
    Table(
        "12",
        "ResNet-56 on CIFAR-100: one weight per position",
        "cifar100",
        blocks("resnet56", BASE, AB, *TABLE_12),
        references=("none", "ab"),
    ),
    Table(
        "13",
        "ResNet-50 on ImageNet: one weight per position",
        "imagenet",
        blocks(
            "resnet50v1",
            ("no block", "none", 75.44),
            ("AB", "ab", 77.6),
            ("AB-Plus", "ab_plus", 77.9),
            ("3x3 depthwise conv + BN", "dw3_bn", 76.6),
            ("9x9 depthwise conv + BN", "dw9_bn", 77.2),
        ),
        references=("none", "ab"),
    ),
    Table(
        "14",
        "ResNet-56 on CIFAR-100: both kinds of weights",
        "cifar100",
        blocks("resnet56", BASE, SE, AB, AB_PLUS, *TABLE_14),
    ),
    Table(
        "15",
        "ResNet-164 on CIFAR-100: number of groups",
        "cifar100",
        blocks(
            "resnet164v1",
            ("no block", "none", 75.70),
            ("AB (G = C)", "ab", 78.50),
            ("G = 16", "ab_g16", 78.53),
            ("G = 8", "ab_g8", 78.57),
            ("G = 4", "ab_g4", 78.62),
            ("G = 2", "ab_g2", 78.66),
            ("AB-Plus (G = 1)", "ab_plus", 78.70),
        ),
        references=("none", "ab"),
    ),
    Table(
        "16",
        "ResNet-56 with AB on CIFAR-10: channels removed by their weights, and Figure 3",
        "cifar10",
        zeroing("resnet56"),
        references=(),
        measures=GATES,
    ),
)
