"""From a run to what production runs: exported files, and directories that other libraries load."""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# {public name: the file that defines it}
_PUBLIC = {
    "Exported": "exporting",
    "Published": "publishing",
    "export": "exporting",
    "push_to_hub": "pushing",
    "save_pretrained": "publishing",
}

__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from accuracy_booster.deploy.exporting import Exported as Exported
    from accuracy_booster.deploy.exporting import export as export
    from accuracy_booster.deploy.publishing import Published as Published
    from accuracy_booster.deploy.publishing import save_pretrained as save_pretrained
    from accuracy_booster.deploy.pushing import push_to_hub as push_to_hub

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC)
