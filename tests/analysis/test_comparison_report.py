"""The report of a comparison."""

from dataclasses import replace

from support.pages import Page

from accuracy_booster.analysis.comparison_report import write_comparison


def test_report_is_self_contained(comparison):
    html = comparison.report.read_text()
    page = Page(html)
    addresses = [f[name] for _, f in page.found for name in ("src", "href") if name in f]
    assert all(address.startswith("#") for address in addresses), "the report fetches something"
    assert "<script" not in html
    assert len(page.all("svg")) == 1
    for row in comparison.rows:
        assert f"{row.top1_mean:.2f}" in page.text
        assert f"{row.parameters:,}" in page.text
        assert row.block in page.text
    assert "NaN" not in page.text
    assert "after the last epoch" in page.text


def test_runs_that_stopped_early_and_kept_their_best_epoch(comparison, tmp_path):
    """One run has an epoch less than the other: each is drawn, and the mean ends with it."""
    runs = [replace(run, kept_epoch=1, best_epoch=1) for run in comparison.runs]
    runs[0] = replace(runs[0], history=[*runs[0].history, runs[0].history[-1]])
    write_comparison(tmp_path / "report.html", replace(comparison, runs=runs))
    text = Page((tmp_path / "report.html").read_text()).text
    assert "with the network of the best epoch on the validation split" in text
    assert "after the last epoch" not in text
