"""Object detection: Faster R-CNN with any network, boosted or not, as its backbone."""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# public name: the module that defines it
_PUBLIC: dict[str, str] = {
    "Detector": "faster_rcnn",
    "estimate_gate_norms": "norms",
    "faster_rcnn": "faster_rcnn",
    "summary": "freezing",
}

__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from accuracy_booster.detection.faster_rcnn import Detector as Detector
    from accuracy_booster.detection.faster_rcnn import faster_rcnn as faster_rcnn
    from accuracy_booster.detection.freezing import summary as summary
    from accuracy_booster.detection.norms import estimate_gate_norms as estimate_gate_norms

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC)
