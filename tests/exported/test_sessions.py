"""Exported files run in their own runtimes; files that are something else are refused."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.exported_files import ABOUT, NAMES, means, write_means

from accuracy_booster.exported import formats, open_file

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{(format, batch): a file}; the batch is None for any number of images."""
    root = tmp_path_factory.mktemp("files")
    return {
        (name, batch): write_means(root / f"{batch}-{file}", batch=batch)
        for batch in (None, 2)
        for name, file in NAMES.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_images_that_the_network_in_a_file_does_not_take(files, name):
    session = open_file(files[name, None])
    with pytest.raises(ValueError, match=r"cannot take images \[2, 4, 8, 10\]: .* export the run"):
        session(np.zeros((2, 4, 8, 10), np.float32))


def test_weights_that_are_laid_out_for_other_threads(tmp_path):
    used = torch.get_num_threads()
    texts = replace(ABOUT, threads=used + 1).to_texts()
    told = f"laid out for {used + 1} threads, and torch computes with {used}"
    with pytest.warns(UserWarning, match=told):
        open_file(write_means(tmp_path / "other.pt2", texts))
    file = write_means(tmp_path / "same.pt2", replace(ABOUT, threads=used).to_texts())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_file(file).about.threads == used


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [None, 2])
def test_a_file_computes_what_its_network_does(files, name, batch):
    session = open_file(files[name, batch], threads=1)
    assert session.about == replace(ABOUT, batch=batch)
    for count in (1, 2, 5):
        images = torch.randn(count, *ABOUT.input_size)
        with torch.no_grad():
            expected = means()(images).numpy()
        found = session(images.numpy())
        assert (found.dtype, found.shape) == (np.float32, (count, 3))
        assert found == pytest.approx(expected, abs=1e-5)


def test_outputs_are_kept_when_a_file_runs_again(files):
    """OpenVINO hands out its own memory, which the next images overwrite."""
    for name in NAMES:
        session = open_file(files[name, None])
        first = session(np.ones((1, *ABOUT.input_size), np.float32))
        before = first.copy()
        session(np.zeros((1, *ABOUT.input_size), np.float32))
        assert np.array_equal(first, before), name


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_file_of_export(files, name, tmp_path, capfd, caplog):
    path = tmp_path / NAMES[name]
    with pytest.raises(ValueError, match=r"there is no file .*; check the path"):
        open_file(path)
    for content in (b"", b"no model", files[name, None].read_bytes()[:200]):
        path.write_bytes(content)
        path.with_suffix(".bin").write_bytes(b"")
        with pytest.raises(ValueError, match=r"is not a file that \w+ reads: ") as error:
            open_file(path)
        assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    write_means(path, {})
    with pytest.raises(ValueError, match="does not say how its images are made"):
        open_file(path)
    assert open_file(path, check=False).about is None
    write_means(path, ABOUT.to_texts() | {"format": "99"})
    with pytest.raises(ValueError, match="written by a newer version"):
        open_file(path)


def test_a_file_of_openvino_without_its_weights(files, tmp_path):
    path = tmp_path / "model.xml"
    path.write_bytes(files["openvino", None].read_bytes())
    with pytest.raises(ValueError, match=r"model.bin, which holds the weights, is not beside it"):
        open_file(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_runtime_that_is_not_installed(files, name, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"which is not installed; pip install "):
        open_file(files[name, None])
