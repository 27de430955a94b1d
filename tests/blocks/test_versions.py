"""What was stored before version 0.2 still computes what it computed then."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from support.files import edit_json, make_run_old, without_hash
from torch import nn

import accuracy_booster as ab
from accuracy_booster import cli
from accuracy_booster.blocks import as_recorded, layers
from accuracy_booster.training import TrainConfig, checkpoint, list_runs

CBAM = (
    "gap + gmp | bottleneck(16) | sigmoid ; channel_pool(order=mean_max) | conv2d(7) | bn | sigmoid"
)
TEXT = "channel_pool | conv2d(3) | sigmoid"
OLD_TEXT = "channel_pool(order=mean_max) | conv2d(3) | sigmoid"
# what 0.1 recorded, and what it is today
RECORDED = [("cbam", CBAM), (TEXT, OLD_TEXT), ("ab", "ab"), ("gap | sigmoid", "gap | sigmoid")]
SETTINGS = {"data": "digits", "batch_size": 64, "seed": 1, "compile": "off", "fuse": "off"}
# pickle.dumps(ab.recipe(TEXT), 2) in 0.1
PICKLED = (
    b"\x80\x02caccuracy_booster.blocks.grammar\nRecipe\nq\x00)\x81q\x01}q\x02X\x05\x00\x00\x00gates"
    b"q\x03caccuracy_booster.blocks.grammar\nGateRecipe\nq\x04)\x81q\x05}q\x06(X\x0b\x00\x00\x00"
    b"descriptorsq\x07caccuracy_booster.blocks.parts\nChannelPoolPart\nq\x08)\x81q\t\x85q\nX\x05"
    b"\x00\x00\x00weighq\x0bcaccuracy_booster.blocks.parts\nConv2dPart\nq\x0c)\x81q\r}q\x0e(X\x06"
    b"\x00\x00\x00kernelq\x0fK\x03X\x04\x00\x00\x00biasq\x10NX\x04\x00\x00\x00initq\x11X\x07\x00"
    b"\x00\x00defaultq\x12ubcaccuracy_booster.blocks.parts\nSigmoid\nq\x13)\x81q\x14}q\x15X\x05"
    b"\x00\x00\x00scaleq\x16K\x01sb\x86q\x17ub\x85q\x18sb."
)


def as_01_wrote(recipe: ab.Recipe) -> dict:
    data = recipe.to_dict()
    del data["version"]
    for gate in data["gates"]:
        for part in gate["descriptors"]:
            part.pop("order", None)
    return data


def make_old(run: Path, block: str) -> None:
    """Rewrite a run's files as 0.1 would have written them, with the block as it was given."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "block": block}, sort_keys=False))
    make_run_old(run, "block_version")


@pytest.mark.parametrize(("recorded", "today"), RECORDED)
def test_a_recorded_block_in_todays_words(recorded, today):
    assert as_recorded(recorded, 1) == today
    assert as_recorded(recorded, 2) == recorded


def test_a_recipe_says_which_version_it_is_of():
    assert ab.recipe("cbam").to_dict()["version"] == 2
    assert ab.Recipe.from_dict(ab.recipe("cbam").to_dict()) == ab.recipe("cbam")
    assert ab.Recipe.from_dict(as_01_wrote(ab.recipe(TEXT))) == ab.recipe(OLD_TEXT)
    assert ab.Recipe.from_dict(as_01_wrote(ab.recipe(CBAM))) == ab.recipe(CBAM)
    assert str(ab.recipe(OLD_TEXT)) == OLD_TEXT
    assert str(ab.recipe("channel_pool(order=max_mean) | conv2d(3) | sigmoid")) == TEXT


@pytest.mark.parametrize("version", [0, 3, "2", None, True, 1.5])
def test_an_unknown_version_is_refused(version):
    data = {**ab.recipe("ab").to_dict(), "version": version}
    with pytest.raises(ValueError, match=r"a recipe of version .*; this package reads 1, 2"):
        ab.Recipe.from_dict(data)


def test_an_order_that_is_none():
    with pytest.raises(ValueError, match="order=sum must be max_mean or mean_max"):
        ab.recipe("channel_pool(order=sum) | conv2d(3) | sigmoid")


@torch.no_grad()
def test_a_pickled_recipe_and_layer():
    old = pickle.loads(PICKLED)
    assert str(old) == OLD_TEXT
    assert old == ab.recipe(OLD_TEXT) == pickle.loads(pickle.dumps(old))
    pool = layers.ChannelPool("max_mean")
    del pool.order  # a layer that was pickled by 0.1 has none
    x = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(pool(x), torch.stack((x.mean(1), x.amax(1)), 1))


@torch.no_grad()
@pytest.mark.parametrize("block", ["cbam", CBAM])
def test_a_state_dict(tmp_path, block):
    """torch notes each module's version in it: CBAM's weights of 0.1 are turned where need be."""
    old = ab.create_model("resnet8", block=CBAM)
    for p in old.parameters():
        nn.init.normal_(p, std=0.3)
    state = old.state_dict()
    for name, about in state._metadata.items():
        if name.rpartition(".")[0].endswith("recalibrate"):
            assert about["version"] == 2
            about["version"] = 1  # as in 0.1
    torch.save(state, tmp_path / "weights.pt")
    model, x = ab.create_model("resnet8", block=block), torch.randn(2, 3, 9, 12)
    model.load_state_dict(torch.load(tmp_path / "weights.pt"))
    torch.testing.assert_close(model.eval()(x), old.eval()(x))
    # of today's state dicts, and of those without versions, nothing is turned
    today = ab.create_model("resnet8", block=block)
    for versions in (True, False):
        today.load_state_dict(model.state_dict() if versions else dict(model.state_dict()))
        assert torch.equal(today.eval()(x), model(x))


@torch.no_grad()
@pytest.mark.parametrize("block", [CBAM, OLD_TEXT])
def test_saved_gates(tmp_path, block):
    model = ab.create_model("resnet8", block=block)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    with pytest.warns(UserWarning, match="have changed"):
        ab.save(model, tmp_path, full=False)

    def make_old(info):
        (text,) = info["recipes"]
        old = text.replace("(order=mean_max)", "")
        info["recipes"] = {old: as_01_wrote(ab.recipe(text))}
        for site in info["sites"]:
            site["recipe"] = old
        del info["tensors"]
        info["base"]["fingerprint"] = "of an older version"

    edit_json(tmp_path / "booster.json", make_old)
    without_hash(tmp_path / "booster.safetensors")
    base = ab.create_model("resnet8")
    base.load_state_dict({k: v for k, v in model.state_dict().items() if "recalibrate" not in k})
    with pytest.warns(UserWarning, match="has other weights"):
        ab.load(base, tmp_path)
    x = torch.randn(3, 3, 12, 12)
    torch.testing.assert_close(base.eval()(x), model.eval()(x), rtol=0, atol=0)


def test_a_long_block_is_one_line_of_a_configuration():
    """The report of a comparison reads the settings line by line."""
    config = TrainConfig("resnet8", block=CBAM)
    lines = config.to_yaml().splitlines()
    assert {line.split(":")[0] for line in lines} == {f.name for f in fields(TrainConfig)}
    assert len(lines) == len(fields(TrainConfig))
    assert TrainConfig.from_yaml(config.to_yaml()) == config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two epochs each, of what 0.1 called "cbam" and the text; their files as 0.1 wrote them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, recorded, block in (("cbam", "cbam", CBAM), ("text", TEXT, OLD_TEXT)):
        path = folder / name
        ab.train("resnet8", block=block, epochs=2, output=str(path), **SETTINGS)
        make_old(path, recorded)
    return folder


@pytest.mark.parametrize("name", ["cbam", "text"])
def test_an_old_run_is_measured_as_it_was(runs, tmp_path, name):
    recorded = json.loads((runs / name / "run.json").read_text())["test"]
    measured = ab.evaluate(runs / name).to_dict()
    assert measured == pytest.approx(recorded, abs=1e-9)
    # as a run of today the same files are another network
    run = shutil.copytree(runs / name, tmp_path / "run")
    edit_json(run / "run.json", lambda info: info.update(block_version=2))
    assert ab.evaluate(run).loss != pytest.approx(recorded["loss"], abs=1e-4)


@pytest.mark.parametrize("name", ["cbam", "text"])
def test_an_old_run_goes_on_as_it_began(runs, tmp_path, name):
    """Stopped after its first epoch, it has the weights that it would have had, to the bit."""
    from safetensors.torch import load_file

    run = shutil.copytree(runs / name, tmp_path / "run")
    (run / "model.safetensors").unlink()
    last = checkpoint.load(run)[0]
    assert last is not None
    last.path.unlink()
    ab.train(resume=run)
    expected, got = (load_file(p / "model.safetensors") for p in (runs / name, run))
    assert expected.keys() == got.keys()
    assert all(torch.equal(got[key], expected[key]) for key in got)


def test_old_runs_are_listed_with_their_block(runs):
    listed = {run.path.name: (run.state, run.block) for run in list_runs(runs)}
    assert listed == {"cbam": ("finished", CBAM), "text": ("finished", OLD_TEXT)}


def test_a_run_of_today_notes_its_version(tmp_path):
    ab.train("resnet8", block="cbam", epochs=1, output=str(tmp_path / "run"), **SETTINGS)
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["block_version"] == 2
    assert info["versions"]["accuracy-booster"] == ab.__version__
    (listed,) = list_runs(tmp_path)
    assert listed.block == "cbam"


def test_a_version_from_the_future(runs, tmp_path, capsys):
    run = shutil.copytree(runs / "text", tmp_path / "run")
    edit_json(run / "run.json", lambda info: info.update(block_version=9))
    assert cli.main(["eval", str(run)]) == 2
    assert "version 9; this package reads 1, 2: install a newer one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "block"), [([], CBAM), (["--block", "se"], "se"), (["--block", TEXT], TEXT)]
)
def test_the_configuration_of_an_old_run_repeats_it(runs, capsys, more, block):
    """`train --config RUN/config.yaml`, where the block is not given anew."""
    words = ["train", "--config", str(runs / "cbam" / "config.yaml"), "--print_config", *more]
    assert cli.main(words) == 0
    assert yaml.safe_load(capsys.readouterr().out)["block"] == block


def test_a_configuration_by_hand_is_of_today(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("model: resnet8\nblock: cbam\n")
    assert cli.main(["train", "--config", str(tmp_path / "config.yaml"), "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["block"] == "cbam"


def test_an_old_comparison_goes_on_as_it_began(tmp_path):
    """Its run that had ended is taken as it is, the one that had not begun has the old order."""
    where = tmp_path / "c"
    result = ab.compare("resnet8", blocks=[CBAM], seeds=1, output=str(where), epochs=1, **SETTINGS)
    (where / "recipe1-s1").rename(where / "cbam-s1")

    def make_old_comparison(begun):
        for name in ("block_version", "id", "runs"):
            del begun[name]
        begun |= {"blocks": ["cbam"], "seeds": 2}

    edit_json(where / "compare.json", make_old_comparison)
    make_old(where / "cbam-s1", "cbam")
    again = ab.compare(resume=where)
    assert [run.output.name for run in again.runs] == ["cbam-s1", "cbam-s2"]
    assert [run.config.block for run in again.runs] == [CBAM, CBAM]
    (row,) = again.rows
    assert row.block == CBAM
    assert row.top1[0] == result.rows[0].top1[0]
    assert json.loads((where / "compare.json").read_text())["blocks"] == ["cbam"]
    assert [run.config.block for run in ab.compare(resume=where).runs] == [CBAM, CBAM]
