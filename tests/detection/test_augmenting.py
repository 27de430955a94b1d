"""Augmentation changes pixels and boxes together, and follows torchvision."""

from __future__ import annotations

import pytest
import torch
from support.batches import sample
from torchvision import tv_tensors
from torchvision.transforms import v2

from accuracy_booster.detection.augmenting import Augmentation
from accuracy_booster.detection.choices import AUGMENTS

# M boxes of an image, H W space


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
