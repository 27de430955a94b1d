"""Columns of Parquet files: which hold images and labels, and what labels mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.datasets import (
    IMAGE_FEATURE,
    arrow,
    class_label,
    everything,
    labels,
    one_line,
    raw,
    sentence,
    shown,
    structs,
)

from accuracy_booster.data import (
    load_data,
)


def test_text_labels(make_parquet, encoded):
    files = {
        "train.parquet": {"image": encoded, "label": ["cow", "ant", "bee", "ant"]},
        "test.parquet": {"image": encoded[:2], "label": ["cow", "bee"]},
    }
    data = load_data(str(make_parquet(files)))
    assert data.classes == ("ant", "bee", "cow")
    assert raw(data, "train")[1] == [2, 0, 1, 0]
    assert raw(data, "test")[1] == [2, 1]  # numbered as in the training split


def test_text_labels_that_are_numbers(make_parquet, encoded):
    """ "10" sorts before "2": a label is its text, not its place among another split's."""
    train = [str(i) for i in range(12)]
    files = {
        "train.parquet": {"image": encoded * 3, "label": train},
        "test.parquet": {"image": encoded[:3], "label": ["0", "1", "2"]},
    }
    data = load_data(str(make_parquet(files)))
    for split, texts in (("train", train), ("test", ["0", "1", "2"])):
        assert [data.classes[label] for label in raw(data, split)[1]] == texts


def test_dictionary_encoded_text_labels(make_parquet, encoded):
    """What pandas writes for a categorical column."""
    import pyarrow as pa

    labels = pa.array(["b", "a", "b", "a"]).dictionary_encode()
    root = make_parquet({"test.parquet": {"image": encoded, "label": labels}})
    data = load_data(str(root), splits=("test",), label_column="label")
    assert data.classes == ("a", "b")
    assert raw(data, "test")[1] == [1, 0, 1, 0]


def test_which_of_two_label_columns(make_parquet, encoded):
    columns = {"img": encoded, "fine_label": [3, 2, 1, 0], "coarse_label": [1, 1, 0, 0]}
    features = {
        "img": IMAGE_FEATURE,
        "fine_label": class_label("wxyz"),
        "coarse_label": class_label(("one", "two")),
    }
    for name, kinds in (("with", features), ("without", None)):
        root = str(make_parquet({"test.parquet": columns}, kinds, name=name))
        with one_line("fine_label, coarse_label.*--label_column"):
            load_data(root, splits=("test",))
        data = load_data(root, splits=("test",), label_column="coarse_label")
        assert raw(data, "test")[1] == [1, 1, 0, 0]
        assert len(data.classes) == 2
        with one_line("'fine_labels'.*nearest: fine_label"):
            load_data(root, splits=("test",), label_column="fine_labels")


def test_which_of_two_image_columns(make_parquet, encoded):
    columns = {"left": encoded, "right": encoded[::-1], "label": [0, 1, 2, 3]}
    root = str(make_parquet({"test.parquet": columns}))
    with one_line("left, right.*--image_column"):
        load_data(root, splits=("test",))
    right, left = (
        raw(load_data(root, splits=("test",), image_column=column), "test")[0]
        for column in ("right", "left")
    )
    assert right == left[::-1]
    assert len(set(left)) == 4
    with one_line("'write'.*nearest: right"):
        load_data(root, splits=("test",), image_column="write")


@pytest.mark.parametrize(
    ("columns", "features", "classes"),
    [
        ({"id": [7, 8, 9, 9], "label": [1, 0, 1, 0]}, None, ("0", "1")),
        ({"caption": list("abcd"), "kind": [1, 0, 1, 0]}, None, ("0", "1")),
        ({"id": [0, 1, 2, 3], "label": ["y", "x", "y", "x"]}, None, ("x", "y")),
        ({"label": [7, 8, 9, 9], "kind": [1, 0, 1, 0]}, {"kind": class_label("xy")}, ("x", "y")),
        ({"mask": [b"mask"] * 4, "label": [1, 0, 1, 0]}, None, ("0", "1")),
    ],
    ids=[
        *("number called label beside id", "number beside text", "text called label beside id"),
        *("ClassLabel beside label", "image beside mask"),
    ],
)
def test_which_column_is_which(make_parquet, encoded, columns, features, classes):
    """The schema of `datasets` comes first, then the names "image" and "label", then the types."""
    root = make_parquet({"test.parquet": {"image": encoded, **columns}}, features)
    data = load_data(str(root), splits=("test",))
    assert data.classes == classes
    assert raw(data, "test")[1] == [1, 0, 1, 0]


def test_an_image_of_the_schema_comes_before_a_column_called_image(make_parquet, encoded):
    columns = {"image": [b"a checksum"] * 4, "photo": encoded, "label": [1, 0, 1, 0]}
    root = make_parquet({"test.parquet": columns}, {"photo": IMAGE_FEATURE})
    assert everything(load_data(str(root), splits=("test",)), "test")[0].shape == (4, 3, 8, 8)


@pytest.mark.parametrize(
    ("columns", "features", "message"),
    [
        (
            {"label": [-1, 0, 1, 2]},
            None,
            "labels -1 to 2, and class numbers start at 0.*without a label",
        ),
        ({"label": [-1, -1, -1, -1]}, None, "has no labels: .*all are -1"),
        (
            {"label": [0, 1, 2, 3]},
            {"img": IMAGE_FEATURE, "label": class_label()},
            "labels 0 to 3.*0 to 2",
        ),
        ({"label": [0, 1, None, 2]}, None, "'label' .*without a label"),
        ({}, None, "which Parquet column holds the label.*none fits"),
        ({"label": [0.0, 1.0, 0.5, 2.0]}, None, "'label' .*holds 0.5.*class number is whole"),
    ],
)
def test_bad_labels(make_parquet, encoded, columns, features, message):
    root = make_parquet({"test.parquet": {"img": encoded, **columns}}, features)
    with one_line(message):
        load_data(str(root), splits=("test",))


@pytest.mark.parametrize(
    ("image", "label", "named"),
    [
        ("img", "weight", "weight"),
        ("img", "img", "img"),
        ("img", "also", "also"),
        ("weight", "label", "weight"),
        ("label", "fine", "label"),
        ("label", "label", "label"),
    ],
)
def test_columns_that_cannot_hold_what_is_asked(make_parquet, encoded, image, label, named):
    """Halves are no classes (0.5 is not class 0), and neither are images; numbers are no images."""
    columns = {
        **{"img": encoded, "also": structs(encoded)},
        **{"label": [0, 1, 0, 1], "fine": [0, 1, 2, 3], "weight": [0.5, 0.2, 1.5, 0.0]},
    }
    root = make_parquet({"test.parquet": columns})
    with one_line(named):
        data = load_data(str(root), splits=("test",), image_column=image, label_column=label)
        everything(data, "test")


@pytest.mark.parametrize("metadata", [b"{broken", b'{"info": null}'])
def test_foreign_metadata_is_no_obstacle(make_parquet, encoded, metadata):
    """It is a hint about types: without it the columns are told by their types and names."""
    import pyarrow.parquet as pq

    root = make_parquet({"test.parquet": {"img": encoded, "label": [0, 1, 0, 1]}})
    file = root / "test.parquet"
    table = pq.read_table(file).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(table, file)
    assert load_data(str(root), splits=("test",)).classes == ("0", "1")


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


def test_a_few_rows_without_a_label_are_refused(make_parquet, encoded):
    root = make_parquet({"test.parquet": {"img": encoded, "label": ["a", None, "b", ""]}})
    with pytest.raises(ValueError, match=r"has 2 of 4 rows without a label; leave these rows out"):
        load_data(str(root), splits=("test",))


pytestmark = pytest.mark.forks


@pytest.mark.parametrize("label", [10**18, 2**63, 1e300, -(2.0**70)])
def test_labels_beyond_measure(make_parquet, png, pixels, label):
    columns = {
        "image": [png(pixels("x", 8, 8))] * 2,
        "label": np.array([0, label], np.uint64 if label == 2**63 else None),
    }
    root = make_parquet({"train.parquet": columns})
    with pytest.raises(ValueError, match="no class number") as error:
        load_data(str(root), splits=("train",))
    sentence(error)
