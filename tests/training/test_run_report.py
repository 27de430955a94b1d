"""The page of one run: what it shows, that names cannot harm it, and that it costs no run."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix
from support import browser as browsers
from support.hostile import EVIL
from support.pages import IMAGE, Page
from support.trainings import short, train_digits

import accuracy_booster as ab
from accuracy_booster.data.images import TensorImages
from accuracy_booster.training import TrainConfig, run_report
from accuracy_booster.training.answers import Answers
from accuracy_booster.training.measuring import Evaluation
from accuracy_booster.training.run_files import remove_run
from accuracy_booster.training.run_report import write_run_report

pytestmark = pytest.mark.filterwarnings("ignore")


def write_of(path, names, images_of_each=4, side=8, epochs=30):
    """A page of made-up answers; returns it and the answers."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(names)).repeat_interleave(images_of_each)
    wrong = torch.rand(len(labels), generator=generator) < 0.4
    given = torch.where(wrong, (labels + 1) % len(names), labels)
    rows = labels, given, torch.rand(len(labels), generator=generator), torch.arange(len(labels))
    answers = Answers.of(names, range(len(names)), [rows])
    shape = (len(labels), 3, side, side)
    pictures = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    history = [
        {"epoch": i, "lr": 0.1 / i, "train_loss": 1 / i, "test_loss": 1 / i, "test_top1": 1.0 * i}
        for i in range(1, epochs + 1)
    ]
    top1 = 100 * float((labels == given).float().mean())
    write_run_report(
        path,
        Evaluation(top1, 100.0, 1.0, len(labels), answers),
        TensorImages(pictures, labels),
        config=TrainConfig("resnet8", block="ab", data="data/photos", lr=0.1),
        info={"device": IMAGE, "seconds": 61.0, "parameters": 7, "data": {"test": {"images": 9}}},
        history=history,
    )
    return Page(path.read_text()), answers


def test_hostile_names_are_text(tmp_path):
    names = [IMAGE, f"b{EVIL}", "c</table>", "d" * 300, "e", "f"]
    page, answers = write_of(tmp_path / "a.html", names)
    assert not page.broken
    assert not page.all("script")
    assert IMAGE in page.text
    assert "onerror" not in {name for _, found in page.found for name in found}
    assert all(found["src"].startswith("data:image/") for found in page.all("img"))
    assert len(page.all("img")) == int((answers.labels != answers.given).sum())
    policy = next(f for f in page.all("meta") if f.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'; script-src 'none'" in policy["content"]
    assert "top-5 accuracy" in page.text
    assert not re.search("[\x1b\x9b\u202e\u2066]", (tmp_path / "a.html").read_text())


def test_a_thousand_classes_make_a_small_page(tmp_path):
    page, answers = write_of(tmp_path / "a.html", [f"class {k}" for k in range(1000)])
    assert (tmp_path / "a.html").stat().st_size < 1_000_000
    assert "975 more classes" in page.text
    assert "The most confused pairs" in page.text
    true, given, count = answers.confused[0]
    assert f"class {true} class {given} {count} " in page.text
    assert len(page.all("img")) == 12


def test_the_page_of_a_training(make_folder, tmp_path, pixels):
    """Confusion, accuracies and mistakes are those of the run; eval writes the same page."""
    rng = np.random.default_rng(0)
    noise = [
        [rng.integers(0, 200, (70, 80, 3), dtype=np.uint8) + 20 * k for _ in range(6)]
        for k in range(3)
    ]
    folders = {f"{s}/{n}": noise[k] for s in ("train", "test") for k, n in enumerate("abc")}
    data = make_folder(folders)
    run = ab.train("resnet8", data=str(data), **short(tmp_path, image_size=16, epochs=2)).output
    measured = ab.evaluate(run)
    answers = measured.answers
    expected = confusion_matrix(answers.labels, answers.given, labels=range(3))
    page = Page((run / "report.html").read_text())
    for name, row in zip("abc", expected, strict=True):
        assert f" {name} {' '.join(str(n) for n in row if n)} " in f"{page.text} "
    for one in measured.by_class:
        assert f"{one.name} 6 {one.top1:.1f}" in page.text
    wrong = int((answers.labels != answers.given).sum())
    assert 0 < wrong < 18, "the case tells nothing"
    assert len(page.all("img")) == min(12, wrong)
    assert page.text.count("/00") == min(12, wrong)  # the names of their files
    assert "top-5" not in page.text  # of three classes
    for label in ("Loss by epoch: train, test", "Accuracy by epoch: train, test", "Learning rate"):
        assert any(f.get("aria-label", "").startswith(label) for f in page.all("svg"))
    again = ab.evaluate(run, report=tmp_path / "again.html")
    assert again.report == tmp_path / "again.html"
    strip = r"Made by .*|20\d\d-.*"
    texts = [Page(p.read_text()).text for p in (run / "report.html", again.report)]
    assert re.sub(strip, "", texts[0]) == re.sub(strip, "", texts[1])
    (run / "notes.txt").write_text("mine")
    ab.train("resnet8", data=str(data), overwrite=True, **short(tmp_path, image_size=16))
    assert "after 1 epoch." in (run / "report.html").read_text()
    ab.train(resume=run, epochs=2)
    assert "after 2 epochs." in (run / "report.html").read_text()
    remove_run(run)
    assert {p.name for p in run.iterdir()} <= {"notes.txt", ".lock"}


def test_a_page_that_cannot_be_written_loses_no_training(tmp_path, monkeypatch, capsys):
    def fails(*given, **more):
        raise ValueError("no room for pages")

    monkeypatch.setattr(run_report, "write_page", fails)
    run = train_digits(tmp_path / "run").output
    assert "was not written: ValueError: no room for pages" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (run / "report.html").exists()
    with pytest.warns(UserWarning, match="no report: no room for pages"):
        measured = ab.evaluate(run, report=tmp_path / "a.html")
    assert measured.report is None
    assert measured.images == 360


@pytest.mark.skipif(browsers.find() is None, reason="needs a browser on the PATH")
def test_in_a_browser_nothing_is_blocked_or_too_wide(tmp_path):
    names = ["a", "a long name of a class, of many words", *"cdefghij"]
    write_of(tmp_path / "a.html", names, side=90)
    wide = (
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll > *, .unseen,"
        " .skip') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"
    )
    with browsers.Browser() as browser:
        for width, dark in ((390, True), (1280, False)):
            browser.open(tmp_path / "a.html", width=width, dark=dark)
            assert not browser.errors
            assert browser.run(wide) == []
            loaded = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
            assert browser.run(loaded)
            assert browser.run("document.images.length") > 5
            ink = browser.run("getComputedStyle(document.querySelector('.confusion td')).color")
            assert ink


def test_pictures_are_small(tmp_path):
    """Large photographs become JPEG files of at most 160 pixels."""
    page, _ = write_of(tmp_path / "a.html", ["a", "b"], images_of_each=20, side=400)
    sizes = {(int(f["width"]), int(f["height"])) for f in page.all("img")}
    assert sizes == {(160, 160)}
    assert all(f["src"].startswith("data:image/jpeg") for f in page.all("img"))
    assert (tmp_path / "a.html").stat().st_size < 400_000
    assert Image.MIME["JPEG"] == "image/jpeg"
