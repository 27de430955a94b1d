"""An exported file, measured as a network is."""

import pytest
import torch
from support.datasets import one_line
from support.quantised_files import about_of, write_float

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.training.file_network import FileNetwork


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "ab"
    given = {"model": "resnet8", "block": "ab", "data": "digits", "epochs": 1}
    ab.train(**given, batch_size=64, device="cpu", compile="off", fuse="off", output=str(path))
    return path


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    network = ab.load_run(run)
    return write_float(network, tmp_path_factory.mktemp("file") / "n.onnx", about_of(network))


def test_it_computes_what_the_network_computes(run, file):
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            FileNetwork.open(file)(images), ab.load_run(run)(images), atol=1e-4, rtol=1e-4
        )


def test_a_file_is_as_right_as_its_run(run, file):
    of_run, of_file = ab.evaluate(run), ab.evaluate(file, data="digits")
    assert of_file.images == 360
    assert of_file.top1 == of_run.top1
    assert of_file.loss == pytest.approx(of_run.loss, abs=1e-5)
    assert torch.equal(of_file.confusion, of_run.confusion)


def test_the_command_takes_a_file(file, capsys):
    assert main(["eval", str(file), "--data", "digits"]) == 0
    out, err = capsys.readouterr()
    assert "(360 images)" in out
    assert "images as the file says: 8 x 8 pixels, mean " in err


def test_colour_images_are_made_grey_for_a_network_of_grey_ones(file, make_folder):
    folder = make_folder({f"{split}/{name}": 2 for split in ("train", "val") for name in "0123"})
    assert ab.evaluate(file, data=str(folder)).images == 8


def test_what_a_file_cannot_do(file, tmp_path):
    with one_line("an exported file does not know; pass data"):
        ab.evaluate(file)
    with one_line("folded when it was exported"):
        ab.evaluate(file, data="digits", fold=True)
    with one_line("there is no file"):
        ab.evaluate(tmp_path / "none.onnx", data="digits")
