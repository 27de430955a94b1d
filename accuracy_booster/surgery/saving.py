"""`ab.save`: store only what boosting added to a network."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from accuracy_booster.files import check_folder
from accuracy_booster.surgery.attaching import attached
from accuracy_booster.surgery.fingerprints import base_tensors, combined, fingerprints, structure
from accuracy_booster.surgery.gate_records import gate_record
from accuracy_booster.surgery.repairing import refuse_lost_gates
from accuracy_booster.surgery.saved_files import as_path, prefix_of, write_save
from accuracy_booster.surgery.state import state_of
from accuracy_booster.surgery.wrappers import own_names, tensors, unwrapped
from accuracy_booster.version import __version__


def save(model: nn.Module, path: str | Path, *, full: bool = False) -> Path:
    """Write what boosting added to a directory: the gates, and changed running statistics.

    A save over an older one replaces it whole: interrupted at any instant, the one or the other
    loads.

    Args:
        model: a boosted network. Wrappers around it or its parts (torch.compile, DDP, moving
            averages) leave no trace in what is written.
        path: the directory, made if need be.
        full: store the whole network's tensors too. It is needed when the base itself was trained
            (a warning says so then).

    Returns:
        The directory.

    Raises:
        ValueError: if the model has no gates or is pruned, or there can be no directory, or it is
            that of a run.
        RuntimeError: if the module of a gate was removed.
        CannotWrite: if the directory cannot be written, or the disk is full.
    """
    folder = as_path(path)
    check_folder(folder)
    if (folder / "config.yaml").is_file() and (folder / "run.json").is_file():
        raise ValueError(
            f"{folder} holds a run, whose weights are in it already, and a second file of weights "
            f"would be mistaken for them; save to another directory, such as {folder / 'gates'}"
        )
    model = unwrapped(model)
    if state_of(model).pruning is not None:
        raise ValueError("the model is pruned, and no base has its shapes; use torch.save(model)")
    refuse_lost_gates(model)
    names = own_names(model)
    gates = {names[name]: gate for name, gate in attached(model).items()}
    if not gates:
        raise ValueError(f"{type(model).__name__} has no gates to save; boost it first")
    before = state_of(model).base_fingerprints or {}
    now = fingerprints(model)
    changed = {name for name, mark in now.items() if before.get(name) != mark}
    live = tensors(model, keep_vars=True)
    parameters = {name for name, tensor in live.items() if isinstance(tensor, nn.Parameter)}
    trained = sorted(changed & parameters)
    if trained and not full:
        warnings.warn(
            f"{len(trained)} parameters of the base network have changed since it was boosted "
            f"(such as {trained[0]!r}) and are not stored; save with full=True to keep them",
            stacklevel=2,
        )
    stored: dict[str, torch.Tensor] = {
        name: tensor
        for name, tensor in base_tensors(model).items()
        if full or name in changed - parameters
    }
    for name, gate in gates.items():
        stored |= {f"{prefix_of(name)}{key}": t for key, t in gate.state_dict().items()}
    info = {
        **gate_record(model),
        "base": {
            "class": type(model).__name__,
            "structure": structure(model),
            "fingerprint": combined(before or now),
            "trained": bool(trained),
        },
        "full": full,
        "versions": {"accuracy-booster": __version__, "torch": torch.__version__},
    }
    write_save(folder, info, stored)
    return folder
