"""`ab.push_to_hub` against a server on this machine that answers as the Hub does."""

from __future__ import annotations

import os
import subprocess
import sys

import huggingface_hub.constants as settings
import pytest
import torch
from huggingface_hub import close_session
from support.hub_stand_in import OWNER, TOKEN, running_hub
from support.trainings import contents, train_digits

import accuracy_booster as ab
from accuracy_booster.deploy.publishing import FILES
from accuracy_booster.errors import CannotPush
from accuracy_booster.integrations.timm import why_too_old

pytestmark = pytest.mark.skipif(
    why_too_old() is not None, reason="boosted names need timm 1.0.31 or newer"
)
REPO = f"{OWNER}/net"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    train_digits(folder)
    return folder


@pytest.fixture
def no_token(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(settings, "HF_TOKEN_PATH", str(tmp_path / "no_token"))


@pytest.fixture
def hub(monkeypatch, no_token):
    """The server, as HF_ENDPOINT names it, and the token of its user as HF_TOKEN."""
    with running_hub() as server:
        monkeypatch.setattr(settings, "ENDPOINT", server.url)
        monkeypatch.setattr(settings, "HF_HUB_OFFLINE", False)
        # the other protocol sends large files to a second server, by a library that is not Python
        monkeypatch.setattr(settings, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        close_session()
        yield server
        close_session()


def push(run, repo_id=REPO, **options):
    return ab.push_to_hub(run, repo_id, latency=False, **options)


def test_the_files_are_one_commit_and_timm_loads_them(run, hub, tmp_path):
    result = push(run, directory=tmp_path / "out", private=True)
    assert result.url == f"{hub.url}/{REPO}"
    assert hub.private == {REPO: True}
    assert len(hub.messages) == 1
    sent = {name: hub.repos[REPO][name] for name in FILES}
    assert sent == contents(tmp_path / "out")
    assert sent["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert f'timm.create_model("hf-hub:{REPO}", pretrained=True)' in sent["README.md"].decode()
    # the card's own lines, where HF_ENDPOINT names the server
    network = ab.load_run(run).to(memory_format=torch.contiguous_format)
    x = torch.randn(2, 1, 8, 8)
    torch.save(x, tmp_path / "x.pt")
    lines, _, _ = result.code.partition("config = ")
    lines += "import torch; torch.set_num_threads(1)\n"
    lines += "with torch.no_grad(): torch.save(model(torch.load('x.pt')), 'y.pt')"
    given = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    environment = {**os.environ, **given, "HF_HUB_DISABLE_XET": "1"}
    subprocess.run([sys.executable, "-c", lines], check=True, cwd=tmp_path, env=environment)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "y.pt"), network(x))


def test_a_name_without_an_owner_is_the_users_own(run, hub):
    result = push(run, "net", token=TOKEN, message="From a test")
    assert result.url == f"{hub.url}/{REPO}"
    assert hub.messages == ["From a test"]
    assert f"hf-hub:{REPO}" in hub.repos[REPO]["README.md"].decode()


def test_what_is_there_is_not_replaced_without_a_word(run, hub):
    hub.repos[REPO] = {"README.md": b"mine", "notes.txt": b"mine too"}
    with pytest.raises(ValueError, match=r"already holds README\.md; .*--overwrite"):
        push(run)
    assert hub.repos[REPO] == {"README.md": b"mine", "notes.txt": b"mine too"}
    push(run, overwrite=True)
    assert hub.repos[REPO]["README.md"] != b"mine"
    assert hub.repos[REPO]["notes.txt"] == b"mine too"
    del hub.repos[REPO]["README.md"]
    with pytest.raises(ValueError, match=r"already holds model\.safetensors, config\.json"):
        push(run)


@pytest.mark.parametrize(
    "repo_id", ["", "a b", "a/b/c", "-a/b", "a--b", "a/b.git", "x" * 200, "ü/b", None, 3, "/b"]
)
def test_a_malformed_name_is_refused_before_anything_is_done(repo_id, run, hub, tmp_path):
    with pytest.raises(ValueError, match="must be OWNER/NAME") as error:
        push(run, repo_id, directory=tmp_path / "out")
    assert "\n" not in str(error.value)
    assert hub.requests == []
    assert not (tmp_path / "out").exists()


def test_no_token(run, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match=r"there is none; run hf auth login"):
        push(run)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("repo_id", "token", "words"),
    [
        (REPO, "hf_wrong", "the token is not valid"),
        ("net", "hf_wrong", "the token is not valid"),
        ("others/net", TOKEN, "no right to write there"),
    ],
)
def test_the_hub_refuses(repo_id, token, words, run, hub):
    with pytest.raises(CannotPush, match=words) as error:
        push(run, repo_id, token=token)
    assert "\n" not in str(error.value)
    assert token not in str(error.value)
    assert hub.repos == {}


def test_no_network(run, hub, monkeypatch):
    monkeypatch.setattr(settings, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CannotPush, match="is there a network") as error:
        push(run)
    assert "\n" not in str(error.value)
    monkeypatch.setattr(settings, "HF_HUB_OFFLINE", True)
    with pytest.raises(CannotPush, match="offline mode is enabled"):
        push(run)


def test_without_huggingface_hub(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install huggingface_hub"):
        push(run)


def test_a_run_that_is_none_sends_nothing(hub, tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        push(tmp_path)
    assert hub.requests == []
