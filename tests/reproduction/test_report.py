"""The report as files: without results, with pictures, and always the same bytes."""

from __future__ import annotations

from support.gate_runs import ZEROING, gates_spec
from support.results import put, put_small

from accuracy_booster.reproduction import TABLES
from accuracy_booster.reproduction.readme import BEGIN, END
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.report import write_report
from accuracy_booster.reproduction.result_files import Records, read_records, write_record
from accuracy_booster.reproduction.specs import CODE_VERSION, spec_of


def test_without_results_the_report_says_so(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    report = write_report(
        read_records(tmp_path / "none"),
        tmp_path / "page.md",
        readme=readme,
        html=tmp_path / "page.html",
    )
    assert "Nothing was run" in (tmp_path / "page.md").read_text()
    assert "No table of the paper was made again yet ([what each needs](page.md))." in (
        readme.read_text()
    )
    assert "No pair of runs has ended." in (tmp_path / "gain.svg").read_text()
    assert report.summary().startswith("0 results: ")
    assert not any((report.findings.tables, report.to_dict()["tables"]))


def test_the_same_results_give_the_same_bytes(tmp_path):
    put_small(tmp_path / "results")
    put(tmp_path / "results", TABLES["6"], "AB", 0, 70.0, model="resnet56")
    (tmp_path / "results" / "bad.json").write_text("{")
    records = read_records(tmp_path / "results")
    turned = Records(dict(reversed(records.found.items())), records.left_out)
    written = []
    for name, these in (("a", records), ("b", turned)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "README.md").write_text(f"# A\n\n{BEGIN}\n{END}\n")
        output, html = folder / "docs" / "page.md", folder / "page.html"
        write_report(these, output, readme=folder / "README.md", html=html)
        written.append({p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()})
    assert len(written[0]) == 4
    assert written[0] == written[1]


CODE = {"version": CODE_VERSION}


def test_the_report_draws_the_weights_of_a_layer(tmp_path, made_gates):
    table = TABLES["zeroing"]
    spec = spec_of(table, table.rows[0], "short", 0)
    values = read_records(made_gates.results).found[gates_spec(ZEROING, "all channels").key].values
    figure = {"layer": "layer3.0.bn2", "mean_weights": [0.4, 0.5, 0.7, 0.5]}
    write_record(
        tmp_path / "results", Record(spec, values, about={"code": CODE, "figure_3": figure})
    )
    report = write_report(
        read_records(tmp_path / "results"), tmp_path / "page.md", html=tmp_path / "page.html"
    )
    picture = tmp_path / "weights-zeroing-short.svg"
    assert picture in report.written
    assert picture.read_text().count("<svg") == 1
    text = (tmp_path / "page.md").read_text()
    said = "the mean weights of the 4 channels of layer3.0.bn2 in resnet20 with ab (seed 0)"
    assert f"Figure 3: {said} go from 0.40 to 0.70, with the median 0.50." in text
    assert f"]({picture.name})" in text
    # beside the picture of the differences
    assert (tmp_path / "page.html").read_text().count("<svg") == 2
