"""Cross-entropy with a weight for each class, and the weights that let all classes count alike."""

# N images of a batch, K outputs of the network

from __future__ import annotations

import torch
import torch.nn.functional as F


def balanced_weights(labels: torch.Tensor, outputs: int) -> torch.Tensor:
    """labels[N] -> weights[outputs] = N / (classes * images of the class), as scikit-learn's.

    Only classes that have images count as classes. The others have the weight 1.
    """
    counts = labels.bincount(minlength=outputs).double()
    present = counts > 0
    weights = len(labels) / (present.sum() * counts.clamp(min=1))
    return torch.where(present, weights, 1.0).float()


def cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """The mean cross-entropy of logits [N, K]; with weights [K], a weighted mean.

    For targets that are class numbers [N] it is torch's, which divides by the sum of the weights
    of the targets. For soft targets [N, K] torch divides by N, and the loss would depend on how
    many rare classes a batch has. Here it divides by the weights that the targets have, so that
    soft targets that are all 0 and 1 give what class numbers give.
    """
    loss = F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)
    if weights is None or targets.ndim == 1:
        return loss
    return loss * len(targets) / (targets @ weights).sum()
