"""`load_coco`: from a data set in COCO's format to loaders of batches."""

# N batch, M boxes of an image, H W space

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accuracy_booster.data.batches import Loader
from accuracy_booster.data.decoding import LARGEST
from accuracy_booster.data.image_files import same_name
from accuracy_booster.data.marks import difference, marks_of
from accuracy_booster.data.transforms import unchanged
from accuracy_booster.detection import selecting
from accuracy_booster.detection.augmenting import Augmentation
from accuracy_booster.detection.batches import pack
from accuracy_booster.detection.choices import EMPTY_IMAGES
from accuracy_booster.detection.coco import Coco, read_coco
from accuracy_booster.detection.images import Augmented, DetectionImages
from accuracy_booster.detection.layouts import SplitFiles, find_split
from accuracy_booster.detection.split import truth as split_truth
from accuracy_booster.errors import unknown
from accuracy_booster.progress import printable

NAMES = {"train": "train", "val": "test", "test": "test"}  # {split: the name of its loader}


@dataclass(frozen=True)
class DetectionData:
    """Loaders of `DetectionBatch`, and what a detector must know of the data.

    Label k is the class `classes[k - 1]`, whose COCO id is `category_ids[k - 1]`. Label 0 is the
    background. The loader, the images and the marks of the val split are called "test".

    Attributes:
        name: of the data set.
        unreadable: images that were found unreadable; none, since no image is read yet.
        notes: what was left out or changed and why, with a count and the first case.
        marks: what identifies the images and annotations of each loader (`data.marks`).
        images: the images of each loader, without augmentation.
        missing: the paths of images that are not there.
    """

    name: str
    classes: tuple[str, ...]
    category_ids: list[int]
    unreadable: list[str]
    notes: list[str]
    marks: dict[str, dict[str, Any]]
    images: dict[str, DetectionImages] = field(repr=False)
    loaders: dict[str, Loader] = field(repr=False)
    missing: list[str] = field(default_factory=list, repr=False)

    def truth(self, split: str) -> dict[str, Any]:
        """The used annotations of a split as a COCO object, with its boxes as in the file.

        It includes crowd boxes, and images that cannot be read. The category ids are
        `category_ids`.
        """
        used = self.images[NAMES[split]].split
        return split_truth(used, self.category_ids, self.classes)

    def difference(self, split: str, known: Any) -> str:
        """How a split differs from the one with these marks, in one line; "" if it does not."""
        name = NAMES[split]
        return difference(self.images[name], self.marks[name], known)

    def check_trainable(self) -> None:
        """Raise ValueError if there is no training split, or it has no image."""
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
        data: a directory with annotations/instances_train2017.json and the like beside the folders
            of images, or a directory as Roboflow exports it (train/_annotations.coco.json beside
            the images). None where the paths are given.
        splits: which of "train" and "val" to read. A data set without a val split gives its test
            split.
        batch_size: of the training images; `eval_batch_size` that of the others.
        augment: the augmentation of the training images; see `Augmentation`.
        augment_size: for "lsj".
        classes: the names of the classes in the order of the labels. The data's must be among them.
            By default the categories of the first split that is read, by id.
        training: whether the training images are shuffled and augmented.
        seed: of the order and the augmentation of the training images.
        workers: the number of processes that read images.
        empty_images: what happens to training images without a box to learn from: "drop", or "keep"
            as background. By default they are dropped if `training`.
        bad_annotations: how many annotations of a split may be left out because they have no image,
            no category, or no area within the image.
        train_images, train_annotations, val_images, val_annotations: paths, which take precedence
            over what is in the directory.

    Raises:
        ValueError: for files that are not found, or several that may be meant; for a damaged file;
            for more bad annotations; for categories that are not among the classes.
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
    places = {split: find_split(data, split, *given[split]) for split in wanted}
    name = str(data if data is not None else places[wanted[0]].annotations)
    notes = [f"{split}: {place.remark}" for split, place in places.items() if place.remark]
    names: tuple[str, ...] | None = None if classes is None else tuple(map(same_name, classes))
    ids: list[int] = []
    images: dict[str, DetectionImages] = {}
    missing: list[str] = []
    for split, place in places.items():
        coco = read_coco(place.annotations)
        names = names or tuple(coco.categories.values())
        ids = ids or _ids(coco, names)
        labels = _labels(coco, names, split, "classes" if classes is not None else wanted[0])
        drop = empty_images == "drop" and split == "train"
        images[NAMES[split]], lines, absent = _images(
            *(coco, place, labels, split, bad_annotations, drop)
        )
        notes += lines
        missing += absent
    assert names is not None
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
    return DetectionData(name, names, ids, [], notes, marks, images, loaders, missing)


def _images(
    coco: Coco, place: SplitFiles, labels: dict[int, int], split: str, bad: int, drop: bool
) -> tuple[DetectionImages, list[str], list[str]]:
    """The used images of a split, notes on what is left out, and the paths of missing images.

    Args:
        labels: {category id: label}.
        bad: how many bad annotations may be left out.
        drop: whether images without a box to learn from are left out.
    """
    used, notes = selecting.select(coco, place.images, labels, split, bad)
    if drop:
        used, dropped = selecting.drop_empty(used, split)
        notes += dropped
    paths, missing, lines = selecting.locate(used, split)
    return DetectionImages(used, paths, printable(place.annotations)), notes + lines, missing


def _labels(coco: Coco, classes: Sequence[str], split: str, source: str) -> dict[int, int]:
    """The label of each category id of a file. Categories and classes are matched by name.

    Args:
        source: where the classes come from: "classes", or the split that was read first.

    Raises:
        ValueError: for categories that are not among the classes, or for repeated classes.
    """
    label = {name: number for number, name in enumerate(classes, 1)}
    if len(label) < len(classes):
        raise ValueError(f"classes has {len(classes) - len(label)} names twice; give each one once")
    foreign = [name for name in coco.categories.values() if name not in label]
    if foreign:
        of = "the classes given" if source == "classes" else f"those of the {source} split"
        few = ", ".join(map(printable, foreign[:3])) + (", ..." if len(foreign) > 3 else "")
        raise ValueError(
            f"{split}: {printable(coco.file)} has {len(foreign)} categories, {few}, that are not "
            f"among {of} ({len(classes)}); their names must be the same"
        )
    return {id: label[name] for id, name in coco.categories.items()}


def _ids(coco: Coco, classes: Sequence[str]) -> list[int]:
    """The COCO id of each class: the file's, or an unused id for a class that the file lacks."""
    known = {name: id for id, name in coco.categories.items()}
    free = max(0, *coco.categories) + 1
    lacking = [name for name in classes if name not in known]
    known |= {name: free + number for number, name in enumerate(lacking)}
    return [known[name] for name in classes]


def _largest(images: DetectionImages, change: Augmentation | None) -> tuple[int, int, int] | None:
    """(C, H, W) of the largest image that a batch can have.

    Args:
        change: the augmentation of the images; None for none.
    """
    pixels = images.sizes.prod(1)
    pixels[pixels > LARGEST] = 0  # such images are never decoded
    height, width = images.sizes[pixels.argmax()].tolist()
    return (3, *(change.largest(height, width) if change else (height, width)))
