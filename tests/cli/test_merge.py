"""`accuracy-booster merge`: a file of weights of the plain network, and what it costs."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from support.commands import run

import accuracy_booster as ab
from accuracy_booster.cli.merge import MERGED
from accuracy_booster.inspection.batch_norms import in_random_order
from accuracy_booster.training.opening_to_measure import open_measured


def train(folder, block):
    return ab.train(
        "resnet8", block=block, epochs=2, device="cpu", output=str(folder), data="digits"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with AB on the digits."""
    return train(tmp_path_factory.mktemp("run") / "r", "ab").output


@pytest.fixture(scope="module")
def exact(trained):
    """The run's network, its mean weights over the training images, and those images."""
    opened = open_measured(trained, split="train", device="cpu")
    from accuracy_booster.inspection.opened_networks import inputs_of

    x = torch.cat([inputs.args[0] for inputs in inputs_of(opened)])
    return opened, ab.gates(opened.network, [x]), x


def test_the_file_is_of_the_plain_network(trained, exact, tmp_path, capsys):
    file = tmp_path / "new" / "w.safetensors"
    words = ("merge", trained, "--output", file, "--device", "cpu", "--json")
    code, out, err = run(capsys, *words)
    assert code == 0, err
    told = json.loads(out)
    opened, gates, x = exact
    assert told["sites"] == list(gates)
    assert told["images"] == len(x) == gates.images
    assert told["output"] == str(file)
    plain = ab.create_model("resnet8", in_chans=x.shape[1]).eval()
    plain.load_state_dict(load_file(file))  # strict
    merged = ab.merge(opened.network, gates).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(x[:50]), merged(x[:50]), rtol=1e-4, atol=1e-5)
    # what it says of the accuracy is what others measure
    assert told["top1"] == pytest.approx(ab.evaluate(trained, device="cpu").top1)
    assert run(capsys, *words)[0] == 0  # again, over its own file
    code, out, err = run(
        *(capsys, "train", "--model", "resnet8", "--block", "none", "--weights", file),
        *("--epochs", "1", "--lr", "1e-12", "--preset", "digits", "--device", "cpu"),
        *("--output", tmp_path / "again", "--json"),
    )
    assert code == 0, err
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert set(again) == set(load_file(file))
    weight = "layer3.0.bn2.weight"
    torch.testing.assert_close(again[weight], load_file(file)[weight], rtol=0, atol=1e-6)
    network = ab.create_model("resnet8", in_chans=x.shape[1])
    network.load_state_dict(load_file(file))
    options = {"mean": opened.data.mean, "std": opened.data.std, "image_size": (x.shape[2],) * 2}
    measured = ab.evaluate(network, "digits", device="cpu", **options)
    assert told["merged_top1"] == pytest.approx(measured.top1)


def test_statistics_are_estimated_anew(trained, exact, capsys):
    code, out, err = run(capsys, "merge", trained, "--device", "cpu", "--reestimate")
    assert code == 0, err
    assert "3 gates are constants" in out
    assert out.splitlines()[-1] == str(trained / MERGED)
    opened, gates, x = exact
    state = load_file(trained / MERGED)
    merged = ab.merge(opened.network, gates)
    for name, p in dict(merged.named_parameters()).items():
        torch.testing.assert_close(state[name], p.data, rtol=1e-5, atol=1e-6)
    seen = {}
    for name in ("bn1", "layer3.0.bn2"):
        merged.get_submodule(name).register_forward_pre_hook(
            lambda m, inputs, name=name: seen.update({name: inputs[0]})
        )
    with torch.no_grad():
        merged.train()(x)  # all images as one batch
    for name, z in seen.items():
        mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3))
        found = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        assert ((found[0] - mean).abs() / var.sqrt()).max() < 0.1
        torch.testing.assert_close(found[1], var, rtol=0.1, atol=0)
        kept = opened.network.get_submodule(name)
        assert (kept.running_var - found[1]).abs().max() > 1e-4


def test_images_are_mixed_for_it(exact):
    loader = exact[0].loader
    mixed = in_random_order(loader)
    numbers = torch.cat([batch.indices for batch in mixed.batches(0)])
    assert len(numbers) == len(mixed) * mixed.batch_size
    assert len(numbers.unique()) == len(numbers)
    assert not torch.equal(numbers, numbers.sort().values)
    pictures = next(iter(mixed.batches(0)))
    for number, image in zip(pictures.indices[:5].tolist(), pictures.images[:5], strict=True):
        assert torch.equal(image, loader.dataset[number][0])


def test_what_cannot_be_merged(trained, tmp_path, capsys):
    here = trained / "model.safetensors"
    before = here.read_bytes()
    (tmp_path / "file").write_text("")
    for words, expected in (
        ((trained, "--output", here), "is there and no file of merge"),
        ((trained, "--output", tmp_path / "w.pth"), "must end in .safetensors"),
        ((trained, "--output", tmp_path / "file" / "w.safetensors"), "is a file"),
        ((tmp_path, "--output", tmp_path / "w.safetensors"), "holds no run"),
        ((trained, "--split", "tset"), "must be 'test', 'train' or 'validation'"),
    ):
        code, out, err = run(capsys, "merge", *words)
        assert (code, out) == (2, ""), err
        assert expected in err
        assert err.count("\n") == 1
    assert here.read_bytes() == before
    for block, expected in (("none", "has no gates"), ("cbam", "3 of 3 gates cannot be merged")):
        other = train(tmp_path / block, block).output
        file = tmp_path / f"{block}.safetensors"
        code, out, err = run(capsys, "merge", other, "--output", file)
        assert (code, out) == (2, ""), err
        assert expected in err
        assert not file.exists()
