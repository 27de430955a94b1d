"""The preset that fits a network, and what is given over it."""

import pytest

import accuracy_booster as ab
from accuracy_booster.training.presets import resolve, told


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        ("resnet56", "cifar100", ("cifar_resnet", 200, 128, 0.1, 1e-4, False, 0)),
        ("resnet110", "cifar10", ("cifar_resnet_deep", 200, 128, 0.1, 1e-4, False, 1)),
        ("resnet164v1", "cifar10", ("cifar_resnet_deep", 200, 128, 0.1, 1e-4, False, 1)),
        ("wrn22_10", "cifar100", ("cifar_wrn", 200, 128, 0.1, 5e-4, True, 0)),
        ("resnet20", "digits", ("digits", None, 64, 0.1, 1e-4, False, 0)),
    ],
)
def test_presets(model, data, expected):
    c = resolve(model, data=data)
    got = (c.preset, c.epochs, c.batch_size, c.lr, c.weight_decay, c.nesterov, c.warmup_epochs)
    assert [g for g, e in zip(got, expected, strict=True) if e is not None] == [
        e for e in expected if e is not None
    ]
    changed = resolve(model, data=data, epochs=7, lr=0.3)
    assert (changed.epochs, changed.lr, changed.preset) == (7, 0.3, c.preset)
    named = resolve(model, data=data, preset="cifar_wrn")
    assert named.weight_decay == 5e-4


@pytest.mark.parametrize("start", [{"weights": "own.pth"}, {"pretrained": True}])
def test_trained_weights_are_fine_tuned(start):
    for model, data in (("timm/resnet18", "photos"), ("resnet8", "digits")):
        c = resolve(model, data=data, **start)
        assert (c.preset, c.optimizer, c.norm_weight_decay) == ("finetune", "sgd", 0.0)
        assert c.lr <= 0.01
        assert c.epochs <= 10
        named = resolve(model, data=data, preset="cifar_resnet", **start)
        assert (named.norm_weight_decay, named.lr) == (None, 0.1)


def test_a_line_says_which_preset_is_taken_and_why():
    assert told(resolve("resnet8")).startswith(
        "preset=digits: the data are the built-in digits; 10 epochs, batches of 64, sgd, learning "
    )
    line = told(resolve("timm/resnet18", data="photos", weights="own.pth", epochs=1))
    assert line.startswith("preset=finetune: the network starts from trained weights (--preset ima")
    assert "; 1 epoch, batches of 32, sgd, learning rate 0.005" in line


@pytest.mark.filterwarnings("ignore")
def test_a_boosted_network_does_not_lose_what_it_had_learned(tmp_path, capsys):
    """By default settings, from its own weights; with those of random weights it does."""
    shared = {"data": "digits", "device": "cpu", "compile": "off"}
    base = ab.train("resnet8", block="none", **shared, epochs=6, output=str(tmp_path / "base"))
    had = base.test.top1
    assert had > 90
    told = capsys.readouterr().err
    assert "preset=digits" in told
    start = {**shared, "block": "ab", "weights": str(base.output)}
    tuned = ab.train("resnet8", **start, epochs=2, output=str(tmp_path / "tuned"))
    assert tuned.test.top1 >= had - 0.3, "one image of 360"
    assert all(row["test_top1"] > had - 1.5 for row in tuned.history)
    assert "preset=finetune: the network starts from trained weights" in capsys.readouterr().err
    scratch = {"preset": "digits", "epochs": 1, "schedule": "step"}
    hurt = ab.train("resnet8", **start, **scratch, output=str(tmp_path / "hurt"))
    assert hurt.history[0]["test_top1"] < had - 1.5


def test_a_preset_asks_for_no_more_loading_processes_than_there_are_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    assert resolve("resnet50", data="photos").workers == 1
    assert resolve("resnet50", data="photos", workers=3).workers == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert resolve("resnet50", data="photos").workers == 4
