"""`ab.save_pretrained`: what the directory holds, and who loads it, bit for bit."""

# N batch, C channels, H W space

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from support.files import edit_json
from support.published_runs import (
    ODD_CLASSES,
    logits_in_a_fresh_process,
    network_and_images,
    small_run,
)
from support.trainings import contents, train_digits
from timm.data import create_transform, resolve_model_data_config

import accuracy_booster as ab
from accuracy_booster.deploy import saved_form
from accuracy_booster.deploy.publishing import FILES
from accuracy_booster.integrations.timm import why_too_old
from accuracy_booster.surgery import attached
from accuracy_booster.training.run_directory import OtherTask

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:the network has", "ignore:the batch norm of", "ignore:.*norm whose weight is zero"
    ),
    pytest.mark.skipif(why_too_old() is not None, reason="boosted names need timm 1.0.31 or newer"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """ResNet-8 with AB, an epoch of the digits: a network of ours, on grey images."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    train_digits(folder)
    return folder


@pytest.fixture
def photos(make_folder):
    """Four classes in folders; not the 1000 that timm's networks have."""
    return make_folder({f"{s}/{c}": 8 for s in ("train", "test") for c in "abcd"}, (32, 32))


def published(run, folder, **options):
    return ab.save_pretrained(run, folder, latency=False, **options)


def loaded(folder):
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def assert_is_the_runs(folder, run):
    """The directory gives the run's tensors, gates and outputs; returns both networks."""
    network, images = network_and_images(run)
    other = loaded(folder)
    tensors, others = network.state_dict(), other.state_dict()
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert {n: str(g) for n, g in attached(network).items()} == {
        n: str(g) for n, g in attached(other).items()
    }
    with torch.no_grad():
        assert torch.equal(network(images), other(images))
    return network, other


# --- who loads it


def test_a_network_of_timm_without_gates_needs_timm_alone(photos, tmp_path):
    run = small_run(photos, tmp_path / "run", block="none")
    result = published(run, tmp_path / "out")
    assert (result.loader, result.architecture) == ("timm", "test_resnet")
    network, images = network_and_images(run)
    source = f"local-dir:{tmp_path / 'out'}"
    found = logits_in_a_fresh_process(source, images, register=False)
    with torch.no_grad():
        assert torch.equal(found, network(images))


def test_a_boosted_network_loads_in_a_fresh_process_that_knows_the_names(photos, tmp_path):
    run = small_run(photos, tmp_path / "run", block="gap | dense | sigmoid")
    result = published(run, tmp_path / "out")
    assert (result.loader, result.architecture) == ("registered", "ab_test_resnet")
    network, images = network_and_images(run)
    source = f"local-dir:{tmp_path / 'out'}"
    found = logits_in_a_fresh_process(source, images, register=True)
    with torch.no_grad():
        assert torch.equal(found, network(images))
    with pytest.raises(subprocess.CalledProcessError) as error:
        logits_in_a_fresh_process(source, images, register=False)
    assert "Unknown model (ab_test_resnet)" in error.value.stderr


@pytest.mark.parametrize(
    ("options", "architecture"),
    [
        ({"block": "ab", "init": "identity"}, "ab_test_resnet"),
        ({"block": "se", "where": "conv", "skip": "layer1,conv1", "in_chans": 1}, "ab_test_resnet"),
        ({"block": "ab", "where": "/layer[34].*bn2$/"}, "ab_test_resnet"),
        ({"block": "design_g"}, "ab_test_resnet"),  # a weight for each position
        ({"block": "design_e", "channels_last": False}, "ab_test_resnet"),  # no weights
        ({"block": "eca", "where": "attention", "model": "timm/test_byobnet"}, "ab_test_byobnet"),
        ({"block": "ab_g4", "model": "timm/test_convnext"}, "ab_test_convnext"),
        ({"block": "none", "model": "timm/test_mambaout", "in_chans": 1}, "test_mambaout"),
        ({"block": "none", "model": "timm/test_vit", "image_size": 160}, "test_vit"),
        ({"block": "ab", "model": "resnet18"}, "ab_resnet18"),  # ours, and timm's
        ({"block": "none", "model": "resnet8"}, "accuracy_booster"),
        ({"block": "ab", "model": "shufflenet_g3"}, "accuracy_booster"),
        ({"block": "ab_plus", "model": "torchvision/shufflenet_v2_x0_5"}, "accuracy_booster"),
    ],
)
def test_every_kind_of_run_comes_back(options, architecture, photos, tmp_path):
    run = small_run(photos, tmp_path / "run", **options)
    result = published(run, tmp_path / "out")
    assert result.architecture == architecture
    _, other = assert_is_the_runs(tmp_path / "out", run)
    assert other.num_classes == 4


def test_a_network_of_torchvision_loads_without_timm_and_us(photos, tmp_path):
    run = small_run(photos, tmp_path / "run", model="torchvision/squeezenet1_1", block="none")
    result = published(run, tmp_path / "out")
    network, images = network_and_images(run)
    model = torchvision.models.get_model("squeezenet1_1", num_classes=4, weights=None).eval()
    model.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(model(images), network(images))
    assert 'torchvision.models.get_model("squeezenet1_1", num_classes=4' in (
        (tmp_path / "out" / "README.md").read_text()
    )
    assert result.loader == "registered"


def test_a_network_of_your_own_code_keeps_the_record_of_its_gates(photos, tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(
        "import timm\ndef small(num_classes, in_chans):\n"
        "    return timm.create_model('test_resnet', num_classes=num_classes, in_chans=in_chans)\n"
    )
    path = f"{tmp_path / 'nets.py'}:small"
    run = small_run(photos, tmp_path / "run", model=path, block="ab")
    with pytest.raises(ValueError, match="give the network again"):
        published(run, tmp_path / "out")
    result = published(run, tmp_path / "out", model=path)
    assert (result.loader, result.architecture) == ("own code", "nets.py:small")
    written = contents(tmp_path / "out")
    assert not any(str(tmp_path).encode() in content for content in written.values())
    network, images = network_and_images(run, model=path)
    make = "model = timm.create_model('test_resnet', num_classes=4)"
    lines, space = result.code.replace("model = ...", make), {"timm": timm}
    monkeypatch.chdir(tmp_path / "out")
    exec(compile(lines, "card", "exec"), space)
    with torch.no_grad():
        assert torch.equal(space["model"](images), network(images))


# --- what it holds


def test_the_files_and_the_config(run, tmp_path):
    result = published(run, tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == sorted(FILES)
    assert result.sizes == {n: len(c) for n, c in contents(tmp_path / "out").items()}
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert weights == (run / "model.safetensors").read_bytes()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    about = config["pretrained_cfg"]
    assert about["input_size"] == [1, 8, 8]
    assert (about["crop_mode"], about["crop_pct"]) == ("squash", 1.0)
    assert config["label_names"] == list("0123456789")
    assert "license" not in json.dumps(config)
    info = json.loads((run / "run.json").read_text())
    assert result.top1 == info["test"]["top1"]
    assert result.parameters == info["parameters"]
    assert result.interval[0] < result.top1 < result.interval[1]
    json.dumps(result.to_dict())


def test_timms_transform_makes_the_images_of_the_run(photos, tmp_path):
    run = small_run(photos, tmp_path / "run", block="ab", interpolation="bicubic")
    published(run, tmp_path / "out")
    network, other = assert_is_the_runs(tmp_path / "out", run)
    configs = [resolve_model_data_config(model) for model in (network, other)]
    assert json.dumps(configs[0]) == json.dumps(configs[1])
    assert configs[1]["interpolation"] == "bicubic"
    assert str(create_transform(**configs[1])) == str(create_transform(**configs[0]))
    assert tuple(other.pretrained_cfg["label_names"]) == network.classes


def test_odd_names_of_classes_are_kept(make_folder, tmp_path):
    names = {f"{s}/{c}": 4 for s in ("train", "test") for c in ODD_CLASSES}
    run = small_run(make_folder(names), tmp_path / "run", model="resnet8", block="none")
    published(run, tmp_path / "out")
    _, other = assert_is_the_runs(tmp_path / "out", run)
    assert list(other.pretrained_cfg["label_names"]) == sorted(ODD_CLASSES)


def test_timm_saves_again_what_it_loaded(run, tmp_path):
    published(run, tmp_path / "out")
    timm.models.save_for_hf(loaded(tmp_path / "out"), tmp_path / "again", safe_serialization=True)
    assert_is_the_runs(tmp_path / "again", run)


def test_a_run_may_be_given_as_for_load_run(run, tmp_path):
    result = train_digits(tmp_path / "run", seed=2)
    published(result, tmp_path / "a")
    assert_is_the_runs(tmp_path / "a", tmp_path / "run")
    published(run / "model.safetensors", tmp_path / "b")
    assert_is_the_runs(tmp_path / "b", run)


def test_random_numbers_of_the_caller_stay(run, tmp_path):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    ab.save_pretrained(run, tmp_path / "out")
    assert torch.equal(torch.rand(3), wanted)


# --- bad input


def test_other_files_and_what_is_there_already(run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files \(thesis.txt\)"):
        published(run, tmp_path / "other", overwrite=True)
    assert list(contents(tmp_path / "other")) == ["thesis.txt"]
    published(run, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("edited")
    with pytest.raises(ValueError, match=r"already holds .*README.md.*--overwrite"):
        published(run, tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "edited"
    published(run, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before
    with pytest.raises(ValueError, match="is a run's directory"):
        published(run, run, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file, not a directory"):
        published(run, tmp_path / "file")
    with pytest.raises(ValueError, match="must be the path of a directory"):
        published(run, "")


def test_a_run_that_cannot_be_published(run, tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        published(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="expected a run's directory, got int"):
        published(3, tmp_path / "out")
    with pytest.raises(ValueError, match=r"device='cuda:77' is not here"):
        published(run, tmp_path / "out", device="cuda:77")
    copied = tmp_path / "copied"
    copied.mkdir()
    for name, content in contents(run).items():
        if "/" not in name and name != "model.safetensors":
            (copied / name).write_bytes(content)
    with pytest.raises(ValueError, match="has not ended"):
        published(copied, tmp_path / "out")
    edit_json(copied / "run.json", lambda info: info.update(task="detection"))
    (copied / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    with pytest.raises(OtherTask, match="holds a run of 'detection'"):
        published(copied, tmp_path / "out")
    edit_json(copied / "run.json", lambda info: info.update(task="classification"))
    edit_json(copied / "run.json", lambda info: info.update(block_version=99))
    with pytest.raises(ValueError, match="install a newer"):
        published(copied, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_that_would_give_another_network_is_not_written(run, tmp_path, monkeypatch):
    """As if the arguments in config.json forgot which gates the run has."""
    monkeypatch.setattr(saved_form, "_gates_as_arguments", lambda network, config: {"block": "se"})
    with pytest.raises(ValueError, match=r"it does not load: .*so nothing was written") as error:
        published(run, tmp_path / "out")
    assert "\n" not in str(error.value)
    identity = {"block": "ab", "init": "identity"}  # the same tensors, another function
    monkeypatch.setattr(saved_form, "_gates_as_arguments", lambda network, config: identity)
    with pytest.raises(ValueError, match=r"is not the run's network.*so nothing was written"):
        published(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_older_timm_is_told(run, tmp_path, monkeypatch):
    monkeypatch.delattr(timm.models._hub, "get_model_args")
    with pytest.raises(ValueError, match=r"need timm 1\.0\.31 or newer"):
        published(run, tmp_path / "out")


def test_importing_registers_nothing():
    code = (
        "import timm, accuracy_booster as ab; ab.save_pretrained\n"
        "assert not timm.is_model('accuracy_booster') and not timm.is_model('ab_resnet18')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
