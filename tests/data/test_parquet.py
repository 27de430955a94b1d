"""Directories of Parquet files in the layouts that libraries write, and damaged ones."""

from __future__ import annotations

import io
import json
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from support.datasets import (
    IMAGE_FEATURE,
    NAMES,
    arrow,
    chw,
    class_label,
    everything,
    is_in_memory,
    labels,
    one_line,
    raw,
    sentence,
    shown,
    structs,
)
from support.recorded_files import real, recorded

from accuracy_booster.data import (
    load_data,
)
from accuracy_booster.data.sources import find


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label")])
def test_hugging_face_layout(make_parquet, png, pixels, image, label, struct, metadata):
    pictures = [pixels(str(i), 8, 9) for i in range(5)]
    encoded = [png(picture) for picture in pictures]
    columns = {image: structs(encoded) if struct else encoded, label: [0, 2, 1, 2, 0]}
    root = make_parquet(
        {"train-00000-of-00001.parquet": columns, "test-00000-of-00001.parquet": columns},
        {image: IMAGE_FEATURE, label: class_label()} if metadata else None,
    )
    data = load_data(str(root))
    assert data.classes == (tuple(NAMES) if metadata else ("0", "1", "2"))
    assert data.input_size == (3, 8, 9)
    assert is_in_memory(data, "test")
    images, labels = everything(data, "test")
    assert labels.tolist() == [0, 2, 1, 2, 0]
    for got, picture in zip(images, pictures, strict=True):
        assert torch.equal(got, chw(picture))


@pytest.mark.parametrize(
    "files",
    [
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test.parquet"),
        ("train/0000.parquet", "train/0001.parquet", "test/0000.parquet"),
        (
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/test.parquet",
        ),
        (
            "plain_text/train/0000.parquet",
            "plain_text/train/0001.parquet",
            "plain_text/test/0.parquet",
        ),
        ("train_0.parquet", "train_1.parquet", "validation-00000-of-00001.parquet"),
    ],
)
def test_shards_and_directories(make_parquet, png, pixels, files):
    pictures = [pixels(str(i), 8, 8) for i in range(6)]
    encoded = [png(picture) for picture in pictures]
    rows = [slice(0, 3), slice(3, 5), slice(5, 6)]
    labels = [0, 1, 2, 2, 1, 1]
    content = {
        file: {"img": structs(encoded[part]), "label": labels[part]}
        for file, part in zip(files, rows, strict=True)
    }
    data = load_data(str(make_parquet(content, {"img": IMAGE_FEATURE, "label": class_label()})))
    assert set(data.loaders) == {"train", "test"}
    pixels_in_order, labels_in_order = raw(data, "train")
    assert labels_in_order == labels[:5]
    assert pixels_in_order == [chw(picture).numpy().tobytes() for picture in pictures[:5]]
    assert raw(data, "test")[1] == [1]


def test_parquet_validation_beside_test(make_parquet, png, pixels):
    columns = {"img": [png(pixels("x", 8, 8))], "label": [0]}
    files = {f"{split}.parquet": columns for split in ("train", "validation", "test")}
    assert set(load_data(str(make_parquet(files))).loaders) == {"train", "validation", "test"}


def test_images_beside_the_parquet_files(make_parquet, png, pixels):
    """Hugging Face writes a path instead of bytes where images are not embedded."""
    root = make_parquet({"test.parquet": {"img": [{"bytes": None, "path": "x.png"}], "label": [0]}})
    (root / "x.png").write_bytes(png(pixels("x", 8, 8)))
    images, _ = everything(load_data(str(root), splits=("test",)), "test")
    assert torch.equal(images[0], chw(pixels("x", 8, 8)))


def test_parquet_without_an_image_column(make_parquet):
    with one_line("which Parquet column holds the image.*--image_column.*columns: label"):
        load_data(str(make_parquet({"test.parquet": {"label": [0]}})), splits=("test",))


@pytest.mark.parametrize("files", [("a.parquet", "b.parquet"), ("part/0000.parquet",)])
def test_parquet_files_without_names_of_splits(make_parquet, encoded, files):
    root = make_parquet({file: {"img": encoded, "label": [0, 1, 2, 3]} for file in files})
    with one_line("none is named train, val or test"):
        load_data(str(root))


def test_two_configurations_are_not_mixed(make_parquet, encoded):
    """A clone of a Hub data set can hold several: the same images, each with other labels."""
    files = {
        "fine/test-00000-of-00001.parquet": {"img": encoded, "label": [0, 1, 2, 3]},
        "coarse/test-00000-of-00001.parquet": {"img": encoded, "label": [0, 0, 1, 1]},
    }
    root = make_parquet(files)
    with one_line("coarse.*fine"):
        load_data(str(root), splits=("test",))
    assert raw(load_data(str(root / "coarse"), splits=("test",)), "test")[1] == [0, 0, 1, 1]


def test_parquet_missing_split(make_parquet, encoded):
    root = make_parquet({"train.parquet": {"img": encoded, "label": [0, 1, 2, 3]}})
    with one_line("no test split; it has: train"):
        load_data(str(root))


def test_parquet_without_rows(make_parquet):
    import pyarrow as pa

    empty = {"img": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}
    with one_line("test split .*holds no images"):
        load_data(str(make_parquet({"test.parquet": empty})), splits=("test",))


def damaged_parquet(whole: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "text": b"this is no Parquet file",
        "truncated": whole[:-30],
        "first page zero": whole[:4] + bytes(40) + whole[44:],
        "footer": whole[:-60] + bytes(40) + whole[-20:],
    }


@pytest.mark.parametrize("kind", damaged_parquet(b""))
def test_corrupt_parquet(make_parquet, encoded, kind):
    root = make_parquet({"test.parquet": {"img": encoded, "label": [0, 1, 2, 3]}})
    file = root / "test.parquet"
    file.write_bytes(damaged_parquet(file.read_bytes())[kind])
    with one_line("Parquet"):
        load_data(str(root), splits=("test",))


def test_shards_that_do_not_fit_together(make_parquet, encoded):
    files = {
        "test-0.parquet": {"img": encoded, "label": [0, 1, 2, 3]},
        "test-1.parquet": {"img": encoded, "label": ["a", "b", "c", "d"]},
    }
    with one_line("cannot read the Parquet files"):
        load_data(str(make_parquet(files)), splits=("test",))


@pytest.mark.parametrize("bad", [b"no image", b"", None], ids=["garbage", "empty", "null"])
def test_corrupt_image_bytes_name_the_row(make_parquet, encoded, bad):
    images = structs([*encoded[:2], bad, encoded[3]])
    root = make_parquet({"test.parquet": {"img": images, "label": [0, 1, 2, 3]}})
    data = load_data(str(root), splits=("test",))
    (reason,) = data.unreadable  # the rule: left out, and named
    assert re.search("test.*row 2", reason)
    assert raw(data, "test")[1] == [0, 1, 3]
    assert data.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_files_as_the_hub_s_of_cifar(make_parquet, png, pixels, name):
    """With the columns and the schema of the real files, and images that are made here."""
    record = recorded(name)
    label = next(column for column in record["columns"] if column != "img")
    count = len(record["first labels"])
    images = [{"bytes": png(pixels(str(i), 32, 32)), "path": f"{i}.png"} for i in range(count)]
    rows = {"img": images, label: record["first labels"]}
    root = make_parquet(dict.fromkeys(record["files"], rows), record["features"])
    assert columns_of(root / record["files"][0]) == record["columns"]
    data = load_data(str(root))
    assert data.classes == tuple(record["features"][label]["names"])
    assert len(data.classes) == {"cifar10": 10, "cifar100": 100}[name]
    assert data.input_size == (3, 32, 32)
    assert raw(data, "test")[1] == record["first labels"]
    assert raw(data, "train")[1] == 2 * record["first labels"]  # of two shards


def columns_of(file) -> dict[str, str]:
    import pyarrow.parquet as pq

    schema = pq.read_schema(file)
    return {name: str(schema.field(name).type) for name in schema.names}


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_records_are_those_of_the_real_files(shared, name):
    import pyarrow.parquet as pq

    root, record = real(shared, f"data/{name}"), recorded(name)
    for name in record["files"]:
        assert columns_of(root / name) == record["columns"]
        metadata = json.loads(pq.read_schema(root / name).metadata[b"huggingface"])
        assert metadata["info"]["features"] == record["features"]
    images, _ = find(str(root)).read("test")
    assert images.labels[:20].tolist() == record["first labels"]


def test_real_cifar10(shared):
    import pyarrow.parquet as pq

    root = real(shared, "data/cifar10")
    data = load_data(str(root), splits=("test",))
    assert is_in_memory(data, "test")
    images = data.loaders["test"].dataset.images
    assert images.images.shape == (10_000, 3, 32, 32)
    assert images.labels.bincount().tolist() == [1000] * 10
    table = pq.read_table(next(root.glob("test-*.parquet")))
    assert images.labels.tolist() == table["label"].to_pylist()
    for row in (0, 1, 4999, 9999):
        decoded = Image.open(io.BytesIO(table["img"][row].as_py()["bytes"])).convert("RGB")
        assert torch.equal(images.images[row], chw(np.array(decoded)))


def test_real_cifar100_labels(shared):
    images, names = find(str(real(shared, "data/cifar100"))).read("test")  # not decoded
    assert (len(names), names[0], names[-1]) == (100, "apple", "worm")
    assert images.labels.bincount().tolist() == [100] * 100


def test_what_polars_writes(tmp_path, encoded, pictures):
    pl = pytest.importorskip("polars")
    structs = [{"bytes": b, "path": None} for b in encoded]
    for name, images in (("bytes", encoded), ("structs", structs)):
        for kind in (pl.String, pl.Categorical, pl.Enum(["y", "x"])):
            root = tmp_path / f"{name}{kind}"
            root.mkdir()
            column = pl.Series(["x", "y", "x", "y"], dtype=kind)
            frame = pl.DataFrame({"image": images, "label": column})
            frame.write_parquet(root / "test.parquet")
            data = load_data(str(root), splits=("test",))
            assert data.classes == ("x", "y")
            assert labels(data) == [0, 1, 0, 1]
            assert torch.equal(shown(data), pictures)


def test_shards_of_other_types(make_parquet, encoded, pictures):
    import pyarrow as pa

    structs = [{"bytes": b, "path": None} for b in encoded]
    files = {
        "test-0.parquet": {"img": encoded[:1], "label": pa.array([2], pa.int32()), "id": ["a"]},
        "test-1.parquet": {"label": pa.array([0], pa.int64()), "img": encoded[1:2]},
        "test-2.parquet": {"img": arrow("binary_view", encoded[2:3]), "label": [1.0]},
        "test-3.parquet": {"img": structs[3:], "label": pa.array([1], pa.uint8())},
    }
    data = load_data(str(make_parquet(files)), splits=("test",), label_column="label")
    assert labels(data) == [2, 0, 1, 1]
    assert torch.equal(shown(data), pictures)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"label": ["a"] * 4}, "'label' holds numbers in test-0.parquet and text in test-1.parq"),
        ({"label": [True] * 4}, "numbers in test-0.parquet and truth values in test-1.parquet"),
        ({"other": [0] * 4}, "test-0.parquet has a column 'label' and test-1.parquet has none"),
    ],
)
def test_shards_that_disagree_are_told_in_a_sentence(make_parquet, encoded, second, message):
    files = {
        "test-0.parquet": {"img": encoded, "label": [0, 1, 2, 3]},
        "test-1.parquet": {"img": encoded, **second},
    }
    with pytest.raises(ValueError, match=message) as error:
        load_data(str(make_parquet(files)), splits=("test",))
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_a_folder_of_spark(make_parquet, encoded):
    """Spark writes a folder for a file, with check sums and marks beside the parts."""
    files = {
        f"{split}.parquet/part-0000{i}-abc.snappy.parquet": {"img": encoded, "label": [0, 1, 2, 0]}
        for split in ("train", "test")
        for i in range(2)
    }
    root = make_parquet({**files, "test.parquet/.part-00000.parquet": b"crc", "._x.parquet": b"x"})
    data = load_data(str(root))
    assert labels(data) == labels(data, "train") == [0, 1, 2, 0] * 2


pytestmark = pytest.mark.forks


def test_what_a_row_of_parquet_may_name(make_parquet, png, pixels, tmp_path):
    """A file below the folder of the data, and no other place; bytes, and no text."""
    picture = png(pixels("x", 8, 8))
    (tmp_path / "secret.png").write_bytes(picture)
    paths = ["in/x.png", str(tmp_path / "secret.png"), "../secret.png", "in/../../secret.png"]
    paths += ["..\\secret.png", "C:\\x.png", "pipe.png", "in", "none.png", "x\0.png", "zero.png"]
    rows = [{"bytes": None, "path": path} for path in paths]
    root = make_parquet({"train.parquet": {"image": rows, "label": [0] * len(rows)}})
    (root / "in").mkdir()
    (root / "in/x.png").write_bytes(picture)
    os.mkfifo(root / "pipe.png")
    (root / "zero.png").symlink_to("/dev/zero")
    data = load_data(str(root), splits=("train",), training=False)
    assert len(data.loaders["train"].dataset) == 1
    reasons = "\n".join(data.unreadable)
    assert len(data.unreadable) == len(paths) - 1
    assert reasons.count("leads out of the folder of the data") == 5
    assert reasons.count("it is no regular file") == 3


def test_text_for_bytes_is_no_path(make_parquet, png, pixels, tmp_path):
    (tmp_path / "secret.png").write_bytes(png(pixels("x", 8, 8)))
    rows = [{"bytes": str(tmp_path / "secret.png"), "path": "x"}]
    root = make_parquet({"train.parquet": {"image": rows, "label": [0]}})
    with pytest.raises(ValueError, match=r"none of 1 images .*holds str, and not bytes"):
        load_data(str(root), splits=("train",))


def test_a_parquet_file_that_is_cut(make_parquet, png, pixels):
    columns = {"image": [png(pixels("x", 8, 8))] * 20, "label": [0] * 20}
    root = make_parquet({"train.parquet": columns, "test.parquet": columns})
    whole = (root / "train.parquet").read_bytes()
    for end in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        (root / "train.parquet").write_bytes(whole[:end])
        with pytest.raises(ValueError, match="cannot read the Parquet files") as error:
            load_data(str(root))
        sentence(error)
