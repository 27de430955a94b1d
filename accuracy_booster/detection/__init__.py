"""Object detection: Faster R-CNN with any network, boosted or not, as its backbone."""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# public name: the module that defines it
_PUBLIC: dict[str, str] = {}

__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    pass

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC)
