"""Fused forms of timm's batch norms. This file imports timm, so it is imported only with timm."""

from __future__ import annotations

from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct

from accuracy_booster.fastpath.fused_modules import FusedNorm, FusedSyncBatchNorm


class FusedBatchNormAct2d(FusedNorm, BatchNormAct2d):
    """For norms whose activation and dropout are identities, as at the end of a branch."""

    ranks = (4,)


class FusedSyncBatchNormAct(FusedSyncBatchNorm, SyncBatchNormAct):
    """The same, with statistics over all processes."""
