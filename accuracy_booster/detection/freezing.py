"""Which stages of a detector's backbone are trained, what happens to their gates, and a summary.

torchvision freezes a backbone by the names of its layers, and a gate is a child of the norm that it
follows: freezing `layer1` by its name freezes the gates in it, and whoever freezes norms one by one
does so everywhere. Here it is one decision with a name, `gates_of_frozen_layers`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from accuracy_booster.detection.norms import HoldsNorms, batch_norms, gates_norms
from accuracy_booster.surgery.attaching import attached
from accuracy_booster.surgery.gated import ATTRIBUTE

LAYERS = 5  # torchvision's: four stages and the stem


@dataclass(frozen=True)
class Part:
    """The stem or a stage of a backbone inside a detector.

    Attributes:
        name: "stem", or the name of the module whose output is the stage's map.
        tensors: its parameters and buffers, as the detector's state dict names them.
        trained: False if it is frozen.
    """

    name: str
    tensors: frozenset[str]
    trained: bool


def trained_parts(count: int, trainable_layers: int) -> list[bool]:
    """For the stem and the stages after it, whether each is trained.

    torchvision's meaning: 0 trains nothing, k the last k stages, 5 everything. The stem comes after
    the first stage: for a ResNet (four stages) 4 trains all but the stem.

    Raises:
        ValueError: for another number.
    """
    if type(trainable_layers) is not int or not 0 <= trainable_layers <= LAYERS:
        raise ValueError(
            f"trainable_layers={trainable_layers!r} must be 0 (the whole backbone is frozen) to 5 "
            "(all of it is trained)"
        )
    if trainable_layers == LAYERS:
        return [True] * count
    return [place >= count - trainable_layers for place in range(count)]


def freeze(model: nn.Module, parts: tuple[Part, ...], *, gates: str, norms: str) -> None:
    """Freeze the parts that are not trained, and norms as asked, in place.

    Args:
        parts: of the backbone.
        gates: of frozen parts: "frozen" (parameters and statistics) or "trained".
        norms: "frozen", "synchronised" or "normal"; see `norms.py`. The base's norms in frozen
            parts are frozen in any case.
    """
    of_gates = {id(p) for gate in attached(model).values() for p in gate.parameters()}
    frozen = {name for part in parts if not part.trained for name in part.tensors}
    for name, parameter in model.named_parameters():
        if name in frozen and not (gates == "trained" and id(parameter) in of_gates):
            parameter.requires_grad_(False)
    dead: list[str] = []
    for prefix, holder in _holders(model):
        inside, held = gates_norms(holder), []
        for name, norm in batch_norms(holder).items():
            of_gate, in_frozen = name in inside, f"{prefix}.{name}.running_mean" in frozen
            if norms == "frozen" or (in_frozen and not (of_gate and gates == "trained")):
                held.append(name)
                if not of_gate:
                    for parameter in norm.parameters(recurse=False):
                        parameter.requires_grad_(False)
                    if isinstance(norm.weight, nn.Parameter) and not norm.weight.any():
                        dead.append(name)
        holder.frozen_norms = tuple(held)
        holder.all_frozen, holder.synchronised = norms == "frozen", norms == "synchronised"
        holder.hold_norms()
    if dead:
        warnings.warn(
            f"{len(dead)} norms of the backbone (such as {dead[0]!r}) have weight zero and are "
            "frozen so: nothing comes through them, ever; take trained weights, norms='normal', or "
            "timm's zero_init_last=False",
            stacklevel=3,
        )


def _holders(model: nn.Module) -> Iterator[tuple[str, HoldsNorms]]:
    for name, module in model.named_modules():
        if isinstance(module, HoldsNorms):
            yield name, module


def summary(model: nn.Module) -> list[str]:
    """What of a detector is trained: a line for each part, with columns, and one for the whole.

    Columns: trainable and frozen parameters; how many of each are the gates'; how the norms of the
    base and of the gates work ("frozen": on their running statistics).
    """
    parts: tuple[Part, ...] = getattr(model, "parts", ())
    owner = {tensor: part.name for part in parts for tensor in part.tensors}
    around = {tensor.rpartition(".")[0]: part for tensor, part in owner.items()}
    titles = {"backbone.fpn.": "FPN", "rpn.": "RPN", "roi_heads.": "box head"}
    rows: dict[str, list[int]] = {part.name: [0] * 4 for part in parts}
    of_gates = {id(p) for gate in attached(model).values() for p in gate.parameters()}

    def title(name: str) -> str:
        site = name.partition(f".{ATTRIBUTE}.")[0]  # of gates that were attached later
        part = owner.get(name) or around.get(site)
        return part or next((t for start, t in titles.items() if name.startswith(start)), "other")

    for name, parameter in model.named_parameters():
        row = rows.setdefault(title(name), [0] * 4)
        frozen = not parameter.requires_grad
        row[frozen] += parameter.numel()
        row[2 + frozen] += parameter.numel() * (id(parameter) in of_gates)
    modes: dict[str, tuple[set[str], set[str]]] = {}
    for prefix, holder in _holders(model):
        inside = gates_norms(holder)
        for name in batch_norms(holder):
            word = "synchronised" if holder.synchronised else "normal"
            word = "frozen" if holder.all_frozen or name in holder.frozen_norms else word
            found = modes.setdefault(title(f"{prefix}.{name}.running_mean"), (set(), set()))
            found[name in inside].add(word)
    table = [["part", "trainable", "frozen", "gates", "gates frozen", "norms", "gates' norms"]]
    total = [sum(row[k] for row in rows.values()) for k in range(4)]
    for name, row in (*rows.items(), ("all", total)):
        words = [", ".join(sorted(found)) for found in modes.get(name, ((), ()))]
        table.append([name, *(f"{count:,}" for count in row), *(word or "-" for word in words)])
    if table[-1][0] == "all":
        table[-1][-2:] = "", ""
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    lines = []
    for cells in table:
        numbers = [cell.rjust(w) for cell, w in zip(cells[1:5], widths[1:5], strict=True)]
        words = [cell.ljust(w) for cell, w in zip(cells[5:], widths[5:], strict=True)]
        lines.append("  ".join([cells[0].ljust(widths[0]), *numbers, *words]).rstrip())
    return lines
