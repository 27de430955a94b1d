"""What the paper prints about parameters, FLOPS and depth, and what each of its columns counts.

The numbers beside them are counted on built networks (`counting`), and are not written down here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# What a column of parameters counts:
ALL = "all parameters"
WEIGHTS = "block weights"  # of the blocks only the weights of layers: no biases, no norms
OVER_ALL = "printed base + all parameters of the blocks"
OVER_WEIGHTS = "printed base + block weights"


@dataclass(frozen=True)
class CountRow:
    """A row of a table: a network with a block, and its numbers as printed.

    Attributes:
        label: the row's name in the table.
        model: the network.
        block: its block.
        params, flops, depth: the printed numbers; "" where the table has none.
        parameters: what the column of parameters counts: `ALL`, `WEIGHTS`, ...
        macs: what the column of FLOPS counts, a convention of `analysis.conventions`.
        why: why a number may not come out. It is shown only if it does not.
    """

    label: str
    model: str
    block: str = "none"
    params: str = ""
    flops: str = ""
    depth: str = ""
    parameters: str = ALL
    macs: str = "mac"
    why: str = ""


@dataclass(frozen=True)
class CountTable:
    """A table with counts.

    Attributes:
        title: the network and the data set.
        rows: the first row is the network without a block.
        num_classes: of the classifier.
        input_size: (channels, height, width) of the images that FLOPS are counted for.
    """

    title: str
    rows: tuple[CountRow, ...]
    num_classes: int = 1000
    input_size: tuple[int, int, int] = (3, 224, 224)


def _resnet164(label: str, block: str, params: str, flops: str) -> CountRow:
    """A row of Table 15."""
    parameters = ALL if block == "none" else OVER_ALL
    return CountRow(label, "resnet164v1", block, params, flops, "", parameters, "mac+bias")


NOMINAL = "the nominal size in ShuffleNet's own paper, which is not the sum of its layers"
SENET = "taken over from SENet's paper, not counted on this network"

COUNT_TABLES: dict[int, CountTable] = {
    2: CountTable(
        "ResNet-50, ImageNet",
        (
            CountRow("ResNet-50", "resnet50v1", "none", "25.56M", "3.858G"),
            CountRow("ResNet-152", "resnet152v1", "none", "60.19M", "11.30G", macs="mac+sum"),
            CountRow("SE", "resnet50v1", "se", "28.09M", "3.860G"),
            CountRow("CBAM", "resnet50v1", "cbam", "28.09M", "3.864G"),
            CountRow("AB", "resnet50v1", "ab", "25.57M", "3.858G", parameters=WEIGHTS),
            CountRow("AB-Plus", "resnet50v1", "ab_plus", "45.67M", "3.878G", parameters=WEIGHTS),
        ),
    ),
    3: CountTable(
        "ResNet-50, FLOPS of the inference times",
        (
            CountRow("ResNet-50", "resnet50v1", "none", flops="3.858G"),
            CountRow("SE", "resnet50v1", "se", flops="3.860G"),
            CountRow("AB", "resnet50v1", "ab", flops="3.858G"),
            CountRow("AB-Plus", "resnet50v1", "ab_plus", flops="3.878G"),
        ),
    ),
    4: CountTable(
        "WRN-18-2, ImageNet",
        (
            CountRow("WRN-18-2", "wrn18_2", "none", "45.62M", "6.696G"),
            CountRow("SE", "wrn18_2", "se", "45.97M", "6.696G"),
            CountRow("CBAM", "wrn18_2", "cbam", "45.97M", "6.697G"),
            CountRow("AB", "wrn18_2", "ab", "45.62M", "6.696G", parameters=WEIGHTS),
            CountRow("AB-Plus", "wrn18_2", "ab_plus", "48.40M", "6.698G", parameters=WEIGHTS),
        ),
    ),
    7: CountTable(
        "ShuffleNet 1x, g = 3, ImageNet",
        tuple(
            CountRow(label, "shufflenet_g3", block, params, flops, "", parameters, "mac+norm", why)
            for label, block, params, flops, parameters, why in (
                ("ShuffleNet", "none", "1.80M", "140.0M", ALL, NOMINAL),
                ("SE", "se", "2.40M", "142.0M", OVER_WEIGHTS, SENET),
                ("AB", "ab", "1.82M", "140.5M", OVER_ALL, ""),
                ("AB-Plus", "ab_plus", "6.70M", "145.3M", OVER_ALL, ""),
            )
        ),
    ),
    8: CountTable(
        "ResNeXt-101 32x4d, ImageNet",
        tuple(
            CountRow(label, "resnext101_32x4d", block, params, flops, macs="mac+norm", why=why)
            for label, block, params, flops, why in (
                ("ResNeXt-101", "none", "44.18M", "7.99G", ""),
                ("SE", "se", "48.96M", "8.00G", ""),
                ("GE-theta+", "ge_theta_plus", "57.92M", "8.02G", ""),
                ("GE-theta+ with AB", "ge_theta_plus_ab", "53.23M", "8.00G", ""),
            )
        ),
    ),
    10: CountTable(
        "ResNet-56, CIFAR-100: depth of a block",
        (
            CountRow("ResNet-56", "resnet56", "none", depth="0"),
            CountRow("SE", "resnet56", "se", depth="2"),
            CountRow("AB", "resnet56", "ab", depth="1"),
            CountRow("AB-Plus", "resnet56", "ab_plus", depth="1"),
        ),
        100,
        (3, 32, 32),
    ),
    15: CountTable(
        "ResNet-164, CIFAR-100",
        (
            _resnet164("ResNet-164", "none", "1.734M", "246.58M"),
            _resnet164("AB", "ab", "1.758M", "246.59M"),
            _resnet164("G = 16", "ab_g16", "1.847M", "246.68M"),
            _resnet164("G = 8", "ab_g8", "1.944M", "246.78M"),
            _resnet164("G = 4", "ab_g4", "2.137M", "246.97M"),
            _resnet164("G = 2", "ab_g2", "2.524M", "247.36M"),
            _resnet164("AB-Plus", "ab_plus", "3.298M", "248.14M"),
        ),
        100,
        (3, 32, 32),
    ),
}

Formula = Callable[[int, int], int]  # (C channels, a batch of B images) -> a count
R = 16  # SE's reduction


@dataclass(frozen=True)
class FormulaRow:
    """A row of Table 1. Each column is given as text and as a formula.

    Attributes:
        parameters, flops, rtm: the extra parameters, FLOPS and run-time memory of the block.
        more: whether the paper only says "more than" the formula.
        printed: whether it stands in the table; AB-Plus stands in section 5 instead.
    """

    label: str
    block: str
    parameters: tuple[str, Formula]
    flops: tuple[str, Formula]
    rtm: tuple[str, Formula]
    more: bool = False
    printed: bool = True


TABLE_1 = (
    FormulaRow(
        *("AB", "ab"),
        ("C", lambda c, b: c),
        ("C·B", lambda c, b: c * b),
        ("4C(1 + B)", lambda c, b: 4 * c * (1 + b)),
    ),
    FormulaRow(
        *("AB-Plus", "ab_plus"),
        ("C²", lambda c, b: c**2),
        ("C²·B", lambda c, b: c**2 * b),
        ("4C(C + B)", lambda c, b: 4 * c * (c + b)),
        printed=False,
    ),
    *(
        FormulaRow(
            *(label, block),
            ("2C² / r", lambda c, b: 2 * c**2 // R),
            ("2C²·B / r", lambda c, b: 2 * c**2 * b // R),
            ("8C(C + B) / r", lambda c, b: 8 * c * (c + b) // R),
            more,
        )
        for label, block, more in (("SE", "se", False), ("CBAM", "cbam", True))
    ),
)
