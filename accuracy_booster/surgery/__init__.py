"""Attach re-calibration blocks to networks and take them off again."""

from accuracy_booster.surgery.attach import ATTRIBUTE, attach, attached, detach
from accuracy_booster.surgery.sites import Site, measure

__all__ = ["ATTRIBUTE", "Site", "attach", "attached", "detach", "measure"]
