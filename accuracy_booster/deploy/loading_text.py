"""The lines of Python that load a published network, and what to say before and after them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from accuracy_booster.deploy.markdown_text import code
from accuracy_booster.deploy.saved_form import Loader, SavedForm

HERE = "local-dir:DIRECTORY"  # what timm calls a directory that the reader names

_TRANSFORM = """\
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config)  # an image of PIL -> the input, C x H x W
probabilities = model(transform(image)[None]).softmax(1)"""
_TIMM = """\
import timm

model = timm.create_model({source}, pretrained=True).eval()
"""
_REGISTERED = """\
import accuracy_booster as ab
import timm

ab.integrations.timm.register()  # timm then knows {architecture}
model = timm.create_model({source}, pretrained=True).eval()
"""
_OWN_CODE = """\
import json
import accuracy_booster as ab
from safetensors.torch import load_file

model = ...  # the network of your own code, with {num_classes} outputs and without gates
{gates}model.load_state_dict(load_file("model.safetensors"))
model.eval()"""
_GATES = 'ab.rebuild_gates(model, json.load(open("config.json"))["accuracy_booster"])\n'
_TORCHVISION = """\
import torchvision
from safetensors.torch import load_file

model = torchvision.models.get_model({name}, num_classes={num_classes}, weights=None)
model.load_state_dict(load_file("model.safetensors"))
model.eval()"""


@dataclass(frozen=True)
class LoadingText:
    """How the card says that a network is loaded.

    Attributes:
        before, after: paragraphs.
        code: lines of Python.
    """

    before: str
    code: str
    after: str


def loading_text(form: SavedForm, repo_id: str | None = None) -> LoadingText:
    """How to load a network that is saved so.

    Args:
        repo_id: its name on the Hub; None for a directory.
    """
    source = json.dumps(f"hf-hub:{repo_id}" if repo_id else HERE)
    where = "" if repo_id else " DIRECTORY is the one of this file."
    images = "`image` is an image of PIL, in the mode of the network's channels."
    gated = "block" in form.config["model_args"]
    if form.loader is Loader.TIMM:
        return LoadingText(
            f"timm loads it (`pip install timm`), and nothing else is needed.{where}",
            _TIMM.format(source=source) + _TRANSFORM,
            f"{images} The weights fit other classes and channels too: `num_classes=...` makes a "
            "new head, as for every network of timm.",
        )
    if form.loader is Loader.OWN_CODE:
        record = "accuracy_booster" in form.config
        lines = _OWN_CODE.format(
            num_classes=form.config["num_classes"], gates=_GATES if record else ""
        )
        if not record:
            lines = lines.replace("import json\nimport accuracy_booster as ab\n", "")
            lines = lines.replace(" and without gates", "")
        return LoadingText(
            f"It is a network of the author's own code ({code(form.architecture)}), which is not "
            "in these files. Who has the code loads the weights so:",
            lines,
            "`config.json` says how its images are made."
            + " and holds the record of the gates." * record,
        )
    architecture = form.architecture
    needed = (
        "timm 1.0.31 or newer and accuracy-booster, whose blocks it has"
        if gated
        else ("timm 1.0.31 or newer and accuracy-booster, which has the network")
    )
    after = (
        f"{images} If timm says `Unknown model ({architecture})`, the line `register()` is missing."
    )
    if not gated and (name := _torchvision_name(form)):
        lines = _TORCHVISION.format(name=json.dumps(name), num_classes=form.config["num_classes"])
        after += (
            " The network is torchvision's as it is. So torchvision and safetensors alone load it "
            f"too:\n\n```python\n{lines}\n```"
        )
    return LoadingText(
        f"It needs {needed}.{where}",
        _REGISTERED.format(source=source, architecture=architecture) + _TRANSFORM,
        after,
    )


def _torchvision_name(form: SavedForm) -> str | None:
    library, _, name = form.config["model_args"]["network"].partition("/")
    return name if library == "torchvision" else None
