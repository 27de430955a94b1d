"""Parquet as Hugging Face, pandas, Polars and Spark write it: column types, labels, shards."""

# N batch, C channels, H W space

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
import torch

import accuracy_booster as ab
from accuracy_booster.data import load_data


@pytest.fixture
def encoded(png, pixels) -> list[bytes]:
    return [png(pixels(str(i), 8, 8)) for i in range(4)]


def labels(data, split: str = "test") -> list[int]:
    return data.loaders[split].dataset.images.labels.tolist()


def shown(data, split: str = "test") -> torch.Tensor:
    return torch.stack([image for image, _ in data.loaders[split].dataset])


@pytest.fixture
def pictures(pixels) -> torch.Tensor:
    """What the four images must be read as, [4, C, H, W]."""
    return torch.tensor(np.stack([pixels(str(i), 8, 8) for i in range(4)])).permute(0, 3, 1, 2)


def arrow(kind: str, values):
    import pyarrow as pa

    if kind == "dictionary":
        return pa.array(values).dictionary_encode()
    if kind == "dictionary of large":
        return pa.array(values, pa.large_string()).dictionary_encode()
    return pa.array(values, getattr(pa, kind)())


@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view"])
def test_images_of_every_binary_type(make_parquet, encoded, pictures, kind):
    root = make_parquet({"test.parquet": {"img": arrow(kind, encoded), "label": [0, 1, 0, 1]}})
    assert torch.equal(shown(load_data(str(root), splits=("test",))), pictures)


@pytest.mark.parametrize("kind", ["large_binary", "binary_view"])
def test_structs_of_every_binary_type(make_parquet, encoded, pictures, kind):
    import pyarrow as pa

    fields = {"bytes": getattr(pa, kind)(), "path": pa.string_view()}
    images = pa.array([{"bytes": b, "path": "x"} for b in encoded], pa.struct(fields))
    boxes = pa.array([{"x": 1}] * 4)  # a struct that holds no image
    root = make_parquet({"test.parquet": {"img": images, "box": boxes, "label": [0, 1, 0, 1]}})
    assert torch.equal(shown(load_data(str(root), splits=("test",))), pictures)


@pytest.mark.parametrize(
    "kind", ["string", "large_string", "string_view", "dictionary", "dictionary of large"]
)
def test_text_labels_of_every_type(make_parquet, encoded, kind):
    values = arrow(kind, ["b", "a", "b", "c"])
    data = load_data(
        str(make_parquet({"test.parquet": {"img": encoded, "label": values}})), splits=("test",)
    )
    assert data.classes == ("a", "b", "c")
    assert labels(data) == [1, 0, 1, 2]


@pytest.mark.parametrize(
    ("values", "classes", "expected"),
    [
        ([True, False, True, True], ("False", "True"), [1, 0, 1, 1]),
        ([0.0, 2.0, 1.0, 0.0], ("0", "1", "2"), [0, 2, 1, 0]),  # of pandas, once with a gap
    ],
)
def test_truth_values_and_whole_fractions(make_parquet, encoded, values, classes, expected):
    root = make_parquet({"test.parquet": {"img": encoded, "label": values}})
    data = load_data(str(root), splits=("test",))
    assert data.classes == classes
    assert labels(data) == expected


def test_a_truth_value_beside_a_number_is_not_the_label(make_parquet, encoded):
    columns = {"img": encoded, "mirrored": [True, False, True, False], "kind": [2, 1, 0, 1]}
    data = load_data(str(make_parquet({"test.parquet": columns})), splits=("test",))
    assert labels(data) == [2, 1, 0, 1]


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


@pytest.mark.parametrize("given", [["ant", "bee", "cow"], {"0": "ant", "1": "bee", "2": "cow"}])
def test_names_of_class_label(make_parquet, encoded, given):
    features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": given}}
    root = make_parquet({"test.parquet": {"img": encoded, "label": [2, 0, 1, 1]}}, features)
    assert load_data(str(root), splits=("test",)).classes == ("ant", "bee", "cow")


def test_a_label_that_the_schema_does_not_name(make_parquet, encoded):
    features = {"label": {"_type": "ClassLabel", "names": ["ant", "bee"]}}
    columns = {"img": encoded, "label": ["ant", "bee", "wasp", "ant"]}
    root = make_parquet({"test.parquet": columns}, features)
    with pytest.raises(ValueError, match="holds 'wasp', which is none of the 2 classes"):
        load_data(str(root), splits=("test",))


# splits without labels

NOTHING = {
    "minus one": [-1] * 4,
    "null": [None] * 4,
    "fractions": [float("nan")] * 4,
    "no text": [""] * 4,
}


@pytest.fixture
def unlabelled(make_parquet, encoded):
    """`unlabelled(kind, extra)`: 4 training images, and 4 in a test split without labels."""

    def make(kind: str, **extra):
        text = kind == "no text"
        train = {"img": encoded, "label": ["x", "y", "x", "y"] if text else [0, 1, 0, 1]}
        test = {"img": encoded, "id": [7, 8, 9, 10]}
        if kind != "column missing":
            test["label"] = NOTHING[kind]
        files = {f"{split}.parquet": {**train, **columns} for split, columns in extra.items()}
        return str(make_parquet({"train.parquet": train, "test.parquet": test, **files}))

    return make


@pytest.mark.parametrize("kind", [*NOTHING, "column missing"])
def test_a_test_split_without_labels_is_left_out(unlabelled, capsys, kind):
    root = unlabelled(kind)
    with pytest.raises(ValueError, match=r"test split .*has no label.*--validation 0\.2") as error:
        load_data(root)
    assert "\n" not in str(error.value)
    data = load_data(root, validation=0.5)
    assert labels(data) == [1, 0] or sorted(labels(data)) == [0, 1]
    assert len(labels(data, "train")) == 2
    assert re.search(r"has no label.*; it is left out", capsys.readouterr().err)


def test_the_validation_split_then_is_the_test_split(unlabelled, capsys):
    root = unlabelled("minus one", validation={})
    data = load_data(root)
    assert set(data.loaders) == {"train", "test"}
    assert labels(data) == [0, 1, 0, 1]
    told = capsys.readouterr().err
    assert "all are -1 or missing; it is left out" in told
    assert "the validation split of" in told
    held = load_data(root, validation=0.5)
    assert set(held.loaders) == {"train", "test", "validation"}
    assert labels(held) == [0, 1, 0, 1]


def test_a_validation_split_without_labels_is_left_out(make_parquet, encoded, capsys):
    good = {"img": encoded, "label": [0, 1, 0, 1]}
    files = {"train.parquet": good, "test.parquet": good}
    files["validation.parquet"] = {"img": encoded, "label": [-1] * 4}
    assert set(load_data(str(make_parquet(files))).loaders) == {"train", "test"}
    assert "it is left out" in capsys.readouterr().err


def test_train_and_evaluate_beside_a_test_split_without_labels(make_parquet, tmp_path, png):
    flat = [png(np.full((8, 8, 3), 12 * i, np.uint8)) for i in range(20)]
    files = {
        "train.parquet": {"img": flat, "label": [int(i > 9) for i in range(20)]},
        "test.parquet": {"img": flat, "label": [-1] * 20},
    }
    root = str(make_parquet(files))
    options = {"epochs": 1, "batch_size": 8, "device": "cpu", "compile": "off"}
    with pytest.raises(ValueError, match="no labels"):
        ab.train("resnet8", data=root, output=str(tmp_path / "no"), **options)
    assert not (tmp_path / "no").exists()
    result = ab.train("resnet8", data=root, validation=0.2, output=str(tmp_path / "run"), **options)
    assert result.test.images == 4
    assert ab.evaluate(tmp_path / "run").to_dict() == result.test.to_dict()
    info = json.loads((tmp_path / "run/run.json").read_text())
    assert info["test"]["images"] == 4


def test_a_few_rows_without_a_label_are_refused(make_parquet, encoded):
    root = make_parquet({"test.parquet": {"img": encoded, "label": ["a", None, "b", ""]}})
    with pytest.raises(ValueError, match=r"has 2 of 4 rows without a label; leave these rows out"):
        load_data(str(root), splits=("test",))


def test_labels_of_timms_readers_may_be_missing():
    from types import SimpleNamespace

    from accuracy_booster.data.timm_sources import _labels

    assert _labels(SimpleNamespace(targets=None, labels=[None, 1])) == [-1, 1]
    rows = SimpleNamespace(label_key="y", dataset={"y": [None, None]})
    assert _labels(rows) == [-1, -1]


def test_a_tar_that_macos_wrote(tmp_path, png):
    """bsdtar stores ._x.png beside x.png; the reader of timm takes both for images."""
    import tarfile

    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as tar:
            for name in ("a/0.png", "b/0.gif", "a/._0.png", "__MACOSX/._0.png", "._b/0.png"):
                flat = np.full((8, 8, 3), 200 if name == "b/0.gif" else 90, np.uint8)
                content = png(flat, "GIF" if name == "b/0.gif" else "PNG")
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    (tmp_path / "._train.tar").write_bytes(b"x")
    data = load_data(str(tmp_path))
    assert data.classes == ("a", "b")
    assert labels(data) == [0, 1]
    assert shown(data).float().mean((1, 2, 3)).tolist() == [90, 200]
