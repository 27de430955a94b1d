"""Object detection: Faster R-CNN with any network, boosted or not, as its backbone."""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# public name: the module that defines it
_PUBLIC: dict[str, str] = {
    "DetectionBatch": "batches",
    "DetectionData": "loaders",
    "load_coco": "loaders",
}

__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from accuracy_booster.detection.batches import DetectionBatch as DetectionBatch
    from accuracy_booster.detection.loaders import DetectionData as DetectionData
    from accuracy_booster.detection.loaders import load_coco as load_coco

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC)
