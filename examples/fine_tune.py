"""Boost a pretrained network and fine-tune it on your own images.

    python examples/fine_tune.py photos/ --model timm/resnet18

`photos/` holds a folder of images for each class, below train/ and val/. The gates start as the
identity, so the network starts with the accuracy that it has without them. First the gates and the
new head are trained and the rest is frozen; then everything is trained at a small rate.
"""

from __future__ import annotations

import argparse

import accuracy_booster as ab


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", help="a directory with train/ and val/ folders of class folders")
    parser.add_argument("--model", default="timm/resnet18", help="`accuracy-booster models`")
    parser.add_argument("--block", default="ab", help="`accuracy-booster models` lists the blocks")
    parser.add_argument("--epochs", type=int, default=5, help="of each of the two stages")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", default="runs/fine-tuned")
    given = parser.parse_args()
    shared = {"data": given.data, "epochs": given.epochs, "batch_size": given.batch_size}
    shared |= {"block": given.block, "schedule": "cosine"}

    gates = ab.train(
        given.model,
        **shared,
        pretrained=True,
        init="identity",
        freeze="base",
        lr=0.01,
        output=f"{given.output}-gates",
    )
    everything = ab.train(
        given.model,
        **shared,
        weights=str(gates.output),  # starts with the gates and the head of stage one
        lr=0.001,
        output=given.output,
    )
    print(f"top-1 after the gates alone: {gates.test.top1:.1f} %")
    print(f"top-1 after everything:      {everything.test.top1:.1f} %")
    print(f"the run: {everything.output}")


if __name__ == "__main__":
    main()
