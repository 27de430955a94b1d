"""Files of annotations: what is refused, and what may be left out."""

from __future__ import annotations

import json

import pytest
from support.coco import content

from accuracy_booster.detection import load_coco

# M boxes of an image, H W space


FAULTS = {
    "no images": (lambda c: c.pop("images"), "images is not there"),
    "images of another type": (lambda c: c.update(images={}), "images is {}; .* a list of images"),
    "no categories": (lambda c: c.update(categories=[]), "has no categories"),
    "an entry that is none": (
        lambda c: c["images"].append(5),
        "1 of 5 images are no objects, the first number 4: 5",
    ),
    "no height": (
        lambda c: c["images"][1].pop("height"),
        r"1 of 4 images have no height, the first number 1 \(id 11\): without it",
    ),
    "a width that is text": (lambda c: c["images"][2].update(width="16"), "width='16'"),
    "a width of 0": (lambda c: c["images"][2].update(width=0), "width=0"),
    "an id that is text": (
        lambda c: [i.update(id=str(i["id"])) for i in c["images"]],
        r"4 of 4 images have a id that is not a whole number, the first number 0 .*id='10'",
    ),
    "an id that is true": (lambda c: c["categories"][0].update(id=True), "id=True"),
    "an id beyond 64 bits": (lambda c: c["images"][0].update(id=2**63), "id=9223372036854775808"),
    "two images of one id": (
        lambda c: c["images"][1].update(id=10),
        "the id 10 is that of 2 images; each needs its own",
    ),
    "two categories of one id": (lambda c: c["categories"][1].update(id=7), "id 7 .* 2 categ"),
    "two categories of one name": (
        lambda c: c["categories"][1].update(name="dog"),
        "the name 'dog' is that of 2 categories",
    ),
    "a name that is none": (lambda c: c["categories"][1].update(name=" "), "name=' '"),
    "three numbers": (
        lambda c: c["annotations"][4]["bbox"].pop(),
        r"1 of 7 annotations have a bbox that is not 4 finite numbers, .* number 4 \(id 5\): bbox=",
    ),
    "NaN": (lambda c: c["annotations"][4].update(bbox=[1, 2, float("nan"), 4]), "nan, 4"),
    "infinity": (lambda c: c["annotations"][4].update(bbox=[1, 2, 3, float("inf")]), "inf"),
    "text in a box": (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, "4"]), "'4'"),
    "a box beyond float": (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, 10**400]), "bits"),
    "no box": (lambda c: c["annotations"][0].pop("bbox"), "1 of 7 annotations have no bbox"),
    "image_id as text": (lambda c: c["annotations"][0].update(image_id="10"), "image_id='10'"),
    "no category_id": (lambda c: c["annotations"][0].pop("category_id"), "no category_id"),
    "an area of NaN": (lambda c: c["annotations"][0].update(area=float("nan")), "area=nan"),
    "a crowd of 2": (lambda c: c["annotations"][0].update(iscrowd=2), "iscrowd=2"),
    "several kinds": (
        lambda c: (c["annotations"][0].pop("bbox"), c["annotations"][3].update(area="x")),
        "have no bbox, .*; 1 of 7 annotations have a area",
    ),
    **{
        f"the path {path!r}": (
            lambda c, path=path: c["images"][0].update(file_name=path),
            "a file_name that is not a path below the folder",
        )
        for path in ("../x.png", "/etc/x.png", "a/../../x.png", "C:\\x", "..\\x", "", "a\0", 3)
    },
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_file(make, fault):
    change, line = FAULTS[fault]
    root, broken = make(), content()
    change(broken)
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=line) as caught:
        load_coco(root)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        *((b"", "damaged"), (b'{"images": [', "damaged"), (b"[1]", "no JSON object")),
        *((b"\xff", "damaged"), (b"[" * 100_000, "damaged")),
        (b'{"images": ' + b"9" * 5000 + b"}", "damaged"),
    ],
)
def test_damaged_file(make, text, line):
    root = make()
    (root / "annotations" / "instances_val2017.json").write_bytes(text)
    with pytest.raises(ValueError, match=f"instances_val2017.json .*{line}"):
        load_coco(root)


def test_what_may_be_left_out_of_a_file(make):
    """No area, no iscrowd, no annotation ids, null for them; sizes as 32.0; a BOM."""
    bare = content()
    for entry in bare["annotations"]:
        del entry["id"], entry["area"], entry["iscrowd"]
    bare["annotations"][0] |= {"area": None, "iscrowd": None}
    bare["images"][0]["width"] = 32.0
    root = make(bare)
    file = root / "annotations" / "instances_train2017.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    data = load_coco(root)
    assert data.images["train"][0][1]["area"].tolist() == [120, 72]
    assert [a["id"] for a in data.truth("train")["annotations"]] == [*range(1, 8)]
    assert data.truth("train")["images"][0]["width"] == 32
