"""`summary`: a table of what of a detector is trained, and how its norms work."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from accuracy_booster.detection.freezing import Part, norm_holders
from accuracy_booster.detection.norms import batch_norms, gates_norms
from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.listing import attached


def summary(model: nn.Module) -> list[str]:
    """What of a detector is trained: a header, a line for each part, and a line for the whole.

    The columns are the trainable and the frozen parameters, how many of each are the gates', and
    how the norms of the base network and of the gates work ("frozen", "synchronised" or "normal",
    see `norms.py`).
    """
    title = _titles(model)
    counts = _counts(model, title)
    modes = _modes(model, title)
    table = [["part", "trainable", "frozen", "gates", "gates frozen", "norms", "gates' norms"]]
    for name, row in counts.items():
        words = [", ".join(sorted(found)) or "-" for found in modes.get(name, ((), ()))]
        table.append([name, *(f"{count:,}" for count in row), *words])
    total = [sum(row[k] for row in counts.values()) for k in range(4)]
    table.append(["all", *(f"{count:,}" for count in total), "", ""])
    return _aligned(table)


def _titles(model: nn.Module) -> Callable[[str], str]:
    """A function that gives the part of the detector that a tensor belongs to, by its name."""
    parts: tuple[Part, ...] = getattr(model, "parts", ())
    owner = {tensor: part.name for part in parts for tensor in part.tensors}
    modules = {tensor.rpartition(".")[0]: part for tensor, part in owner.items()}
    others = {"backbone.fpn.": "FPN", "rpn.": "RPN", "roi_heads.": "box head"}

    def title(name: str) -> str:
        site = name.partition(f".{ATTRIBUTE}.")[0]  # gates may have been attached later
        part = owner.get(name) or modules.get(site)
        return part or next((t for start, t in others.items() if name.startswith(start)), "other")

    return title


def _counts(model: nn.Module, title: Callable[[str], str]) -> dict[str, list[int]]:
    """Parameters of each part: trainable, frozen, trainable of gates, frozen of gates."""
    parts: tuple[Part, ...] = getattr(model, "parts", ())
    rows: dict[str, list[int]] = {part.name: [0] * 4 for part in parts}
    of_gates = {id(p) for gate in attached(model).values() for p in gate.parameters()}
    for name, parameter in model.named_parameters():
        row = rows.setdefault(title(name), [0] * 4)
        frozen = not parameter.requires_grad
        row[frozen] += parameter.numel()
        row[2 + frozen] += parameter.numel() * (id(parameter) in of_gates)
    return rows


def _modes(model: nn.Module, title: Callable[[str], str]) -> dict[str, tuple[set[str], set[str]]]:
    """How the norms of each part work: those of the base network, and those of gates."""
    modes: dict[str, tuple[set[str], set[str]]] = {}
    for prefix, holder in norm_holders(model):
        inside = gates_norms(holder)
        for name in batch_norms(holder):
            word = "synchronised" if holder.synchronised else "normal"
            word = "frozen" if holder.all_frozen or name in holder.frozen_norms else word
            found = modes.setdefault(title(f"{prefix}.{name}.running_mean"), (set(), set()))
            found[name in inside].add(word)
    return modes


def _aligned(table: list[list[str]]) -> list[str]:
    """The rows as lines: numbers to the right, words to the left."""
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    lines = []
    for cells in table:
        numbers = [cell.rjust(w) for cell, w in zip(cells[1:5], widths[1:5], strict=True)]
        words = [cell.ljust(w) for cell, w in zip(cells[5:], widths[5:], strict=True)]
        lines.append("  ".join([cells[0].ljust(widths[0]), *numbers, *words]).rstrip())
    return lines
