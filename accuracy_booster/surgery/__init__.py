"""Find where gates go in any network, attach them, take them off, save and load them."""

from accuracy_booster.surgery.attach import ATTRIBUTE, attach, attached, detach
from accuracy_booster.surgery.boosting import added_parameters, boost, disabled, unboost
from accuracy_booster.surgery.fusing import FastPath, fast_path, fuse, unfuse
from accuracy_booster.surgery.planning import Plan, plan
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.storage import load, save

__all__ = [
    "ATTRIBUTE",
    "FastPath",
    "Plan",
    "Site",
    "added_parameters",
    "attach",
    "attached",
    "boost",
    "detach",
    "disabled",
    "fast_path",
    "fuse",
    "load",
    "plan",
    "save",
    "unboost",
    "unfuse",
]
