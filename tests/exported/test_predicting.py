"""An exported file predicts what its run predicts, also where there is no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support.exported_files import ABOUT, NAMES, write_means
from support.trainings import short

import accuracy_booster as ab
from accuracy_booster.exported import open_file

pytestmark = pytest.mark.filterwarnings("ignore")
OTHERS = {"interpolation": "bicubic", "crop_pct": 0.8, "mean": (0.4, 0.5, 0.6)}
# a process in which these cannot be imported, as where they are not installed
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {
            "torch", "torchvision", "timm", "accelerate", "safetensors", "pyarrow", "matplotlib",
            "jinja2", "sklearn", "scipy", "onnx", "onnxscript",
        }:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def run_blocked(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED + code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of many sizes and kinds, and one that cannot be read."""
    root = tmp_path_factory.mktemp("photos") / "photos"
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label, name in enumerate(("dark", "grey", "white")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 130, (*rng.integers(20, 130, 2), 3)) + 60 * label
                Image.fromarray(noise.astype(np.uint8)).save(root / split / name / f"{i}.png")
    kinds = root / "kinds"
    kinds.mkdir()
    picture = Image.fromarray(rng.integers(0, 255, (70, 45, 3)).astype(np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(kinds / "turned.jpg", exif=exif, quality=95)
    picture.convert("L").save(kinds / "grey.png")
    picture.convert("P").save(kinds / "palette.gif")
    picture.resize((300, 4)).save(kinds / "long.png")
    deep = rng.integers(0, 65535, (40, 50)).astype(np.uint16)
    Image.fromarray(deep).save(kinds / "deep.png")
    picture.putalpha(picture.convert("L"))
    picture.save(kinds / "see_through.png")
    (kinds / "bad.png").write_bytes(b"no image")
    (kinds / "empty.jpg").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    options = short(tmp_path_factory.mktemp("runs"), image_size=(24, 32), compile="off")
    return ab.train("resnet8", block="ab", data=str(photos), **options, **OTHERS).output


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("files") / "net.onnx"
    return ab.export(trained, output, batch_sizes=None, count=4).path


def assert_same(found, expected):
    """The same predictions, but for roundings of the runtime."""
    found, expected = list(found), list(expected)
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        same = ("image", "classes", "unreadable")
        assert all(getattr(ours, name) == getattr(theirs, name) for name in same)
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_file_predicts_what_its_run_predicts(trained, file, photos, workers, batch_size):
    images = [photos / "test", photos / "kinds"]
    found = list(ab.predict(file, images, workers=workers, batch_size=batch_size))
    assert_same(found, ab.predict(trained, images))
    assert sum(bool(p.unreadable) for p in found) == 2
    assert len({p.classes[0] for p in found if p.classes}) > 1, "the case tells nothing"


@pytest.mark.parametrize("suffix", [".xml", ".pt2"])
def test_the_other_formats(trained, photos, tmp_path, suffix):
    file = ab.export(trained, tmp_path / f"net{suffix}", batch_sizes=None, count=4).path
    assert_same(ab.predict(file, photos / "test"), ab.predict(trained, photos / "test"))


def test_a_file_for_a_fixed_number_of_images(trained, photos, tmp_path):
    file = ab.export(trained, tmp_path / "net.onnx", batch=4, batch_sizes=None, count=4).path
    assert open_file(file).about.batch == 4
    for size in (1, 3, 64):
        found = ab.predict(file, photos / "test", batch_size=size)
        assert_same(found, ab.predict(trained, photos / "test"))


@pytest.fixture
def small(tmp_path):
    return write_means(tmp_path / NAMES["onnx"])


def test_images_of_all_kinds_are_alike(small, tmp_path, pixels):
    array = pixels("kinds", 30, 20)
    Image.fromarray(array).save(tmp_path / "a.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    given = [tmp_path / "a.png", Image.fromarray(array), array, tensor]
    found = list(ab.predict(small, given))
    assert [p.image for p in found] == [str(tmp_path / "a.png"), 1, 2, 3]
    assert len({(p.classes, p.probabilities) for p in found}) == 1
    assert sum(found[0].probabilities) == pytest.approx(1)
    assert list(found[0].probabilities) == sorted(found[0].probabilities, reverse=True)
    assert [p.image for p in ab.predict(small, torch.stack([tensor] * 3))] == [0, 1, 2]
    grey = array[..., 0]
    three = np.repeat(grey[..., None], 3, axis=2)
    assert_same(ab.predict(small, [grey, Image.fromarray(grey)]), ab.predict(small, [three] * 2))
    session = open_file(small)
    assert list(ab.predict(session, given)) == found


def test_a_file_of_grey_images(pixels, tmp_path):
    run = ab.train("resnet8", data="digits", **short(tmp_path, compile="off")).output
    file = ab.export(run, tmp_path / "net.onnx", batch_sizes=None, count=4).path
    array = pixels("grey", 30, 20)
    Image.fromarray(array).save(tmp_path / "a.png")
    given = [tmp_path / "a.png", array, array[..., 0], Image.fromarray(array)]
    assert_same(ab.predict(file, given), ab.predict(run, given))


def test_a_generator_is_read_a_batch_at_a_time(small):
    taken = []

    def made():
        for i in range(40):
            taken.append(i)
            yield np.full((9, 9, 3), i, dtype=np.uint8)

    found = ab.predict(small, made(), batch_size=3, top=1)
    assert next(found).image == 0
    assert len(taken) == 3
    rest = list(found)
    assert [p.image for p in rest] == list(range(1, 40))
    assert {len(p.classes) for p in rest} == {1}


def test_what_takes_too_much_memory_is_unreadable(tmp_path):
    texts = ABOUT.to_texts() | {"crop_mode": "squash"}
    file = write_means(tmp_path / "model.onnx", texts)
    line = np.zeros((1, 1_000_001, 3), np.uint8)
    (found,) = ab.predict(file, line)
    assert found.unreadable.startswith("cannot read the image number 0: an edge of its 1 x 1000001")


@pytest.mark.parametrize(
    ("images", "options", "says"),
    [
        ([], {}, "no images are given"),
        (None, {}, "images=None must be files, folders, patterns or images"),
        ("nowhere.jpg", {}, "no file or directory 'nowhere.jpg'; check the path"),
        (3, {}, "images=3 must be"),
        ([3], {}, "image number 0 is int; give a path"),
        (np.zeros((4, 4)), {}, r"an array of float64 \[4, 4\]; an array must be uint8"),
        (torch.zeros(3, 4, 4), {}, r"torch.float32 \[3, 4, 4\]; a tensor must be torch.uint8"),
        ("nowhere.jpg", {"top": 0}, "top=0 must be a whole number >= 1"),
        ("nowhere.jpg", {"workers": -1}, "workers=-1 must be a whole number >= 0"),
        ("nowhere.jpg", {"fold": True}, "an exported file is folded already"),
        ("nowhere.jpg", {"model": "x"}, "an exported file holds its network"),
        ("nowhere.jpg", {"classes": ["a"]}, "a file knows the names of its classes"),
        ("nowhere.jpg", {"device": "cuda"}, "device='cuda': an exported file runs on the CPU"),
    ],
)
def test_what_is_refused(small, images, options, says):
    with pytest.raises(ValueError, match=says):
        list(ab.predict(small, images, **options))


def test_files_that_are_refused(tmp_path, pixels):
    image = pixels("x", 4, 4)
    with pytest.raises(ValueError, match=r"there is no file .*nowhere.onnx'; check the path"):
        ab.predict(tmp_path / "nowhere.onnx", image)
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(ValueError, match=r"notes.txt' is no exported file: its name must end"):
        ab.predict(tmp_path / "notes.txt", image)
    names = ABOUT.to_texts() | {"classes": json.dumps(["a", "b"])}
    file = write_means(tmp_path / "model.onnx", names)
    with pytest.raises(ValueError, match=r"gives outputs \[1, 3\] for 1 images .* 2 classes"):
        next(ab.predict(file, image))
    foreign = write_means(tmp_path / "foreign.onnx", {})
    with pytest.raises(ValueError, match="does not say how its images are made"):
        ab.predict(foreign, image)
    with pytest.raises(ValueError, match=r"does not say how its images are made \(check=False\)"):
        ab.predict(open_file(foreign, check=False), image)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_python_without_torch(tmp_path, pixels, suffix):
    file = write_means(tmp_path / f"model{suffix}")
    Image.fromarray(pixels("a", 40, 30)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    code = (
        "import json, numpy as np, accuracy_booster as ab\n"
        "given = [sys.argv[2], sys.argv[3], np.zeros((9, 9, 3), np.uint8)]\n"
        "found = list(ab.predict(sys.argv[1], given, top=2))\n"
        "ab.prediction.write(sys.argv[4], found)\n"
        "print(json.dumps([p.to_dict() for p in found]))\n"
        "assert not {m.partition('.')[0] for m in sys.modules} & {'torch', 'timm', 'accelerate'}\n"
    )
    images = [tmp_path / "a.png", tmp_path / "b.png"]
    done = run_blocked(code, file, *images, tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    expected = list(ab.predict(file, [*images, np.zeros((9, 9, 3), np.uint8)], top=2))
    assert json.loads(done.stdout) == [p.to_dict() for p in expected]
    assert len(json.loads((tmp_path / "found.json").read_text())["images"]) == 2


def test_the_command_without_torch(tmp_path, pixels):
    file = write_means(tmp_path / "model.onnx")
    (tmp_path / "photos").mkdir()
    for name in "ab":
        Image.fromarray(pixels(name, 40, 30)).save(tmp_path / "photos" / f"{name}.png")
    code = "from accuracy_booster.start import main\nsys.exit(main())"
    words = ("predict", file, tmp_path / "photos", "--workers", "1", "--device", "cpu")
    done = run_blocked(code, *words)
    assert done.returncode == 0, done.stderr
    expected = list(ab.predict(file, tmp_path / "photos"))
    assert done.stdout.splitlines() == [f"{p.image}: {p}" for p in expected]
    (tmp_path / "run").mkdir()
    done = run_blocked(code, "predict", tmp_path / "run", tmp_path / "photos")
    assert done.returncode == 1
    assert "error: this takes torch, which is not installed; pip install " in done.stderr
    assert len(done.stderr.splitlines()) == 1
