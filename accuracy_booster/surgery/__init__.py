"""Find where gates go in any network, attach them, take them off, save and load them."""

from accuracy_booster.surgery.attaching import attach, detach, disabled
from accuracy_booster.surgery.boosting import added_parameters, boost, freeze_norms, unboost
from accuracy_booster.surgery.configured_gates import build_configured_gates
from accuracy_booster.surgery.gate_records import gate_record
from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.gating import follow_rebuilt_modules
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.loading import load
from accuracy_booster.surgery.materializing import materialize
from accuracy_booster.surgery.planning import plan
from accuracy_booster.surgery.plans import Plan
from accuracy_booster.surgery.rebuilding import rebuild_gates
from accuracy_booster.surgery.repairing import repair
from accuracy_booster.surgery.saving import save
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.ultralytics_networks import wrap_ultralytics

__all__ = [
    "ATTRIBUTE",
    "Plan",
    "Site",
    "added_parameters",
    "attach",
    "attached",
    "boost",
    "build_configured_gates",
    "detach",
    "disabled",
    "follow_rebuilt_modules",
    "freeze_norms",
    "gate_record",
    "load",
    "materialize",
    "plan",
    "rebuild_gates",
    "repair",
    "save",
    "unboost",
    "wrap_ultralytics",
]
