"""Boost a trained network and fine-tune it on your own images.

    python examples/fine_tune.py photos/ --model timm/resnet18
    python examples/fine_tune.py photos/ --model timm/resnet18 --weights own.pth

`photos/` holds a folder of images for each class, below train/ and val/. The gates start as the
identity, so the network starts with the accuracy that it has without them. The preset finetune,
which trained weights take by themselves, changes them a little.
"""

from __future__ import annotations

import argparse

import accuracy_booster as ab


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", help="a directory with train/ and val/ folders of class folders")
    parser.add_argument("--model", default="timm/resnet18", help="`accuracy-booster models`")
    parser.add_argument("--block", default="ab", help="`accuracy-booster models` lists the blocks")
    parser.add_argument("--weights", help="your own weights, in place of timm's or torchvision's")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", default="runs/fine-tuned")
    parser.add_argument(
        "--no-pretrained",
        action="store_true",
        help="start from random weights: a try without a network connection",
    )
    given = parser.parse_args()
    result = ab.train(
        given.model,
        block=given.block,
        data=given.data,
        weights=given.weights,
        pretrained=not (given.weights or given.no_pretrained),
        preset="finetune",  # also where there are no trained weights, which take it by default
        epochs=given.epochs,
        batch_size=given.batch_size,
        output=given.output,
    )
    print(f"top-1 after {result.epochs_done} epochs: {result.test.top1:.1f} %")
    print(f"the run: {result.output}")


if __name__ == "__main__":
    main()
