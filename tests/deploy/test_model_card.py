"""The model card: its head, its figures, and texts from outside that must not change its layout."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from support.files import edit_json
from support.published_runs import ODD_CLASSES, ODD_DATA, small_run
from support.trainings import digit_words, train_digits

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.deploy.card_data import data_type, hub_data
from accuracy_booster.deploy.wilson import wilson
from accuracy_booster.integrations.timm import why_too_old
from accuracy_booster.training.run_directory import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:the network has", "ignore:the batch norm of"),
    pytest.mark.skipif(why_too_old() is not None, reason="boosted names need timm 1.0.31 or newer"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    train_digits(folder)
    return folder


def card_of(run, folder, **options):
    """The text of the card, and its head."""
    ab.save_pretrained(run, folder, **{"latency": False, **options})
    text = (folder / "README.md").read_text(encoding="utf-8")
    return text, ModelCard(text).data


def changed(run, folder, **info):
    """A copy of a run whose run.json says something else."""
    shutil.copytree(run, folder)
    edit_json(folder / "run.json", lambda known: known.update(info))
    return folder


def table(text):
    """{name: value} of the card's tables of two columns."""
    return dict(re.findall(r"^\| ([^|`]+?) \| (.+?) \|$", text, re.MULTILINE))


def code_block(text, language):
    return re.search(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[1]


def test_the_head_is_one_that_the_hub_reads(run, tmp_path):
    text, head = card_of(run, tmp_path / "out")
    assert (head.library_name, head.license) == ("timm", None)
    assert {"image-classification", "timm", "accuracy-booster"} <= set(head.tags)
    assert head.pipeline_tag == "image-classification"
    assert head.model_name == "resnet8 with ab on digits"
    (result,) = head.eval_results
    assert (result.task_type, result.dataset_name) == ("image-classification", "digits")
    info = json.loads((run / "run.json").read_text())
    assert result.metric_type == "accuracy"
    assert result.metric_value == pytest.approx(info["test"]["top1"] / 100, abs=1e-6)
    assert "\n# license: choose one" in text.partition("\n---\n")[0]
    assert "## Licence\n\nNone is chosen yet" in text


def test_every_figure_is_the_runs(run, tmp_path):
    text, _ = card_of(run, tmp_path / "out")
    info = json.loads((run / "run.json").read_text())
    network = ab.load_run(run)
    counted = ab.complexity(network, input_size=(1, 8, 8))
    told = table(text)
    images, top1 = info["test"]["images"], info["test"]["top1"]
    hits = round(top1 * images / 100)
    low, high = wilson(hits, images)
    assert told["top-1 accuracy"] == f"{top1:.2f} %: {hits} of {images} test images"
    assert told["its 95 % interval"] == f"{100 * low:.2f} to {100 * high:.2f} % (Wilson)"
    assert told["top-5 accuracy"] == f"{info['test']['top5']:.2f} %"
    assert told["parameters"] == f"{info['parameters']:,}" == f"{counted.parameters:,}"
    assert told["MACs of an image"] == f"{counted.macs:,}"
    assert told["MACs of the gates, among these"] == f"{counted.extra.macs:,}"
    assert (told["training images"], told["test images"]) == ("1,437", "360")
    assert info["data"]["test"]["pixels"] in told["hashes, which tell other data apart"]
    assert "with seed 1" in text
    assert "This is one training, with seed 1." in text
    assert "arXiv:1903.04407" in text
    assert "The latency was not measured." in text
    for name, version in info["versions"].items():
        assert f"{name} {version}" in text


def test_the_latency_is_measured_and_says_where(run, tmp_path):
    text, _ = card_of(run, tmp_path / "out", latency=True)
    found = re.findall(r"latency of a batch of (\d+) \| (\S+) ms \(median of (\d+)\)", text)
    assert [batch for batch, *_ in found] == ["1", "16"]
    assert all(float(time) > 0 and int(rounds) >= 3 for _, time, rounds in found)
    assert re.search(r"Timed on .+, 1 thread.*, torch ", text)
    assert "was not measured." not in text.partition("## Cost")[2]


def test_the_command_trains_it_again(run, tmp_path, capsys):
    """From the card alone, on the same machine: the same weights bit for bit."""
    text, _ = card_of(run, tmp_path / "out")
    words = shlex.split(code_block(text, "bash"))
    assert words[:2] == ["accuracy-booster", "train"]
    rest = [word for word in digit_words("train", tmp_path / "again") if "output" in word]
    on_this_machine = ["--device=cpu", "--compile=off"]
    assert main([*words[1:], *rest, *on_this_machine]) == 0
    capsys.readouterr()
    infos = [json.loads((p / "run.json").read_text()) for p in (run, tmp_path / "again")]
    assert infos[0]["ended"]["sha256"] == infos[1]["ended"]["sha256"]
    settings = yaml.safe_load(code_block(text, "yaml"))
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert settings == {name: stored[name] for name in settings}


def test_odd_names_change_no_layout(make_folder, tmp_path):
    names = {f"{s}/{c}": 4 for s in ("train", "test") for c in ODD_CLASSES}
    data = make_folder(names, name=ODD_DATA)
    run = small_run(data, tmp_path / "run", model="resnet8", block="gap | dense | sigmoid")
    text, head = card_of(run, tmp_path / "out")
    assert head.eval_results[0].dataset_name == ODD_DATA
    assert head.eval_results[0].dataset_type == "imagefolder"
    assert head.model_name == f"resnet8 with gap | dense | sigmoid on {ODD_DATA}"
    assert json.loads(code_block(text, "json")) == sorted(ODD_CLASSES)
    assert table(text)["block"] == "`gap \\| dense \\| sigmoid`"
    assert str(tmp_path) not in text
    outside = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    body = outside.partition("\n---\n")[2]
    assert "<script>" not in body
    assert not re.search(r"(?<!`)(?<!\\)<b>", re.sub(r"``.*?``", "", body))
    titles = [
        *("Load it", "Images", "Data", "Training", "Cost", "Limitations", "Licence", "Reference"),
    ]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == titles


def test_a_name_with_control_characters_is_escaped(run, tmp_path):
    classes = ["\x1b[31m", "two\nlines", "\u202eback", "\udcff", *"456789"]
    text, _ = card_of(changed(run, tmp_path / "run", classes=classes), tmp_path / "out")
    told = json.loads(code_block(text, "json"))
    assert told[:4] == ["\\x1b[31m", "two\\nlines", "\\u202eback", "\\udcff"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["label_names"] == classes


def test_what_a_run_was_is_told(run, make_folder, tmp_path):
    """A held-out test set, weights from elsewhere, a longer training, images that were left out."""
    data = make_folder({f"{c}": 10 for c in "abc"})
    start = tmp_path / "secret" / "start.safetensors"
    start.parent.mkdir()
    shutil.copy(run / "model.safetensors", start)
    other = small_run(
        data,
        tmp_path / "run",
        **{"model": "resnet8", "block": "ab", "validation": 0.2, "weights": str(start)},
        **{"image_size": 8},
    )
    info = {"lengthened": [{"from": 1, "to": 2, "at": 1}], "unreadable": ["x.png"]}
    text, _ = card_of(changed(other, tmp_path / "changed", **info), tmp_path / "out")
    told = table(text)
    assert told["training images"] == "24"
    assert told["test images"].startswith("6, held out of the training set")
    assert told["not readable"] == "1 image, which was left out"
    assert "from the weights in `start.safetensors`" in text
    assert "secret" not in text
    assert "(1 to 2 epochs)" in text
    assert "their data and their licence" in text
    assert "`--data` names the directory of the data" in text
    assert "top-5 accuracy" not in told  # of 3 classes


@pytest.mark.parametrize(
    ("data", "known"),
    [("cifar10", "uoft-cs/cifar10"), ("hfds/somebody/photos", "somebody/photos"), ("digits", None)],
)
def test_data_of_the_hub_are_named_as_there(data, known, run):
    _, config = Run.open(run)
    config = replace(config, data=data)
    assert hub_data(config) == known
    assert data_type(config) == (known or data)


def test_what_is_said_of_gates(run, tmp_path):
    text, _ = card_of(run, tmp_path / "out")
    names = [name for name in ab.load_run(run).state_dict() if ".recalibrate." in name]
    assert f"{len(names)} of them are of the 3 gates" in text
    for name in (n for n in names if n.startswith("layer1.0.bn2")):
        assert f"| `{name}` |" in text
    assert "`gap | dense(groups=C) | bn | sigmoid`" in text
    assert "ab.integrations.timm.register()" in text


def test_without_gates_nothing_is_said_of_them(tmp_path):
    train_digits(tmp_path / "run", block="none", model="resnet8")
    text, head = card_of(tmp_path / "run", tmp_path / "out")
    assert "recalibrate" not in text
    assert "of the gates, among these" not in text
    assert head.model_name == "resnet8 on digits"
