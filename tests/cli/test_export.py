"""The command `export`."""

import json

import pytest
from support.commands import run as command

import accuracy_booster as ab
from accuracy_booster.exported import open_file

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "r"
    ab.train("resnet8", block="ab", epochs=1, device="cpu", output=str(folder), data="digits")
    return folder


def test_a_file_and_what_is_told_of_it(trained, tmp_path, capsys):
    file = tmp_path / "net.onnx"
    code, out, err = command(capsys, "export", trained, "--output", file, "--batch_sizes", "2")
    assert code == 0, err
    lines = out.splitlines()
    assert "the same class for 64 of 64 test images of digits" in lines[0]
    assert "this file / without gates" in out
    assert lines[-1].startswith(f"{file} (")
    assert open_file(file).about.network == "resnet8"


def test_json(trained, tmp_path, capsys):
    file = tmp_path / "net.xml"
    words = ("export", trained, "--output", file, "--no_timing", "--json")
    code, out, err = command(capsys, *words)
    assert code == 0, err
    value = json.loads(out)
    assert value["path"] == str(file)
    assert value["latency"] == []
    assert value["parity"]["max_error"] < 1e-5


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--format", "tflite"], "unknown format 'tflite'", 2),
        (["--batch_sizes", "1,x"], "--batch_sizes '1,x' must be whole numbers >= 1", 2),
        (["--tolerance", "1e-15", "--no_timing"], "the exported file is not kept", 1),
    ],
)
def test_errors_in_one_line(trained, capsys, words, message, code):
    found, out, err = command(capsys, "export", trained, *words)
    assert found == code
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not out
