"""Weights of colour networks for grey images, and the other way round."""

# N batch, C channels, H W space

import pytest
import torch
from support.trainings import randomise
from timm.models import adapt_input_conv

import accuracy_booster as ab
from accuracy_booster.models.weights import load_weights


@pytest.mark.parametrize("name", ["resnet8", "timm/resnet18"])
def test_grey_images_give_what_they_gave_as_colour(name):
    colour = randomise(ab.create_model(name, num_classes=5)).eval()
    grey = ab.create_model(name, num_classes=5, in_chans=1).eval()
    loaded = load_weights(grey, colour.state_dict(), "w.pth")
    assert loaded.adapted in ("conv1.weight", "conv.weight")
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(grey(x), colour(x.repeat(1, 3, 1, 1)), rtol=1e-3, atol=1e-4)
        back = ab.create_model(name, num_classes=5).eval()
        load_weights(back, grey.state_dict(), "w.pth")
        torch.testing.assert_close(back(x.repeat(1, 3, 1, 1)), grey(x), rtol=1e-3, atol=1e-4)
    theirs = adapt_input_conv(1, colour.state_dict()[loaded.adapted])
    assert torch.equal(grey.state_dict()[loaded.adapted], theirs)


def test_other_shapes_are_still_refused():
    made = ab.create_model("resnet8", num_classes=5)
    for chans in (2, 4):
        other = ab.create_model("resnet8", num_classes=5, in_chans=chans)
        with pytest.raises(ValueError, match="tensors have other shapes"):
            load_weights(other, made.state_dict(), "w.pth")
    assert load_weights(made, made.state_dict(), "w.pth").adapted is None
