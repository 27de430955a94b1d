"""The names of networks: ours, and those of timm and torchvision by patterns."""

from __future__ import annotations

import fnmatch

import pytest
import timm
import torchvision

import accuracy_booster as ab
from accuracy_booster.models import MODELS

# the names that a test of integrations/timm.py may have registered before, which are not timm's own
REGISTERED = ["ab_*", "accuracy_booster"]


def test_alone_it_lists_the_papers_networks():
    papers = {*(f"resnet{d}" for d in (20, 32, 44, 56, 110)), "resnet164", "wrn22_10"}
    assert papers | {"resnet164v1"} <= set(ab.list_models())
    assert ab.list_models() == list(MODELS)


@pytest.mark.parametrize(
    ("pattern", "ours"),
    [
        ("resnet1?", {"resnet14", "resnet18"}),
        ("resnet1[16]*", {"resnet110", "resnet164", "resnet164v1"}),
        ("wrn*_10", {"wrn22_10", "wrn28_10"}),
        ("*resnet18*", {"resnet18"}),
        ("shufflenet_g?", {"shufflenet_g3"}),
    ],
)
def test_a_pattern_reaches_the_libraries(pattern, ours):
    """What they themselves find by it, with their names before it."""
    found = ab.list_models(pattern)
    names = torchvision.models.list_models(module=torchvision.models)
    theirs = [f"timm/{n}" for n in timm.list_models(pattern, exclude_filters=REGISTERED)]
    theirs += [f"torchvision/{n}" for n in fnmatch.filter(names, pattern)]
    assert len(found) == len(set(found))
    assert set(found) == ours | set(theirs)
    assert [name for name in found if name in MODELS] == found[: len(ours)]


def test_a_library_and_both():
    ab.integrations.timm.register()
    timms = [f"timm/{n}" for n in timm.list_models(exclude_filters=REGISTERED)]
    assert ab.list_models("timm/*") == timms
    assert ab.list_models("timm/resnet18*") == [n for n in timms if n.startswith("timm/resnet18")]
    both = ab.list_models("*/*")
    assert both[: len(timms)] == timms
    assert "torchvision/mobilenet_v2" in both
    assert not set(both) & set(MODELS)


@pytest.mark.parametrize("text", ["resnet18", "timm/resnet18", "torchvision/net_v2"])
def test_a_text_without_wildcards_is_found_anywhere_in_a_name(text):
    library, _, rest = text.rpartition("/")
    pattern = f"{library}/*{rest}*" if library else f"*{rest}*"
    assert ab.list_models(text) == ab.list_models(pattern)
    assert len(ab.list_models(text)) >= 2


def test_those_with_weights():
    found = ab.list_models("*resnet18*", pretrained=True)
    assert {"resnet18", "timm/resnet18", "torchvision/resnet18"} <= set(found)
    assert "wrn18_2" not in ab.list_models("wrn*", pretrained=True)
    tagged = {name.partition(".")[0] for name in timm.list_models("convnext_*", pretrained=True)}
    found = ab.list_models("timm/convnext_*", pretrained=True)
    assert set(found) == {f"timm/{n}" for n in tagged if n in timm.list_models()}
    assert len(found) < len(ab.list_models("timm/convnext_*"))


def test_those_that_can_be_boosted():
    """Those where a plan finds a site: no VGG, no DenseNet."""
    found = ab.list_models("torchvision/*net*[12]1", boostable=True)
    all_of_them = ab.list_models("torchvision/*net*[12]1")
    assert "torchvision/densenet121" in all_of_them
    assert "torchvision/densenet121" not in found
    assert ab.list_models("resnet8", boostable=True) == ["resnet8"]
    assert ab.list_models("torchvision/vgg11", boostable=True) == []
