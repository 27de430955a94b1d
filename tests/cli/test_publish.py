"""The command `publish`: a directory, an upload, and one line for what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.commands import assert_refused, run
from support.hub_stand_in import OWNER, TOKEN, running_hub
from support.trainings import contents, train_digits

from accuracy_booster.integrations.timm import why_too_old

pytestmark = pytest.mark.skipif(
    why_too_old() is not None, reason="boosted names need timm 1.0.31 or newer"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    train_digits(folder)
    return folder


def test_a_directory(finished, tmp_path, capsys):
    place = tmp_path / "out"
    code, out, _ = run(capsys, "publish", finished, place)
    assert code == 0
    test = json.loads((finished / "run.json").read_text())["test"]
    assert f"top-1 {test['top1']:.2f} % on 360 test images (95 % interval " in out
    for name, content in contents(place).items():
        assert f"{name}, {len(content):,} bytes" in out
    assert out.splitlines()[-1] == str(place)
    assert "latency of a batch of 1 |" in (place / "README.md").read_text()


def test_json_without_the_latency(finished, tmp_path, capsys):
    place = tmp_path / "out"
    code, out, _ = run(capsys, "publish", finished, place, "--no-latency", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["directory"] == str(place)
    assert (told["loader"], told["url"]) == ("registered", None)
    assert "The latency was not measured." in (place / "README.md").read_text()
    assert_refused(capsys, ["publish", str(finished), str(place)], ["--overwrite"])
    words = ["publish", finished, place, "--overwrite", "--no-latency"]
    assert run(capsys, *words)[0] == 0


def test_an_upload_in_a_process_of_its_own(finished, tmp_path):
    """HF_ENDPOINT and HF_TOKEN, as a user sets them."""
    with running_hub() as hub:
        given = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")}
        given |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        words = [str(finished), "--push", f"{OWNER}/net", "--no-latency", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "accuracy_booster", "publish", *words],
            env={**os.environ, **given},
            capture_output=True,
            text=True,
            check=True,
        )
        told = json.loads(done.stdout)
        assert told["url"] == f"{hub.url}/{OWNER}/net"
        sizes = {n: len(c) for n, c in hub.repos[f"{OWNER}/net"].items() if n in told["sizes"]}
        assert sizes == told["sizes"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["DIRECTORY", "--push OWNER/NAME"]),
        (["--push", "a b"], ["repo_id='a b' must be OWNER/NAME"]),
        (["out", "--private"], ["--private is of a repository"]),
        (["out", "--device", "tpu7"], ["device='tpu7' is not here"]),
        (["out", "--model", "resnet8"], ["leave model out there"]),
        (["out", "--pushed", "a/b"], ["unknown option '--pushed'; nearest: --push"]),
    ],
)
def test_what_is_wrong_is_one_line(words, parts, finished, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, ["publish", str(finished), *words], parts)
    assert list(tmp_path.iterdir()) == []
