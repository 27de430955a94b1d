"""Find where gates go in any network, attach them, take them off, save and load them."""

from accuracy_booster.surgery.attach import attach, attached, detach, disabled, repair
from accuracy_booster.surgery.boosting import added_parameters, boost, freeze_norms, unboost
from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.materializing import materialize
from accuracy_booster.surgery.planning import Plan, plan
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.storage import load, save

__all__ = [
    "ATTRIBUTE",
    "Plan",
    "Site",
    "added_parameters",
    "attach",
    "attached",
    "boost",
    "detach",
    "disabled",
    "freeze_norms",
    "load",
    "materialize",
    "plan",
    "repair",
    "save",
    "unboost",
]
