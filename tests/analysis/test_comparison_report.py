"""The report of a comparison."""

from support.pages import Page


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
