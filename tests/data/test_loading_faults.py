"""What befalls the loading of images: a line that says so, and no wait for ever."""

# N batch, C channels, H W space

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from accuracy_booster.cli import main
from accuracy_booster.data import load_data, transforms, workers
from accuracy_booster.data.batches import Loader
from accuracy_booster.data.worker_errors import worker_faults
from accuracy_booster.data.choices import AUGMENTS, CROP_MODES
from accuracy_booster.data.encoded_images import EncodedImages, ReadPath
from accuracy_booster.data.images import Images, UnreadableImage
from accuracy_booster.data.images import TooManyPixels
from accuracy_booster.errors import TrainingStopped

TRAIN = ("train", "--model", "resnet8", "--device", "cpu", "--epochs", "1", "--batch_size", "4")
pytestmark = pytest.mark.forks


class Made(Images):
    """Images that are made by a function of their number."""

    def __init__(self, make, count=64):
        self.make, self.labels = make, torch.zeros(count, dtype=torch.int64)

    def __getitem__(self, index):
        return self.make(index), 0


def unchanged(image):
    return image


def grey(index):
    return torch.full((3, 8, 8), index, dtype=torch.uint8)


def loader(make=grey, number=2, **options):
    return Loader(Made(make), unchanged, 4, shuffled=False, workers=number, **options)


def line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 800, text
    return text


def children() -> set[int]:
    return {p.pid for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE}


def run(*words, capsys) -> str:
    """The last line that a command prints, which must be an error without a traceback."""
    capsys.readouterr()
    assert main([*map(str, words)]) in (1, 2)
    told = capsys.readouterr().err
    assert "Traceback" not in told
    last = told.strip().splitlines()[-1]
    assert last.startswith("accuracy-booster: error: ")
    return last


# shared memory

FULL = """
import sys, torch
from accuracy_booster.data.batches import Loader
from accuracy_booster.data.images import TensorImages
images = TensorImages(torch.zeros(64, 3, 64, 64, dtype=torch.uint8), [0] * 64)
shape = (3, 64, 64) if sys.argv[1] == "told" else None
loader = Loader(images, torch.clone, 16, shuffled=False, workers=2, shape=shape)
try:
    for _ in loader.batches(0):
        pass
except Exception as e:
    print(type(e).__name__, e)
"""


@pytest.mark.parametrize("told", ["told", "untold"])
def test_full_shared_memory(told):
    """Before the workers start where a batch's size is known, else from the worker."""
    mount = "mount -t tmpfs -o size=128k none /dev/shm"
    space = ["unshare", "-m", "sh", "-c"]
    allowed = shutil.which("unshare") and not subprocess.call([*space, mount], stderr=-3)
    if not allowed:
        pytest.skip("needs the right to mount a file system in a namespace of its own (unshare -m)")
    words = f'{mount}; exec "$@"'
    command = [*space, words, "sh", sys.executable, "-c", FULL, told]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    (last,) = done.stdout.splitlines()
    assert last.startswith("TrainingStopped ")
    for word in ("KiB are free in /dev/shm", "--workers 0", "--batch_size", "--shm-size"):
        assert word in last
    assert ("processes that load images need" in last) == (told == "told")


def test_the_shared_memory_that_is_needed(monkeypatch):
    found = os.statvfs_result((4096, 4096, 100, 100, 50, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    workers.check_room(4, 100, 1, 4096)
    workers.check_room(10_000, 10, 1, 4096)
    with pytest.raises(TrainingStopped, match=r"4 processes .* need 3\.4 MiB .* 200 KiB are free"):
        workers.check_room(4, 100, 96, 4096)


def test_processes_that_cannot_start(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse)
    with pytest.raises(
        TrainingStopped, match=r"cannot start 2 processes .* temporarily.*--workers"
    ):
        next(loader().batches(0))


# processes that die, stop or hang


def kill_in_a_step(made):
    before = children()
    for _ in made.batches(0):
        os.kill(min(children() - before), signal.SIGKILL)
        for _ in range(600):  # torch raises in it
            time.sleep(0.05)


def test_a_killed_process_while_the_training_computes():
    made = loader()
    killed = r"process .*loads images.* ended .*[Kk]illed"
    with pytest.raises(TrainingStopped, match=killed) as error, worker_faults():
        kill_in_a_step(made)
    assert "--workers" in line(error)
    assert sum(len(batch.labels) for batch in made.batches(0)) == 64


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionResetError(104, "reset"), "handed over a batch .*ConnectionResetError"),
        (EOFError(), "handed over a batch .*EOFError"),
        (RuntimeError("Too many open files. Communication with the workers"), "ulimit -n"),
    ],
)
def test_a_batch_that_cannot_be_taken_over(monkeypatch, error, message):
    def fail(self, timeout=0):
        raise error

    name = "torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data"
    monkeypatch.setattr(name, fail)
    with pytest.raises(TrainingStopped, match=message) as told:
        next(loader().batches(0))
    line(told)


def fail_to_write():
    try:
        raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    except RuntimeError as e:
        raise ValueError("cannot write") from e


def test_a_fault_that_was_made_another_error_on_the_way():
    gone = "process 7, which loads images, ended unexpectedly"
    with pytest.raises(TrainingStopped, match=gone), worker_faults():
        fail_to_write()
    for other in (ValueError("x"), RuntimeError("CUDA error"), TrainingStopped("x")):
        with pytest.raises(type(other)) as error, worker_faults():
            raise other
        assert error.value is other


def stop_after(made, taken):
    before = children()
    for epoch in range(3):
        for number, _ in enumerate(made.batches(epoch), 1):
            if number == taken and epoch == 0:
                pid = min(children() - before)
                os.kill(pid, signal.SIGSTOP)
                while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
                    time.sleep(0.01)


@pytest.mark.parametrize("taken", [1, 9, 16])
def test_a_stopped_process(monkeypatch, taken):
    """Also one that the main process has asked for a batch, or for the next pass."""
    monkeypatch.setattr(workers, "STOPPED_PATIENCE", 0.3)
    before = children()
    with pytest.raises(TrainingStopped, match=r"process \d+, which loads .* stopped.*--workers 0"):
        stop_after(loader(), taken)
    assert children() <= before


def test_a_process_that_hangs(monkeypatch):
    monkeypatch.setattr(workers, "LOADER_PATIENCE", 0.5)
    before = children()
    with pytest.raises(TrainingStopped, match=r"no batch .* the disk .*--workers 0") as error:
        next(loader(lambda index: time.sleep(1000)).batches(0))
    line(error)
    assert children() <= before


def test_slow_batches_are_waited_for(monkeypatch):
    monkeypatch.setattr(workers, "POLL", 0.005)
    made = loader(lambda index: time.sleep(0.02) or grey(index))
    assert sum(len(batch.labels) for batch in made.batches(0)) == 64
    next(made.batches(1))  # a pass that is left
    assert [batch.indices[0].item() for batch in made.batches(2)] == [*range(0, 64, 4)]


def test_python_ends_beside_a_stopped_process():
    code = (
        "import os, signal, psutil, torch\n"
        "from accuracy_booster.data.batches import Loader\n"
        "from accuracy_booster.data.images import TensorImages\n"
        "images = TensorImages(torch.zeros(8, 3, 8, 8, dtype=torch.uint8), [0] * 8)\n"
        "loader = Loader(images, torch.clone, 4, shuffled=False, workers=2)\n"
        "print(len(list(loader.batches(0))))\n"
        "for child in psutil.Process().children():\n"
        "    child.send_signal(signal.SIGSTOP)\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env=env
    )
    assert (done.stdout, done.stderr) == ("2\n", "")


def raising(error):
    def make(index):
        raise error

    return make


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (1, MemoryError("no room for 7 bytes"), "ran out of memory: .*no room for 7.*--workers"),
        (1, RuntimeError("x: can't allocate memory: 7 bytes"), "ran out of memory: .*7 bytes"),
        (1, KeyError("odd\nthing"), r"failed: KeyError: .*odd\\nthing"),
        (1, ZeroDivisionError("by 0"), "failed: ZeroDivisionError: by 0"),
        (0, MemoryError(), "memory ran out.*MemoryError; use a smaller --batch_size"),
        (0, RuntimeError("x: can't allocate memory: 7 bytes"), "memory ran out.*7 bytes"),
    ],
)
def test_an_error_of_a_process_is_told(number, error, message):
    with pytest.raises(TrainingStopped, match=message) as told:
        next(loader(raising(error), number).batches(0))
    assert "Traceback" not in line(told)


# images that take too much


def shapes():
    return ((1, 400_000), (400_000, 1), (3, 5_000_000), (5_000_000, 3), (3000, 2000), (1, 1))


@pytest.mark.parametrize("shape", shapes())
@pytest.mark.parametrize("small", [False, True])
def test_no_transform_makes_too_many_pixels(monkeypatch, shape, small):
    """Each makes the size or refuses; nothing larger than the bound is made on the way."""
    from torchvision.transforms.v2 import functional as F

    most, real = 2_000_000, F.resize
    monkeypatch.setattr(transforms, "MOST", most)

    def checked(image, size, **options):
        assert image.shape[-2] * size[1] <= max(most, image.shape[-2] * image.shape[-1])
        assert size[0] * size[1] <= max(most, image.shape[-2] * image.shape[-1])
        return real(image, size, **options)

    monkeypatch.setattr(F, "resize", checked)
    image = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(3, *shape)
    for size in ((32, 32), (8, 2000)):
        made = [transforms.train_transform(a, size, None) for a in AUGMENTS[1:]]
        for mode in CROP_MODES:
            for share in (None, 0.5, 1e-4):
                made.append(transforms.eval_transform(size, None, small, "bilinear", share, mode))
        for transform in made:
            with contextlib.suppress(TooManyPixels):
                assert transform(image).shape == (3, *size)


def flat(height, width) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_an_image_of_a_row_is_unreadable_and_named(make_folder, pixels):
    pictures = [pixels(str(i), 70, 70) for i in range(3)]
    root = make_folder({"train/a": pictures, "val/a": [flat(400_000, 1), *pictures]})
    data = load_data(str(root), crop_mode="squash", image_size=300)
    (batch,) = data.loaders["test"].batches(0)
    (reason,) = batch.unreadable.values()
    assert "val/a/000.png: to resize its 400000 x 1 pixels" in reason
    assert "pixels, more than 100,000,000" in reason
    with pytest.raises(ValueError, match=r"image_size=20000 asks for 400,000,000 pixels"):
        load_data(str(root), image_size=20_000)


@pytest.mark.parametrize("bound", [10_000_000, None])
def test_pixels_of_a_decoded_image_are_bounded(tmp_path, monkeypatch, bound):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", bound)
    (tmp_path / "x.png").write_bytes(flat(20_000, 9_500))
    images = EncodedImages(ReadPath([tmp_path / "x.png"]), [0], "x")
    with pytest.raises(UnreadableImage, match=r"x\.png: .*pixels") as error:
        images[0]
    line(error)


def test_many_frames_are_one_image(tmp_path):
    frames = [Image.new("P", (8, 8), i % 7) for i in range(300)]
    for form in ("GIF", "TIFF"):
        path = tmp_path / f"x.{form.lower()}"
        frames[0].save(path, form, save_all=True, append_images=frames[1:])
        assert EncodedImages(ReadPath([path]), [0], "x")[0][0].shape == (3, 8, 8)


def test_other_programs_are_not_run(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(UnreadableImage, match="it is EPS, which needs another program"):
        EncodedImages(ReadPath([tmp_path / "x.png"]), [0], "x")[0]


# images none of which can be read


def cut(png, pixels, side, count=4):
    return [png(pixels(str(i), side, side))[:100] for i in range(count)]


@pytest.mark.parametrize(("side", "number"), [(8, 0), (70, 0), (70, 1)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_none_of_whose_images_can_be_read(
    make_folder, png, pixels, tmp_path, capsys, side, number, split
):
    bad = cut(png, pixels, side)
    folders = {"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2}
    folders |= {f"{split}/a": bad, f"{split}/b": bad}
    root = make_folder(folders, size=(side, side))
    size = ("--image_size", 8) if side > 64 else ()
    words = (*TRAIN, "--data", root, "--output", tmp_path / "run", "--workers", number, *size)
    last = run(*words, capsys=capsys)
    assert "none of 8 images" in last
    assert "could be read" in last or "can be read" in last
    assert f"{split}/a/00" in last or f"{split}/b/00" in last


def test_one_training_image(make_folder, png, pixels, tmp_path, capsys):
    root = make_folder({"train/a": 1, "val/a": 1})
    words = (*TRAIN, "--data", root, "--output", tmp_path / "run")
    last = run(*words, capsys=capsys)
    assert "has 1 image, and a batch norm needs two" in last
    (root / "train/a/001.png").write_bytes(cut(png, pixels, 8)[0])
    assert "has 1 image (1 more cannot be read; the first: " in run(*words, capsys=capsys)
    assert not (tmp_path / "run").exists()


def test_a_class_that_loses_all_its_images_is_named(make_folder, png, pixels):
    root = make_folder({"train/a": 2, "train/odd": cut(png, pixels, 8), "val/a": 1})
    with pytest.warns(UserWarning, match=r"class odd of .*train is left.*none of its 4 .*000\.png"):
        data = load_data(str(root))
    assert data.classes == ("a", "odd")
    assert len(data.unreadable) == 4


# what is no image


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


@pytest.mark.parametrize("label", [10**18, 2**63, 1e300, -(2.0**70)])
def test_labels_beyond_measure(make_parquet, png, pixels, label):
    columns = {
        "image": [png(pixels("x", 8, 8))] * 2,
        "label": np.array([0, label], np.uint64 if label == 2**63 else None),
    }
    root = make_parquet({"train.parquet": columns})
    with pytest.raises(ValueError, match="no class number") as error:
        load_data(str(root), splits=("train",))
    line(error)


def test_a_parquet_file_that_is_cut(make_parquet, png, pixels):
    columns = {"image": [png(pixels("x", 8, 8))] * 20, "label": [0] * 20}
    root = make_parquet({"train.parquet": columns, "test.parquet": columns})
    whole = (root / "train.parquet").read_bytes()
    for end in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        (root / "train.parquet").write_bytes(whole[:end])
        with pytest.raises(ValueError, match="cannot read the Parquet files") as error:
            load_data(str(root))
        line(error)


def test_names_are_told_in_one_line(make_folder, png, pixels):
    root = make_folder({"train/a": 2, "val/a": 1})
    broken = cut(png, pixels, 8)[0]
    names = (b"x\ny.png", b"\xff.png", b"\x1b[31m.png", "UnreadableImage: \u2028.png".encode())
    for name in names:
        Path(os.fsdecode(os.fsencode(root / "train/a") + b"/" + name)).write_bytes(broken)
    (root / "train/a/empty.png").write_bytes(b"")
    data = load_data(str(root))
    told = sorted(data.unreadable)
    assert len(told) == 5
    assert all(text.isprintable() for text in told)
    for name in (
        "x\\ny.png",
        "\\udcff.png",
        "\\x1b[31m.png",
        "\\u2028.png",
        "empty.png: it is empty",
    ):
        assert any(name in text for text in told), name


def test_class_names_that_are_no_utf8(make_folder, tmp_path):
    root = make_folder({"train/a": 4, "train/b": 4, "val/a": 1})
    for split in ("train", "val"):
        folder = os.fsencode(root / split)
        os.makedirs(folder + b"/caf\xe9")
        shutil.copy(root / "train/a/000.png", folder + b"/caf\xe9/x.png")
    out = str(tmp_path / "run")
    assert main([*TRAIN, "--data", str(root), "--output", out]) == 0
    assert main(["eval", out]) == 0


# tar files


@pytest.fixture
def tars(tmp_path, png, pixels):
    root = tmp_path / "tars"
    root.mkdir()
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            for name, link in (("a/x.png", None), ("a/link.png", "/etc/passwd"), ("b/x.png", None)):
                member = tarfile.TarInfo(name)
                content = b"" if link else png(pixels(name, 70, 70))
                member.size = len(content)
                if link:
                    member.type, member.linkname = tarfile.SYMTYPE, link
                tar.addfile(member, io.BytesIO(content))
    return root


def test_a_pipe_called_like_a_tar_is_not_opened(tars):
    (tars / "val.tar").unlink()
    os.mkfifo(tars / "val.tar")
    with pytest.raises(ValueError, match="has no test split"):
        load_data(str(tars))


def test_a_tar_that_is_cut_is_told(tars):
    assert load_data(str(tars)).loaders["test"].dataset.images.labels.tolist() == [0, 1]
    with tarfile.open(tars / "val.tar") as tar:
        last = tar.getmembers()[-1].offset
    with open(tars / "val.tar", "r+b") as file:
        file.truncate(last + 200)
    with pytest.warns(UserWarning, match=r"val\.tar does not end as a tar file ends"):
        load_data(str(tars))


def test_processes_share_no_open_tar(tars):
    """Several that read from one place of one file would get each other's bytes."""
    data = load_data(str(tars))
    images = data.loaders["test"].dataset.images
    first = images[0][0]
    offset = [f for f in psutil.Process().open_files() if f.path.endswith("val.tar")]
    assert not offset
    assert torch.equal(images[0][0], first)
    assert np.asarray(first).shape == (3, 70, 70)
