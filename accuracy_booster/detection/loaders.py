"""From a COCO-format data set to loaders: the one way in to data of detection."""

# N batch, M boxes of an image, H W space

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accuracy_booster.data.batches import Loader
from accuracy_booster.data.encoded_images import LARGEST
from accuracy_booster.data.image_files import same_name
from accuracy_booster.data.marks import difference, marks_of
from accuracy_booster.data.transforms import unchanged
from accuracy_booster.detection import deciding
from accuracy_booster.detection.augmenting import Augmentation
from accuracy_booster.detection.batches import pack
from accuracy_booster.detection.choices import EMPTY_IMAGES
from accuracy_booster.detection.coco import Coco, read
from accuracy_booster.detection.images import Augmented, DetectionImages
from accuracy_booster.detection.layouts import Place, find
from accuracy_booster.errors import unknown
from accuracy_booster.progress import printable

NAMES = {"train": "train", "val": "test", "test": "test"}  # of a split: that of its loader


@dataclass(frozen=True)
class DetectionData:
    """Loaders of `DetectionBatch`, and what a detector must know of them.

    Label k is `classes[k - 1]`, whose COCO id is `category_ids[k - 1]`; 0 is the background. The
    val split is the loader "test", also where it is called so in `marks`. `notes` say what was
    left out or changed and why, each with a count and the first case.
    """

    name: str
    classes: tuple[str, ...]
    category_ids: list[int]
    unreadable: list[str]  # images that were found unreadable while data were read: none so far
    notes: list[str]
    marks: dict[str, dict[str, Any]]
    images: dict[str, DetectionImages] = field(repr=False)
    loaders: dict[str, Loader] = field(repr=False)
    missing: list[str] = field(default_factory=list, repr=False)  # paths of images not there

    def truth(self, split: str) -> dict[str, Any]:
        """What a split's images hold, as a COCO dict: crowd boxes too, boxes as in the file.

        Category ids are `category_ids`. Images that cannot be read are in it.
        """
        used = self.images[NAMES[split]].split
        return deciding.truth(used, self.category_ids, self.classes)

    def difference(self, split: str, known: Any) -> str:
        """How a split differs from the one whose marks are known, in one line, or ""."""
        name = NAMES[split]
        return difference(self.images[name], self.marks[name], known)

    def check_trainable(self) -> None:
        """Raise ValueError if there is no training split, or no image in it."""
        if "train" not in self.loaders or not len(self.images["train"]):
            raise ValueError(f"the train split of {self.name} has no images; add some")


def load_coco(
    data: str | Path | None,
    *,
    splits: Sequence[str] = ("train", "val"),
    batch_size: int = 2,
    eval_batch_size: int = 2,
    augment: str = "flip",
    augment_size: int = 1024,
    classes: Sequence[str] | None = None,
    training: bool = True,
    seed: int = 0,
    workers: int = 0,
    empty_images: str | None = None,
    bad_annotations: int = 100,
    train_images: str | Path | None = None,
    train_annotations: str | Path | None = None,
    val_images: str | Path | None = None,
    val_annotations: str | Path | None = None,
) -> DetectionData:
    """Loaders of a data set in COCO's format.

    Args:
        data: a directory with annotations/instances_train2017.json and the like and the folders of
            images, or as Roboflow exports it (train/_annotations.coco.json beside the images); None
            where the paths are given.
        splits: which of "train" and "val" to read; a data set without val gives its test split.
        augment: of the training images: see `Augmentation`; `augment_size` is for "lsj".
        classes: the class names in the order of the labels; the data's must be among them. By
            default the categories of the first split that is read, by id.
        training: whether the training images are shuffled and augmented.
        seed: of the order and the augmentation of the training images.
        empty_images: training images without a box to learn from: "drop" them, or "keep" them as
            background; by default they are dropped where `training`.
        bad_annotations: annotations of a split that may be left out because they have no image, no
            category, or no area within the image.
        train_images, train_annotations, val_images, val_annotations: paths that hold instead of
            those found in the directory.

    Raises:
        ValueError: for files that are not found, or several that may be meant; for a file that is
            damaged; for more bad annotations; for categories that are not among the classes.
    """
    if empty_images is None:
        empty_images = "drop" if training else "keep"
    if empty_images not in EMPTY_IMAGES:
        raise unknown("empty_images", empty_images, EMPTY_IMAGES)
    for split in splits or [""]:
        if split not in NAMES:
            raise unknown("split", split, ("train", "val"))
    change = Augmentation(augment, augment_size)
    given = {"train": (train_annotations, train_images), "val": (val_annotations, val_images)}
    wanted = ["val" if split == "test" else split for split in splits]
    places = {split: find(data, split, *given[split]) for split in wanted}
    name = str(data if data is not None else places[wanted[0]].annotations)
    notes = [f"{split}: {place.remark}" for split, place in places.items() if place.remark]
    target: tuple[str, ...] | None = None if classes is None else tuple(map(same_name, classes))
    ids: list[int] = []
    images: dict[str, DetectionImages] = {}
    missing: list[str] = []
    for split, place in places.items():
        coco = read(place.annotations)
        target = target or tuple(coco.categories.values())
        ids = ids or _ids(coco, target)
        labels = _labels(coco, target, split, "classes" if classes is not None else wanted[0])
        drop = empty_images == "drop" and split == "train"
        images[NAMES[split]], told, lost = _images(
            *(coco, place, labels, split, bad_annotations, drop)
        )
        notes += told
        missing += lost
    assert target is not None
    loaders = {}
    for split, part in images.items():
        shuffled = training and split == "train"
        changed = Augmented(part, change) if shuffled and augment != "none" else part
        size = batch_size if shuffled else eval_batch_size
        loaders[split] = Loader(
            changed,
            unchanged,
            min(size, len(part)),
            shuffled=shuffled,
            seed=seed,
            workers=workers,
            shape=_largest(part, change if shuffled else None),
            collate=pack,
        )
    marks = {split: marks_of(part) for split, part in images.items()}
    return DetectionData(name, target, ids, [], notes, marks, images, loaders, missing)


def _images(
    coco: Coco, place: Place, labels: dict[int, int], split: str, bad: int, drop: bool
) -> tuple[DetectionImages, list[str], list[str]]:
    """The images of a split, a line for each kind of thing that is left out or changed, and the
    paths of the images that are not there.
    """
    used, notes = deciding.decide(coco, place.images, labels, split, bad)
    if drop:
        used, dropped = deciding.drop_empty(used, split)
        notes += dropped
    paths, missing, lines = deciding.locate(used, split)
    return DetectionImages(used, paths, printable(place.annotations)), notes + lines, missing


def _labels(coco: Coco, classes: Sequence[str], split: str, source: str) -> dict[int, int]:
    """The label of each category id of a file: categories are the same whose names are.

    Raises:
        ValueError: for categories that are not among the classes, or classes that repeat.
    """
    label = {name: number for number, name in enumerate(classes, 1)}
    if len(label) < len(classes):
        raise ValueError(f"classes has {len(classes) - len(label)} names twice; give each one once")
    strange = [name for name in coco.categories.values() if name not in label]
    if strange:
        of = "the classes given" if source == "classes" else f"those of the {source} split"
        few = ", ".join(map(printable, strange[:3])) + (", ..." if len(strange) > 3 else "")
        raise ValueError(
            f"{split}: {printable(coco.file)} has {len(strange)} categories, {few}, that are not "
            f"among {of} ({len(classes)}); their names must be the same"
        )
    return {id: label[name] for id, name in coco.categories.items()}


def _ids(coco: Coco, classes: Sequence[str]) -> list[int]:
    """The file's id of each class; ids that are free for classes that it has not."""
    known = {name: id for id, name in coco.categories.items()}
    free = max(0, *coco.categories) + 1
    lacking = [name for name in classes if name not in known]
    known |= {name: free + number for number, name in enumerate(lacking)}
    return [known[name] for name in classes]


def _largest(images: DetectionImages, change: Augmentation | None) -> tuple[int, int, int] | None:
    """(C, H, W) of the image of a batch that has most pixels."""
    pixels = images.sizes.prod(1)
    pixels[pixels > LARGEST] = 0  # such images are never decoded
    height, width = images.sizes[pixels.argmax()].tolist()
    return (3, *(change.largest(height, width) if change else (height, width)))
