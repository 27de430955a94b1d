"""Try a new block without changing the package: write it as a chain of parts.

    python examples/new_block.py "gap + gmp | dense(groups=C) | bn | sigmoid"

The script says what the block adds to a network and trains the network with AB, with the new block
and without one, on the built-in images of digits.
"""

from __future__ import annotations

import argparse

import torch

import accuracy_booster as ab

BLOCK = "gap + gmp | dense(groups=C) | bn | sigmoid"  # AB, with the maximum beside the mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("block", nargs="?", default=BLOCK, help="the text of a recipe")
    parser.add_argument("--model", default="resnet14")
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()

    # the block alone: a module that keeps the shape of a feature map
    block = ab.Recalibrate(64, given.block)
    print(block)
    maps = torch.randn(32, 64, 14, 14)
    assert block(maps).shape == maps.shape

    # in a network: what it adds, and whether it can be fused
    model = ab.boost(ab.create_model(given.model), given.block)
    cost = ab.complexity(model, (3, 32, 32))
    print(f"adds {cost.extra.parameters:,} parameters and {cost.extra.macs:,} multiply-adds")
    print(ab.fast_path(ab.fuse(model)).summary())

    # on data: the same start and the same images for each
    for name in ("none", "ab", given.block):
        result = ab.train(given.model, block=name, data="digits", epochs=given.epochs)
        print(f"{result.test.top1:5.1f} %  {name}")


if __name__ == "__main__":
    main()
