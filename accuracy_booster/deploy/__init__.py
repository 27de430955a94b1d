"""From a run to what production runs: exported files, and directories that other libraries load."""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# {public name: the file that defines it}
_PUBLIC = {"Exported": "exporting", "export": "exporting"}

__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from accuracy_booster.deploy.exporting import Exported as Exported
    from accuracy_booster.deploy.exporting import export as export

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC)
