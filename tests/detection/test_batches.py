"""Images with boxes: augmentation, batches, and what tells one data set from another."""

# M boxes of an image, H W space

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from support.coco import SIZES, content, write
from torchvision import tv_tensors
from torchvision.transforms import v2

from accuracy_booster.detection import DetectionBatch, load_coco
from accuracy_booster.detection.augmenting import Augmentation
from accuracy_booster.detection.batches import pack
from accuracy_booster.detection.choices import AUGMENTS

pytestmark = pytest.mark.forks
CPU = torch.device("cpu")


@pytest.fixture
def make(tmp_path, pixels, png):
    """`make(train, val)`: a directory as COCO has it, with a file for each image."""
    return partial(write, tmp_path / "coco", pixels, png)


# --- augmentation


def sample(height: int = 60, width: int = 80) -> tuple[torch.Tensor, dict]:
    rows = torch.arange(height)[:, None] + torch.arange(width)
    picture = rows.to(torch.uint8).expand(3, -1, -1).contiguous()
    boxes = torch.tensor([[1.0, 2, 31, 22], [40, 10, 80, 60], [5, 30, 25, 55], [0, 0, 80, 60]])
    target = {
        "boxes": boxes,
        "labels": torch.tensor([4, 1, 2, 9]),
        "image_id": torch.tensor([77]),
        "area": torch.tensor([300.0, 1000, 250, 4800]),
        "iscrowd": torch.zeros(4, dtype=torch.int64),
    }
    return picture, target


def test_flips_are_torchvisions():
    picture, target = sample()
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        found, changed = Augmentation("flip")(picture, target)
        torch.manual_seed(seed)
        size = tuple(picture.shape[1:])
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)
        known = v2.RandomHorizontalFlip()(tv_tensors.Image(picture), boxes)
        assert torch.equal(found, known[0])
        assert torch.equal(changed["boxes"], known[1])
        assert type(found) is type(changed["boxes"]) is torch.Tensor
        assert changed["area"].tolist() == target["area"].tolist()
        seen.add(changed["boxes"][0, 0].item())
    assert seen == {1, 49}


@pytest.mark.parametrize("name", ["multiscale", "lsj", "ssd"])
def test_boxes_follow_the_pixels(name):
    """Entries stay in step, boxes are real ones within the image, areas change as boxes do."""
    change, (picture, target) = Augmentation(name, size=64), sample()
    shares = {4: 0.5, 1: 0.5, 2: 0.5, 9: 1.0}  # area of the box's, by label
    counts = set()
    for seed in range(25):
        torch.manual_seed(seed)
        found, changed = change(picture, target)
        height, width = found.shape[1:]
        most = change.largest(60, 80)
        assert height * width <= most[0] * most[1]
        x1, y1, x2, y2 = changed["boxes"].T
        assert ((x2 - x1 >= 1) & (y2 - y1 >= 1) & (x1 >= 0) & (y1 >= 0)).all()
        assert ((x2 <= width) & (y2 <= height)).all()
        lengths = {len(changed[k]) for k in ("boxes", "labels", "area", "iscrowd")}
        assert len(lengths) == 1
        share = changed["area"] / ((x2 - x1) * (y2 - y1))
        assert share.tolist() == pytest.approx([shares[k] for k in changed["labels"].tolist()])
        assert changed["image_id"].tolist() == [77]
        counts |= lengths
        if name == "lsj":
            assert (height, width) == (64, 64)
        if name == "multiscale":
            scale = height / 60
            assert changed["boxes"].max().item() == pytest.approx(80 * scale, rel=0.01)
    assert counts == {4} if name == "multiscale" else min(counts) < 4


def test_a_mark_is_found_in_its_box():
    """A white square stays in its box, whatever is done to the image."""
    looked_at = 0
    _, target = sample()
    picture = torch.zeros(3, 60, 80, dtype=torch.uint8)
    picture[:, 2:22, 1:31] = 255
    for name in ("flip", "multiscale", "lsj"):
        for seed in range(6):
            torch.manual_seed(seed)
            found, changed = Augmentation(name, size=96)(picture.clone(), target)
            m = 2 + -(-found.shape[1] // 60)  # how far an edge is blurred
            for corners, label in zip(changed["boxes"], changed["labels"].tolist(), strict=True):
                x1, y1, x2, y2 = corners.round().int().tolist()
                if label == 4 and min(x2 - x1, y2 - y1) > 12:  # a smaller one is blurred
                    looked_at += 1
                    assert (found[0, y1 + m : y2 - m, x1 + m : x2 - m] > 250).all()
                    found[0, max(0, y1 - m) : y2 + m, max(0, x1 - m) : x2 + m] = 0
                    assert (found[0] < 200).all()
    assert looked_at > 12


@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 70), (900, 1)])
def test_odd_shapes(name, size):
    picture, target = torch.zeros(3, *size, dtype=torch.uint8), sample()[1]
    target["boxes"] = torch.tensor([[0.0, 0, size[1], size[0]]])
    target |= {k: target[k][:1] for k in ("labels", "area", "iscrowd")}
    change = Augmentation(name)
    if name == "lsj" and size == (900, 1):  # 0.1 * 1024 pixels for 900
        with pytest.raises(ValueError, match="900 x 1 pixels are so long and thin"):
            change(picture, target)
        return
    for seed in range(6):
        torch.manual_seed(seed)
        found, changed = change(picture, target)
        assert min(found.shape) >= 1
        assert changed["boxes"].shape[1:] == (4,)


def test_wrong_names():
    with pytest.raises(ValueError, match=r"unknown augment 'flp'; nearest: flip"):
        Augmentation("flp")
    with pytest.raises(ValueError, match="augment_size=63 must be"):
        Augmentation("lsj", 63)
    for option in ({"empty_images": "x"}, {"splits": ["x"]}, {"splits": []}):
        with pytest.raises(ValueError, match=f"unknown {next(iter(option)).removesuffix('s')}"):
            load_coco("x", **option)


# --- batches


def plain(batches) -> list:
    """What can be compared: every value of every batch."""
    return [
        (
            batch.indices.tolist(),
            [i.flatten().tolist() for i in batch.images],
            [i.shape for i in batch.images],
            [{k: v.tolist() for k, v in t.items()} for t in batch.targets],
        )
        for batch in batches
    ]


def test_packing_is_exact():
    items = []
    for number, (height, width) in enumerate(SIZES):
        picture, target = sample(height, width)
        rows = slice(0, number)  # none for the first
        target |= {k: target[k][rows] for k in ("boxes", "labels", "area", "iscrowd")}
        target["iscrowd"] = target["iscrowd"] + number % 2
        target["image_id"] = torch.tensor([2**40 + number])
        items.append((number + 5, (picture, target), {number: f"reason {number}"}))
    items.insert(2, (9, None, {9: "lost"}))
    batch = pack(items).to(CPU)
    read = [item for item in items if item[1] is not None]
    assert batch.indices.tolist() == [number for number, _, _ in read]
    assert batch.unreadable == {**{n: f"reason {n}" for n in range(4)}, 9: "lost"}
    for i, (_, (picture, target), _) in enumerate(read):
        assert torch.equal(batch.images[i], picture)
        assert batch.images[i].is_contiguous()
        assert batch.targets[i].keys() == target.keys()
        for key, value in target.items():
            assert torch.equal(batch.targets[i][key], value)
            assert batch.targets[i][key].dtype == value.dtype
    parts = batch.parts(3)
    assert [len(part) for part in parts] == [2, 2]
    assert plain([DetectionBatch(b.images, b.targets, b.indices) for b in parts]) == [
        *plain([DetectionBatch(batch.images[:2], batch.targets[:2], batch.indices[:2])]),
        *plain([DetectionBatch(batch.images[2:], batch.targets[2:], batch.indices[2:])]),
    ]
    assert plain([batch.to(CPU)]) == plain([batch])
    assert batch.to(CPU).unreadable == batch.unreadable


def test_order_and_augmentation_belong_to_the_epoch(make):
    """The same with workers, from step k on, and in the shares of two processes."""
    root = make()
    options = {"augment": "ssd", "batch_size": 2}
    here = load_coco(root, **options).loaders["train"]
    whole = plain(here.batches(3))
    assert len(whole) == 2
    assert plain(load_coco(root, workers=2, **options).loaders["train"].batches(3)) == whole
    assert plain(here.batches(3, start=1)) == whole[1:]
    assert plain(here.batches(4)) != whole
    assert plain(load_coco(root, seed=1, **options).loaders["train"].batches(3)) != whole
    shares = [plain(here.batches(3, rank=rank, world=2)) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        joined = [[*a, *b] for a, b in zip(shares[0][step], shares[1][step], strict=True)]
        assert joined == [[*column] for column in batch]
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    plain(here.batches(3))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_test_split_is_shared_out(make):
    loader = load_coco(make()).loaders["test"]
    shares = [[b.indices.tolist() for b in loader.batches(0, rank=r, world=2)] for r in (0, 1)]
    assert shares == [[[0, 2]], [[1, 3]]]
    assert [len(images) for images, targets in loader] == [2, 2]


def test_a_worker_hands_over_shared_memory(make):
    """The worker puts the batch there itself: where it fails, the training hears of it."""
    loader = load_coco(make(), workers=1, batch_size=3).loaders["train"]

    def told(items):  # runs in the worker, before torch looks at the batch
        packed = pack(items)
        tensors = (packed.pixels, packed.numbers, packed.boxes)
        return replace(packed, unreadable={0: str([t.is_shared() for t in tensors])})

    loader.collate = told
    (batch,) = loader.batches(0)
    assert batch.unreadable == {0: "[True, True, True]"}
    assert loader.shape == (3, 30, 50)


def test_small_training_split_makes_small_batches(make):
    loader = load_coco(make(), batch_size=64).loaders["train"]
    assert loader.batch_size == 4
    assert [len(batch) for batch in loader.batches(0)] == [4]
    loader = load_coco(make(), batch_size=3).loaders["train"]
    assert [len(batch) for batch in loader.batches(0)] == [3]  # never ragged


# --- marks


def test_marks_tell_what_changed(make, png, pixels):
    root = make()
    known = json.loads(json.dumps(load_coco(root).marks))
    data = load_coco(root)
    assert [data.difference(split, known[NAME[split]]) for split in NAME] == ["", "", ""]
    moved = content()
    moved["annotations"][0]["bbox"][0] += 0.5
    assert load_coco(make(moved)).difference("train", known["train"]) == (
        "other annotations in its 4 images"
    )
    make()
    file = root / "train2017" / "0012.png"
    file.write_bytes(png(pixels("other", 16, 16)))
    assert load_coco(root).difference("train", known["train"]) == (
        "other contents in the files of its 4 images"
    )
    file.write_bytes(png(pixels("other", 17, 16)))  # an unreadable one is counted instead
    assert load_coco(root).difference("train", known["train"]) == ""
    fewer = content()
    fewer["images"].pop()
    assert load_coco(make(fewer)).difference("train", known["train"]) == (
        "3 images and had 4 images"
    )


NAME = {"train": "train", "val": "test", "test": "test"}


def test_check_trainable(make):
    root = make()
    load_coco(root).check_trainable()
    with pytest.raises(ValueError, match=r"train split of .* has no images"):
        load_coco(root, splits=["val"]).check_trainable()
