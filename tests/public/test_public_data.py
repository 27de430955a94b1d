"""Files as they lie on people's disks. What is loaded is compared with what was saved."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from accuracy_booster.data.loaders import load_data
from accuracy_booster.data.sources import find

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def items(root, split: str = "train", **options):
    images, classes = find(str(root), **options).read(split)
    return [images[i] for i in range(len(images))], classes


def written(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def grey16(values: np.ndarray) -> Image.Image:
    return Image.frombytes("I;16", values.shape[::-1], values.astype("<u2").tobytes())


def decode(make_folder, data: bytes) -> np.ndarray:
    """uint8 [H, W] of a grey picture; its three channels are alike."""
    root = make_folder({"train/a": [data], "test/a": [data]})
    ((pixels, label),), _ = items(root)
    assert label == 0
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 16, 16)
    assert (pixels == pixels[:1]).all()
    return pixels[0].numpy()


def test_eight_bits_are_kept(make_folder):
    """The control of the next tests: an 8-bit ramp comes back as it was."""
    np.testing.assert_array_equal(decode(make_folder, written(Image.fromarray(RAMP), "PNG")), RAMP)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_cut_off(make_folder, format):
    """Pillow#3011, Pillow#2574: `convert("RGB")` makes all but the darkest pixels white."""
    data = written(grey16(RAMP.astype(np.uint16) * 257), format)
    np.testing.assert_allclose(decode(make_folder, data).astype(int), RAMP.astype(int), atol=1)


def test_sixteen_bits_of_a_dark_scan(make_folder):
    """Pillow#5991: twelve-bit values in a sixteen-bit file keep their order; none is cut off."""
    data = written(grey16(RAMP.astype(np.uint16) * 16), "PNG")
    got = decode(make_folder, data).astype(int)
    np.testing.assert_allclose(got, RAMP.astype(int) * 16 / 257, atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr"])
def test_modes_of_pixels(make_folder, mode):
    """unsloth#10970: modes that are neither RGB nor RGBA decode to what they show."""
    bars = np.where(RAMP < 128, 0, 255).astype(np.uint8)
    image = Image.fromarray(bars).convert("RGB" if mode in ("CMYK", "YCbCr") else "L").convert(mode)
    data = written(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    np.testing.assert_allclose(decode(make_folder, data).astype(int), bars.astype(int), atol=2)


def test_names_of_classes_that_are_numbers(make_folder):
    """vision#714, timm#222, places365#22: "10" sorts before "2"; the names must say which is which.

    The brightness of an image is its folder's number.
    """
    numbers = [0, 1, 2, 9, 10, 11, 100]
    grey = {n: np.full((8, 8, 3), n, np.uint8) for n in numbers}
    folders = {f"{s}/{n}": [grey[n]] for n in numbers for s in ("train", "test")}
    root = make_folder(folders)
    for split in ("train", "test"):
        got, classes = items(root, split)
        assert len(got) == len(numbers)
        for pixels, label in got:
            assert int(classes[label]) == int(pixels[0, 0, 0])


def test_a_test_split_with_fewer_classes(make_folder):
    """DeepForest#1147, CASA#10: labels are numbered by training, whatever the test split lacks."""
    root = make_folder({"train/a": 1, "train/b": 1, "train/c": 1, "test/c": 2})
    got, classes = items(root, "test")
    assert classes == ("a", "b", "c")
    assert [label for _, label in got] == [2, 2]


def test_an_empty_class_keeps_its_number(make_folder):
    """vision#4925, vision#8297: a class folder without images."""
    root = make_folder({"train/a": 1, "train/b": 0, "train/c": 2, "test/c": 1})
    got, classes = items(root)
    assert classes == ("a", "b", "c")
    assert sorted(label for _, label in got) == [0, 2, 2]


def test_files_beside_the_class_folders(make_folder):
    """vision#79, fastai#488: `.DS_Store`, `Thumbs.db` and notes are no classes and no images."""
    root = make_folder({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1})
    for place in ("", "train", "train/a", "test"):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "labels.csv", "README.md"):
            (root / place / name).write_bytes(b"\0\0")
    got, classes = items(root)
    assert classes == ("a", "b")
    assert [label for _, label in got] == [0, 1]


def test_capital_suffixes(make_folder):
    """vision#707: cameras write .JPG, .PNG and .TIF."""
    root = make_folder({"train/a": 0, "test/a": 1})
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    for suffix, format in ((".JPG", "JPEG"), (".PNG", "PNG"), (".TIF", "TIFF"), (".Jpeg", "JPEG")):
        (root / "train/a" / f"x{suffix}").write_bytes(written(picture, format))
    assert len(items(root)[0]) == 4


def test_folders_inside_class_folders(make_folder):
    """vision#2831's other half: sessions or cameras below a class belong to that class."""
    root = make_folder(
        {"train/a/day1": 2, "train/a/day2": 1, "train/b": 1, "test/a": 1, "test/b": 1}
    )
    got, classes = items(root)
    assert classes == ("a", "b")
    assert sorted(label for _, label in got) == [0, 0, 0, 1]


def encoded(png, count: int) -> list[bytes]:
    return [png(np.full((8, 8, 3), 20 * i, np.uint8)) for i in range(count)]


@pytest.mark.parametrize(
    ("file", "hidden"),
    [
        ("train-0.parquet", "._train-0.parquet"),
        ("train/0.parquet", "train/._0.parquet"),
        ("train-0.parquet", ".cache/train-0.parquet"),
        ("train-0.parquet", "__MACOSX/train-0.parquet"),
    ],
)
def test_hidden_parquet_files(make_parquet, png, file, hidden):
    """vision#109, datasets#4077: macOS writes a `._x`, no Parquet, beside each file x."""
    table = {"image": encoded(png, 3), "label": [0, 1, 2]}
    root = make_parquet({file: table, "test.parquet": table, hidden: b"\0\5\26\7\0\2\0\0"})
    got, _ = items(root)
    assert [label for _, label in got] == [0, 1, 2]


def test_an_empty_shard(make_parquet, png):
    """modin#4782's kind: writers leave shards without rows behind, first or last."""
    import pyarrow as pa

    none = {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}
    table = {"image": encoded(png, 3), "label": [0, 1, 2]}
    files = {"train-0.parquet": none, "train-1.parquet": table, "train-2.parquet": none}
    got, _ = items(make_parquet({**files, "test.parquet": table}))
    assert [label for _, label in got] == [0, 1, 2]


def attempt(read):
    """A refusal's message and None, or an empty message and what was read."""
    try:
        return "", read()
    except ValueError as e:
        return str(e), None


def features(names: list[str]) -> dict:
    return {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}


def test_class_names_in_another_order(make_parquet, png):
    """DataVec#105, MLRSNet#4: the schemas of two splits number the same names differently.

    Label 0 is a cat for training and a dog in the test file: mapped by name, or refused with both
    named, but never taken for the same class.
    """
    table = {"image": encoded(png, 2), "label": [0, 1]}
    root = make_parquet({"train.parquet": table}, features(["cat", "dog"]))
    make_parquet({"test.parquet": table}, features(["dog", "cat"]))
    message, data = attempt(lambda: load_data(str(root)))
    if data is None:
        assert "cat" in message
        assert "dog" in message
        return
    labels = torch.cat([labels for _, labels in data.loaders["test"]])
    assert data.classes == ("cat", "dog")
    assert labels.tolist() == [1, 0]


def test_shards_whose_class_names_differ(make_parquet, png):
    """MLRSNet#4: two shards of one split, each with names of its own."""
    table = {"image": encoded(png, 2), "label": [0, 1]}
    root = make_parquet({"train-0.parquet": table}, features(["cat", "dog"]))
    make_parquet({"train-1.parquet": table, "test.parquet": table}, features(["dog", "cat"]))
    message, read = attempt(lambda: items(root))
    if read is None:
        assert "cat" in message
        assert "dog" in message
        return
    got, classes = read
    assert [classes[label] for _, label in got] == ["cat", "dog", "dog", "cat"]


@pytest.mark.parametrize(
    "kind",
    [
        "int8",
        "uint64",
        "bool",
        "float64",
    ],
)
def test_types_of_labels(make_parquet, png, kind):
    """pytorch-metric-learning#16's kind: what writers make of labels (pandas: float64 for gaps)."""
    import pyarrow as pa

    labels = pa.array([0, 1, 1, 0]).cast(pa.bool_() if kind == "bool" else getattr(pa, kind)())
    table = {"image": encoded(png, 4), "label": labels}
    got, _ = items(make_parquet({"train.parquet": table, "test.parquet": table}))
    assert [label for _, label in got] == [0, 1, 1, 0]


def test_a_cut_off_file_is_named(make_folder):
    """fastai#488's other half: half a picture is no picture, and the message says which file."""
    whole = written(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")
    root = make_folder({"train/a": [whole, whole[: len(whole) // 3]], "test/a": 1})
    images, _ = find(str(root)).read("train")
    assert images[0][0].shape == (3, 64, 64)
    with pytest.raises(ValueError, match=r"001\.png"):
        images[1]


def test_links_to_class_folders(make_folder, tmp_path):
    """vision#2831: class folders and images that are links to another place are followed."""
    elsewhere = make_folder({"a": 2, "b": 1}, name="elsewhere")
    root = tmp_path / "linked"
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for name in ("a", "b"):
            os.symlink(elsewhere / name, root / split / name)
    got, classes = items(root)
    assert classes == ("a", "b")
    assert sorted(label for _, label in got) == [0, 0, 1]
