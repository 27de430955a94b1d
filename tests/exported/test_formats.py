"""The table of formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from accuracy_booster.exported import FORMATS, formats


@pytest.mark.parametrize("row", FORMATS.values(), ids=list(FORMATS))
def test_a_format_is_found_by_its_name_and_by_its_files(row):
    assert formats.format_named(row.name) is row
    assert formats.format_of(Path(f"folder.d/model{row.suffix}")) is row
    assert formats.format_of(Path(f"MODEL{row.suffix.upper()}")) is row
    assert formats.is_exported(f"model{row.suffix}")


def test_other_names():
    with pytest.raises(ValueError, match="unknown format 'onx'; nearest: onnx"):
        formats.format_named("onx")
    with pytest.raises(ValueError, match=r"'a.txt' is no exported file: .* one of .onnx, .pt2"):
        formats.format_of(Path("a.txt"))
    assert not formats.is_exported("runs/resnet18")
    assert not formats.is_exported("model.onnx/run")


def test_a_missing_runtime_and_a_missing_writer(monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError,
        match=r"to run a file .onnx takes onnxruntime, which is not installed; "
        r"pip install onnxruntime, or pip install 'accuracy-booster\[export\]'",
    ):
        FORMATS["onnx"].check_runtime()
    with pytest.raises(ValueError, match="onnx and onnxscript and onnxruntime"):
        FORMATS["onnx"].check_writers()
    monkeypatch.undo()
    for row in FORMATS.values():
        if row.extra == "export":  # the tests' own packages have these
            row.check_writers()
