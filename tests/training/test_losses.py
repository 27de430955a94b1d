"""Weights of classes against scikit-learn's, and the weighted loss against torch's."""

# N images, K classes

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from accuracy_booster.training.losses import balanced_weights, cross_entropy

LABELS = torch.tensor([0] * 40 + [1] * 8 + [3] * 2)


def values():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    return logits, LABELS[torch.randperm(50, generator=generator)[:12]]


def test_weights_are_scikit_learns():
    classes = np.array([0, 1, 3])
    expected = compute_class_weight("balanced", classes=classes, y=LABELS.numpy())
    weights = balanced_weights(LABELS, 5)
    assert weights[classes].tolist() == pytest.approx(expected.tolist())
    assert weights[[2, 4]].tolist() == [1, 1]  # no image has these
    assert weights[LABELS].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_class_numbers_is_torchs(smoothing):
    logits, labels = values()
    weights = balanced_weights(LABELS, 4).double()
    module = torch.nn.CrossEntropyLoss(weights, label_smoothing=smoothing)
    got = cross_entropy(logits, labels, weights, smoothing=smoothing)
    torch.testing.assert_close(got, module(logits, labels), rtol=0, atol=0)
    plain = cross_entropy(logits, labels, smoothing=smoothing)
    assert torch.equal(plain, F.cross_entropy(logits, labels, label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets_that_are_hard_give_the_same(smoothing):
    logits, labels = values()
    weights = balanced_weights(LABELS, 4).double()
    hard = F.one_hot(labels, 4).double()
    expected = cross_entropy(logits, labels, weights, smoothing=smoothing)
    torch.testing.assert_close(cross_entropy(logits, hard, weights, smoothing=smoothing), expected)
    other = F.one_hot(labels.flip(0), 4).double()
    mixed, terms = 0.3 * hard + 0.7 * other, -logits.log_softmax(1) * weights
    by_hand = (terms * mixed).sum() / (mixed * weights).sum()
    torch.testing.assert_close(cross_entropy(logits, mixed, weights), by_hand)
