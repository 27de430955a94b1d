"""What several test files share: the folder of real data, and makers of small data sets."""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import shutil
import signal
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

if "PYTEST_XDIST_WORKER" in os.environ:
    # workers share the processors; what they start has one thread too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test asks the Hugging Face hub, which would also delay tests on a machine without a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# ultralytics reads these when it is imported: no network, no pip, nothing in the home folder.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
if "YOLO_CONFIG_DIR" not in os.environ:
    os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="ultralytics_")
    atexit.register(shutil.rmtree, os.environ["YOLO_CONFIG_DIR"], ignore_errors=True)

Picture = np.ndarray | Image.Image | bytes
SHARED = Path(__file__).parents[2] / "shared"  # real data and weights, beside the checkout


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "forks: forks processes, so it runs before all others")
    # in the background of a script SIGINT is ignored, under nohup SIGHUP: a training keeps to that
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Workers for `-n auto`, which pyproject.toml asks for: none for one or two files of tests.

    There is one more than cores, since some tests wait for other processes.
    """
    files = {str(word).partition("::")[0] for word in config.args}
    few = len(files) <= 2 and all(file.endswith(".py") for file in files)
    return 0 if few else min(4, (os.cpu_count() or 1) + 1)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give a file's tests to one worker, which then makes the fixtures that they share once.

    Files with tests that fork are given out test by test: these come first.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return nodeid if file in forking else file

    config.option.loadscopereorder = False
    root = config.rootpath
    files = (path for path in root.glob("tests/**/test_*.py") if "mark.forks" in path.read_text())
    forking = {path.relative_to(root).as_posix() for path in files}
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that fork come first: `torch.export` starts threads that a forked process lacks."""
    items.sort(key=lambda item: item.get_closest_marker("forks") is None)


def pytest_sessionstart() -> None:
    gc.disable()  # until the tests have been collected: it would search ever more modules


def pytest_collection_finish() -> None:
    """Hide from the garbage collector what exists when the tests have been collected.

    These are a million objects: modules, and the tests. `ab.boost` asks the collector what refers
    to a network, which takes 0.1 s and more as long as it searches all of these.
    """
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line which tests were skipped because real data or weights are absent."""
    found = Counter(
        report.nodeid.partition("::")[0].removeprefix("tests/")
        for report in terminalreporter.stats.get("skipped", ())
        if isinstance(report.longrepr, tuple) and f"{SHARED}" in report.longrepr[2]
    )
    if found:
        files = ", ".join(f"{file} ({number})" for file, number in sorted(found.items()))
        terminalreporter.write_line(
            f"{found.total()} tests were skipped, since the real data and weights that they check "
            f"are not in {SHARED}: {files}"
        )


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Shapes are tiny, and on a busy machine threads wait for each other: up to 50 times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real data and weights of {SHARED}, which is absent")
    return SHARED


def random_pixels(name: str, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3], the same for the same name."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(picture: Picture, format: str = "PNG") -> bytes:
    """The bytes of an image file; bytes are passed through."""
    if isinstance(picture, bytes):
        return picture
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


@pytest.fixture
def png() -> Callable[[Picture], bytes]:
    """`png(picture)`: the bytes of a PNG file."""
    return encode


@pytest.fixture
def pixels() -> Callable[..., np.ndarray]:
    """`pixels(name, height, width)`: uint8 [H, W, 3], random, the same for the same name."""
    return random_pixels


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """`make_folder({"train/cat": 3, "val/cat": [picture, ...]}, size=(8, 8))` -> the directory.

    A number makes that many random PNG files, 000.png and on; what is listed is saved as it is.
    """

    def make(
        folders: Mapping[str, int | Sequence[Picture]],
        size: tuple[int, int] = (8, 8),
        name: str = "images",
    ) -> Path:
        root = tmp_path / name
        root.mkdir(parents=True, exist_ok=True)
        for folder, content in folders.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            if isinstance(content, int):
                content = [random_pixels(f"{folder}/{i}", *size) for i in range(content)]
            for i, picture in enumerate(content):
                (root / folder / f"{i:03}.png").write_bytes(encode(picture))
        return root

    return make


@pytest.fixture
def make_parquet(tmp_path: Path) -> Callable[..., Path]:
    """`make_parquet({"train.parquet": {"img": [...], "label": [...]}}, features={...})` -> Path.

    `features` is the schema that Hugging Face `datasets` keeps in the metadata; None leaves it out.
    """

    def make(
        files: Mapping[str, Mapping[str, Sequence] | bytes],
        features: Mapping[str, Mapping] | None = None,
        name: str = "parquet",
    ) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        root = tmp_path / name
        for file, columns in files.items():
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(columns, bytes):
                path.write_bytes(columns)
                continue
            table = pa.table(dict(columns))
            if features is not None:
                text = json.dumps({"info": {"features": features}})
                table = table.replace_schema_metadata({"huggingface": text})
            pq.write_table(table, path)
        return root

    return make


@pytest.fixture
def weights_file(tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    """A ResNet-8 of 3 classes with weights of its own, and a file of them."""
    from support.trainings import randomise

    import accuracy_booster as ab

    model = randomise(ab.create_model("resnet8", num_classes=3))
    torch.save(model.state_dict(), tmp_path / "own.pth")
    return model, tmp_path / "own.pth"
