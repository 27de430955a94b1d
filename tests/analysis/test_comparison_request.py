"""What a comparison is asked to do, read back from its folder."""

import pytest

from accuracy_booster.analysis.comparison_request import request_in, write_request
from accuracy_booster.files import read_json, write_json
from accuracy_booster.training import resolve


@pytest.fixture
def old(tmp_path):
    """The folder of a comparison that an older version began, from trained weights."""
    begun = {"model": "resnet8", "blocks": ["none", "ab"], "seeds": 1, "hold_out": "names"}
    options = {"data": "digits", "weights": "own.pth", "validation": 0.2}
    write_json(tmp_path / "compare.json", {**begun, "options": options})
    return tmp_path


def test_an_older_comparison_goes_on_with_its_settings(old):
    """It named neither preset nor keep, whose defaults have changed since."""
    config = resolve("resnet8", **request_in(old, {}).options)
    assert (config.preset, config.lr, config.keep) == ("digits", 0.1, "last")


def test_a_new_one_writes_what_was_decided_for_it(tmp_path):
    begun = {"model": "resnet8", "blocks": ["none"], "seeds": 1, "options": {"weights": "own.pth"}}
    write_json(tmp_path / "compare.json", begun)
    request = request_in(tmp_path, {})
    request.options.clear()
    request.options["weights"] = "own.pth"
    write_request(request, resolve("resnet8", weights="own.pth"), [], tmp_path)
    options = read_json(tmp_path / "compare.json")["options"]
    assert (options["preset"], options["keep"]) == ("finetune", "auto")
    assert resolve("resnet8", **request_in(tmp_path, {}).options).preset == "finetune"
