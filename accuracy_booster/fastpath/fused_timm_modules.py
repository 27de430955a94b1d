"""Fused forms of timm's norms; imported only where a network has them."""

from __future__ import annotations

from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct

from accuracy_booster.fastpath.fused_modules import FusedNorm, FusedSyncBatchNorm


class FusedBatchNormAct2d(FusedNorm, BatchNormAct2d):
    """One whose activation and dropout are identities: at the end of a residual branch."""

    ranks = (4,)


class FusedSyncBatchNormAct(FusedSyncBatchNorm, SyncBatchNormAct):
    """The same, synchronised."""
