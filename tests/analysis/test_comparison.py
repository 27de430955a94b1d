"""Comparing, counting and reporting."""

import json
import re
from html.parser import HTMLParser
from statistics import mean, stdev

import pytest

import accuracy_booster as ab
from accuracy_booster.analysis.latency import latency
from accuracy_booster.cli import main
from accuracy_booster.files import read_json


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    where = tmp_path_factory.mktemp("compare")
    return ab.compare(
        "resnet8",
        blocks=["none", "ab", "gap | dense(groups=4) | bn | sigmoid"],
        seeds=2,
        epochs=1,
        device="cpu",
        output=str(where / "c"),
    )


def test_rows(comparison):
    assert len(comparison.runs) == 6
    for row in comparison.rows:
        runs = [r for r in comparison.runs if r.config.block == row.block]
        assert sorted(r.config.seed for r in runs) == [0, 1]
        top1 = [r.test.top1 for r in runs]
        assert (row.top1_mean, row.top1_spread) == (mean(top1), stdev(top1))
        assert row.ms_per_image > 0
        for run in runs:
            assert ab.evaluate(run.output).top1 == run.test.top1
    none, boosted, grouped = comparison.rows
    # resnet8: one block each with 16, 32 and 64 channels; AB adds C weights and 2C of its norm
    assert boosted.parameters - none.parameters == 3 * (16 + 32 + 64)
    assert boosted.macs - none.macs == 16 + 32 + 64
    squares = (16**2 + 32**2 + 64**2) // 4
    assert grouped.parameters - none.parameters == squares + 2 * (16 + 32 + 64)
    assert grouped.macs - none.macs == squares
    path = comparison.report.parent / "results.json"
    assert read_json(path) == json.loads(json.dumps(comparison.to_dict()))
    assert json.loads(path.read_text())["sha256"]


class Page(HTMLParser):
    """What a page says and what it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.fetched, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [v for k, v in attrs if k in ("src", "href") and not v.startswith("#")]

    def handle_data(self, data):
        self.text += data


def test_report_is_self_contained(comparison):
    html = comparison.report.read_text()
    page = Page(html)
    assert page.fetched == [], "the report fetches something"
    assert "<script" not in html
    assert page.tags.count("svg") == 1
    for row in comparison.rows:
        assert f"{row.top1_mean:.2f}" in page.text
        assert f"{row.parameters:,}" in page.text
        assert row.block in page.text
    # no block's text is taken for markup
    assert "NaN" not in page.text
    assert re.search(r"after the last epoch", page.text)


def test_compare_through_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["compare", "--model", "resnet8", "--blocks", "none,eca", "--seeds", "1"]
    for expected in ("compare-resnet8-digits", "compare-resnet8-digits-2"):
        assert main([*words, "--epochs", "1", "--device", "cpu"]) == 0
        out, _ = capsys.readouterr()
        last = out.strip().splitlines()[-1]
        assert last == f"runs/{expected}/report.html"
        assert (tmp_path / last).exists()
        assert "eca" in out
        assert "parameters" in out


def test_compare_refuses_before_it_trains(tmp_path):
    output = tmp_path / "c"
    for wrong, match in (
        ({"blocks": ["none", "abb"]}, "unknown block"),
        ({"blocks": "ab"}, "list of recipes"),
        ({"blocks": []}, "list of recipes"),
        ({"blocks": ["none", "ab_g3"]}, "groups=3"),
        ({"model": "resnet57"}, "unknown model"),
        ({"lr": -1.0}, "lr"),
    ):
        with pytest.raises(ValueError, match=match):
            ab.compare(**{"model": "resnet8", "epochs": 1, "output": str(output), **wrong})
        assert not output.exists()


@pytest.mark.parametrize(
    ("model", "recipe", "macs"),
    [  # /shared/paper/counting.md; sum C = 8,064 and sum C^2 = 1,548,288 for ResNet-164
        ("resnet56", None, 125_491_456),
        ("resnet164", None, 247_669_760),
        ("resnet164v1", None, 244_524_032),
        ("resnet164v1", "ab", 244_524_032 + 8_064),
        ("resnet164v1", "ab_g16", 244_524_032 + 1_548_288 // 16),
        ("resnet164v1", "ab_plus", 244_524_032 + 1_548_288),
    ],
)
def test_complexity(model, recipe, macs):
    network = ab.create_model(model, block=recipe, num_classes=100)
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    cost = ab.complexity(network, (3, 32, 32))
    assert cost.macs == pytest.approx(macs, rel=2e-5)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert network.training
    assert all((v == before[k]).all() for k, v in network.state_dict().items())


def test_latency_measures_each_model():
    models = {name: ab.create_model(name) for name in ("resnet8", "resnet20")}
    times = latency(models, (3, 16, 16), batch_size=2, rounds=3)
    assert set(times) == set(models)
    assert all(t > 0 for t in times.values())
