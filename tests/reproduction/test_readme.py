"""The block of the README."""

from __future__ import annotations

import numpy as np
import pytest
from support.results import SMALL, interval_of, put, put_small

from accuracy_booster.reproduction import TABLES, read_records
from accuracy_booster.reproduction.readme import BEGIN, END
from accuracy_booster.reproduction.report import write_report
from accuracy_booster.reproduction.result_files import Records


def test_the_block_of_the_readme_is_replaced(tmp_path):
    put_small(tmp_path / "results")
    readme = tmp_path / "README.md"
    before, after = "# Title\r\n\ntext\n\n", "\n\nmore ümlaut\n"
    readme.write_bytes(f"{before}{BEGIN}\nold\n{END}{after}".encode())
    output = tmp_path / "docs" / "page.md"
    for _ in range(2):
        write_report(read_records(tmp_path / "results"), output, readme=readme)
        text = readme.read_bytes().decode()
        assert text.startswith(before + BEGIN)
        assert text.endswith(END + after)
    block = text[text.index(BEGIN) : text.index(END)]
    assert "old" not in block
    assert "](docs/gain.svg)" in block
    assert "[all tables](docs/page.md)" in block
    gains = np.array(SMALL["AB"]) - np.array(SMALL["no block"])
    low, high = interval_of(gains)
    gain = f"{gains.mean():+.2f} [{low:+.2f}, {high:+.2f}]"
    row = (
        f"| AB | {np.mean(SMALL['AB']):.2f} ± {np.std(SMALL['AB'], ddof=1):.2f} | no block | {gain}"
    )
    assert row in block
    assert "paper (ResNet-56)" in block
    assert " 5 of 5 seeds;" in block
    assert "No table was run with the budget paper" in block
    assert "Not run: Finetune, Zeroing, Table 2," in block


def test_the_readme_shows_the_first_table_where_small_has_no_results(tmp_path):
    for label in ("no block", "SE"):
        put(tmp_path / "results", TABLES["6"], label, 0, 70.0, model="resnet56")
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    write_report(read_records(tmp_path / "results"), tmp_path / "page.md", readme=readme)
    assert "Measured: CIFAR-100." in readme.read_text()
    assert "| resnet56, SE |" in readme.read_text()


@pytest.mark.parametrize(
    "text", ["nothing", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{END}\n{BEGIN}{END}"]
)
def test_a_readme_without_the_marks_is_refused(tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match="add them where") as caught:
        write_report(Records({}, {}), tmp_path / "docs" / "page.md", readme=readme)
    assert BEGIN in str(caught.value)
    assert END in str(caught.value)
    assert readme.read_text() == text
    assert not (tmp_path / "docs").exists()
