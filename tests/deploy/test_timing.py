"""What a file is timed beside, and what is told of it. No test looks at a time."""

import torch

import accuracy_booster as ab
from accuracy_booster.deploy.timing import FILE, PLAIN, UNBOOSTED, opponents, time_files
from accuracy_booster.deploy.writing import converted
from accuracy_booster.exported import FORMATS, About
from accuracy_booster.surgery.listing import attached

EXAMPLE = torch.zeros(2, 3, 32, 32)


def test_opponents():
    network = ab.create_model("resnet8", block="ab").eval()
    found = opponents(network, EXAMPLE)
    assert found[PLAIN] is network
    assert not attached(found[UNBOOSTED])
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in found[UNBOOSTED].modules())
    assert attached(network), "the network itself is as it was"
    assert list(opponents(ab.create_model("resnet8").eval(), EXAMPLE)) == [PLAIN]


def test_files_are_timed_in_turns(tmp_path):
    network = ab.create_model("resnet8", block="ab", num_classes=4).eval()
    about = About("resnet8", "ab", (), (3, 32, 32), (0.5,) * 3, (0.2,) * 3)
    files = {FILE: tmp_path / "a.onnx", PLAIN: tmp_path / "b.onnx"}
    save = converted(network, FORMATS["onnx"], about.input_size)
    for file in files.values():
        save(file, about)
    rows = time_files(files, about, [1, 3], seconds=0.05)
    assert [row.batch for row in rows] == [1, 3]
    for row in rows:
        assert row.times.keys() == files.keys()
        assert row.ratios.keys() == {PLAIN}
        assert min(*row.times.values(), *row.ratios.values()) > 0
        assert row.to_dict()["this_file_over"] == row.ratios
