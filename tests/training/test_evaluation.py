"""`evaluate` counts every image once, and leaves a module as it was."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.pages import Page
from torch import nn

import accuracy_booster as ab


def test_evaluate_counts_every_image_once(grey, capsys):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))
    mean, std = (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)
    names = ["dark", "grey", "white", "a", "b", "c", "d"]
    hits1 = hits5 = 0
    for label, name in enumerate(("dark", "grey", "white")):
        for file in sorted((grey / "test" / name).iterdir()):
            x = torch.tensor(np.array(Image.open(file))).permute(2, 0, 1).double() / 255
            x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
            order = model.double()(x[None])[0].argsort(descending=True).tolist()
            hits1 += order[0] == label
            hits5 += label in order[:5]
    model.float()
    for batch in (2, 4, 256):  # 9 images: ragged last batches
        options = {"mean": mean, "std": std, "eval_batch_size": batch, "classes": names}
        got = ab.evaluate(model, str(grey), **options)
        assert (got.top1, got.top5) == (
            pytest.approx(100 * hits1 / 9),
            pytest.approx(100 * hits5 / 9),
        )
        assert got.images == 9
    written = ab.evaluate(model, str(grey), report=grey / "page.html", **options).report
    page = Page(written.read_text())
    assert f"Sequential on {grey}" in page.text
    assert "block" not in page.text  # which is a run's
    assert "mean 0.2, 0.3, 0.4" in page.text
    with pytest.raises(ValueError, match="has 6 names, and the network has 7 outputs; give 7"):
        ab.evaluate(model, str(grey), **{**options, "classes": names[:6]})
    told = " ".join(capsys.readouterr().err.split())
    assert "since the module has no pretrained_cfg: " in told
    assert "pixels, mean 0.2,0.3,0.4, std 0.5,0.6,0.7" in told
    assert 0 < hits5 < 9, "the case tells nothing: every image is a hit, or none"
    assert model.training, "evaluate left the module in another mode"
