"""int8 files whose accuracy is known: written, measured beside the float32 file, then kept."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accuracy_booster.deploy.file_accuracy import calibration_batches, differing, measure_file
from accuracy_booster.deploy.quantising import quantise
from accuracy_booster.errors import shown
from accuracy_booster.exported.sessions import open_file
from accuracy_booster.training.measuring import Evaluation, tells_top5
from accuracy_booster.training.opening_to_measure import Opened

CALIBRATION = 256  # images
MAX_DROP = 1.0  # percentage points of top-1


@dataclass(frozen=True)
class Int8:
    """An int8 file, and what it costs in accuracy.

    Attributes:
        path: the file.
        float32: the accuracy of the float32 file.
        int8: the accuracy of the int8 file, on the same images.
        differing: how many images the two give different classes.
        images: a name of the images.
    """

    path: Path
    float32: Evaluation
    int8: Evaluation
    differing: int
    images: str

    @property
    def drop(self) -> float:
        """How much top-1 is lost, in percentage points; less than 0 if it is gained."""
        return self.float32.top1 - self.int8.top1

    def __str__(self) -> str:
        text = f"top-1 float32 {self.float32.top1:.2f} %, int8 {self.int8.top1:.2f} %"
        if tells_top5(len(self.int8.answers.classes)):
            text += f"; top-5 {self.float32.top5:.2f} % and {self.int8.top5:.2f} %"
        count = f"{self.int8.images:,} {self.images}"
        return f"{text} ({count}; {self.differing:,} of them change their class)"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the texts of the file and for JSON."""
        return {
            "float32": self.float32.to_dict(),
            "int8": self.int8.to_dict(),
            "differing": self.differing,
            "images": self.images,
        }


def write_int8(
    file: str | Path,
    output: str | Path,
    train: Opened,
    test: Opened,
    *,
    calibration: int = CALIBRATION,
    max_drop: float = MAX_DROP,
) -> Int8:
    """Write the int8 file of a float32 file, if it loses no more accuracy than is allowed.

    Args:
        file: the float32 file, .onnx or .xml.
        output: the file to write.
        train: the images to calibrate with: what `open_measured` gives with split="train".
        test: the images to measure both files on.
        calibration: how many images to calibrate with.
        max_drop: how many percentage points of top-1 may be lost.

    Raises:
        ValueError: as `quantise`, and for an int8 file that loses more; nothing is left of it.
    """
    if not isinstance(max_drop, (int, float)) or isinstance(max_drop, bool) or not max_drop >= 0:
        raise ValueError(f"max_drop={shown(max_drop)} must be percentage points of top-1, >= 0")
    file, output = Path(file).expanduser(), Path(output).expanduser()
    session = open_file(file)
    quantised = quantise(file, calibration_batches(session, train, calibration))
    quantised.check_output(output)
    name = f"{test.split} images of {Path(test.data.name).name}"
    with tempfile.TemporaryDirectory(prefix="accuracy-booster-") as folder:
        trial = open_file(quantised.save(Path(folder) / output.name))
        float32, int8 = (measure_file(s, test) for s in (session, trial))
        del trial  # some systems delete no file that is open
    found = Int8(output, float32, int8, differing(float32, int8), name)
    if found.drop > max_drop:
        raise ValueError(
            f"int8 loses {found.drop:.2f} percentage points of {found}, and max_drop={max_drop:g} "
            f"allows no more; calibrate with more images than {calibration}, raise max_drop, or "
            "leave precision out"
        )
    metrics = {**quantised.about.metrics, "quantisation": found.to_dict()}
    metrics["quantisation"]["calibration_images"] = quantised.images
    replace(quantised, about=replace(quantised.about, metrics=metrics)).save(output)
    return found
