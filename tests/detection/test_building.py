"""Options of a configuration reach the data."""

from __future__ import annotations

import pytest
from support.detectors import NO_DEAD_NORMS, make_coco, options

from accuracy_booster import detection

# N batch, C channels, H W space


pytestmark = NO_DEAD_NORMS


def test_boxes_of_no_area_within_and_beyond_what_is_allowed(tmp_path, capsys):
    def flat(content):
        for annotation in content["annotations"][3:5]:
            annotation["bbox"][2] = 0

    data = make_coco(tmp_path / "data", change=flat)
    with pytest.raises(ValueError, match=r"2 annotations of .* more than bad_annotations=1"):
        detection.train(**options(data, tmp_path / "run", bad_annotations=1))
    assert not (tmp_path / "run").exists()
    detection.train(**options(data, tmp_path / "run", bad_annotations=2, epochs=1))
    assert "2 of 14 annotations have no area" in " ".join(capsys.readouterr().err.split())
