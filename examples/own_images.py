"""Train on images that are arrays in memory: write them as Parquet files, which `data=` reads.

    python examples/own_images.py

Parquet files keep the encoded images, their labels and the names of the classes together. Here the
images are drawn: bright squares and discs on noise.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import accuracy_booster as ab

CLASSES = ("square", "disc")


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [count, 32, 32, 3] and the class numbers [count]."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 90, (count, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 2, count)
    y, x = np.mgrid[:32, :32]
    for image, label in zip(images, labels, strict=True):
        cy, cx = generator.integers(10, 22, 2)
        inside = np.maximum(abs(y - cy), abs(x - cx)) < 6
        if label == 1:
            inside = (y - cy) ** 2 + (x - cx) ** 2 < 45
        image[inside] += np.uint8(120)
    return images, labels


def write(file: Path, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """A Parquet file with the columns image and label, as Hugging Face `datasets` writes it."""

    def encoded(image: np.ndarray) -> dict[str, bytes]:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        return {"bytes": buffer.getvalue()}

    table = pa.table({"image": [encoded(image) for image in images], "label": labels})
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(classes)},
    }
    about = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": about}), file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("shapes"), help="for the Parquet files")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", default="runs/shapes")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for split, count, seed in (("train", given.images, 0), ("test", given.images // 4, 1)):
        write(given.folder / f"{split}.parquet", *draw(count, seed), CLASSES)

    result = ab.train(
        "resnet8", block="ab", data=str(given.folder), epochs=given.epochs, output=given.output
    )
    print(f"top-1 {result.test.top1:.1f} % on {result.test.images} images: {result.output}")


if __name__ == "__main__":
    main()
