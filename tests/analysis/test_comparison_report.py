"""The report of a comparison."""

from dataclasses import replace

from support.pages import Page

from accuracy_booster.analysis.comparison_report import write_comparison


def test_report_is_self_contained(comparison):
    html = comparison.report.read_text()
    page = Page(html)
    sources = [f["src"] for _, f in page.found if "src" in f]
    assert not sources, "the report fetches something"
    assert "<script" not in html
    assert len(page.all("div", class_="plot")) == 2
    for row in comparison.rows:
        assert f"{row.top1_mean:.2f}" in page.text
        assert f"{row.parameters:,}" in page.text
        assert row.block in page.text
    assert "NaN" not in page.text
    assert "after the last epoch" in page.text
    for caveat in comparison.caveats():
        assert caveat in page.text


def test_links_lead_to_the_runs_wherever_the_folder_lies(comparison, tmp_path):
    """To a run's own page, and to the directory of a run that has none."""
    page = Page(comparison.report.read_text())
    links = {f["href"] for f in page.all("a")}
    assert {href for href in links if not href.startswith("#")} == {
        f"./{run.output.name}/report.html" for run in comparison.runs
    }
    assert all((comparison.report.parent / href).is_file() for href in links if href[0] != "#")
    own = comparison.runs[0].output / "report.html"
    own.rename(own.with_name("moved.html"))
    try:
        write_comparison(tmp_path / "again.html", comparison)
    finally:
        own.with_name("moved.html").rename(own)
    links = {f["href"] for f in Page((tmp_path / "again.html").read_text()).all("a")}
    assert f"./{own.parent.name}/" in links


def test_top5_of_few_classes_is_not_shown(comparison, tmp_path):
    assert "top-5 %" in Page(comparison.report.read_text()).text
    few = [replace(r, config=r.config.change({"num_classes": 4})) for r in comparison.runs]
    write_comparison(tmp_path / "few.html", replace(comparison, runs=few))
    assert "top-5" not in Page((tmp_path / "few.html").read_text()).text


def test_runs_that_stopped_early_and_kept_their_best_epoch(comparison, tmp_path):
    """One run has an epoch less than the other: each is drawn, and the mean ends with it."""
    runs = [replace(run, kept_epoch=1, best_epoch=1) for run in comparison.runs]
    runs[0] = replace(runs[0], history=[*runs[0].history, runs[0].history[-1]])
    write_comparison(tmp_path / "report.html", replace(comparison, runs=runs))
    text = Page((tmp_path / "report.html").read_text()).text
    assert "with the network of the best epoch on the validation split" in text
    assert "after the last epoch" not in text


def test_runs_whose_best_epoch_was_the_last(comparison, tmp_path):
    runs = [replace(run, best_epoch=run.epochs_done) for run in comparison.runs]
    write_comparison(tmp_path / "report.html", replace(comparison, runs=runs))
    text = Page((tmp_path / "report.html").read_text()).text
    assert "with the network of the best epoch on the validation split" in text
    assert "never the best" not in text
