"""Boost a pretrained YOLO and fine-tune it with ultralytics' own trainer.

    python examples/yolo.py
    python examples/yolo.py --model yolo11n.pt --data coco8.yaml --epochs 10

Without --data it draws a few images of rectangles, and without a pretrained --model it starts from
random weights. So it runs without a network connection. Needs `pip install ultralytics`.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from ultralytics import YOLO

import accuracy_booster as ab

COLOURS = {"red": (220, 60, 50), "green": (60, 200, 80)}


def draw_images(folder: Path, count: int, size: int) -> Path:
    """Images with one rectangle each, labelled as ultralytics wants it; returns the YAML file."""
    for split in ("train", "val"):
        images, labels = folder / "images" / split, folder / "labels" / split
        for directory in (images, labels):
            directory.mkdir(parents=True)
        for number in range(count):
            width, height = (random.randint(size // 3, size // 2) for _ in range(2))
            left, top = random.randint(0, size - width - 1), random.randint(0, size - height - 1)
            image = Image.new("RGB", (size, size), (90, 90, 90))
            box = (left, top, left + width, top + height)
            ImageDraw.Draw(image).rectangle(box, fill=list(COLOURS.values())[number % 2])
            image.save(images / f"{number}.png")
            sides = (left + width / 2, top + height / 2, width, height)
            words = [str(number % 2), *(f"{side / size:.4f}" for side in sides)]
            (labels / f"{number}.txt").write_text(" ".join(words))
    file = folder / "data.yaml"  # YAML reads JSON
    places = {"path": str(folder), "train": "images/train", "val": "images/val"}
    file.write_text(json.dumps({**places, "names": dict(enumerate(COLOURS))}))
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="yolo11n.yaml", help="a .pt file keeps its weights")
    parser.add_argument("--data", help="a YAML file of ultralytics; by default images are drawn")
    parser.add_argument("--block", default="ab", help="`accuracy-booster models` lists the blocks")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=32, help="how many to draw for each split")
    parser.add_argument("--imgsz", type=int, default=64)
    parser.add_argument("--device", help="as ultralytics takes it: cpu, 0, ...")
    parser.add_argument("--output", default="runs/yolo", help="the folder of the training")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = YOLO(given.model)
        model.train(
            data=given.data or str(draw_images(Path(folder), given.images, given.imgsz)),
            trainer=ab.integrations.ultralytics.trainer(given.block),
            epochs=given.epochs,
            imgsz=given.imgsz,
            device=given.device,
            project=str(Path(given.output).absolute().parent),
            name=Path(given.output).name,
            exist_ok=True,
            plots=False,
        )
        metrics = model.val(imgsz=given.imgsz, plots=False)
    gates = ab.gate_record(model.model)["sites"]
    print(f"mAP50-95 with {len(gates)} gates: {100 * metrics.box.map:.1f} %")
    print(f"the network: {model.trainer.best}")


if __name__ == "__main__":
    main()
