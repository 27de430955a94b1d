"""`ab.load`: put saved gates on a fresh copy of the base network."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from accuracy_booster.surgery.fingerprints import is_same_base, remember_base, structure
from accuracy_booster.surgery.gate_records import Record, empty_gate, parse_record
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.rebuilding import put_on, take_off
from accuracy_booster.surgery.repairing import Model
from accuracy_booster.surgery.saved_files import INFO, TENSORS, as_path, prefix_of, read_save
from accuracy_booster.surgery.state import update_state
from accuracy_booster.surgery.wrappers import own_names, tensors, unwrapped


@dataclass(frozen=True)
class _Saved:
    """A save whose parts have been checked: types, sites, and the shapes of the gates' tensors."""

    gates: Record
    tensors: dict[str, torch.Tensor]
    base_class: str
    base_structure: str
    base_fingerprint: str
    base_trained: bool
    full: bool


def load(model: Model, path: str | Path) -> Model:
    """Put saved gates on a fresh copy of the base network, in place; returns the model.

    Other weights in the base than those it was boosted with are a warning.

    Args:
        model: the base network, without gates; it may be wrapped.
        path: the directory that `ab.save` wrote.

    Raises:
        ValueError: if nothing is saved there, it is damaged, or the network has another structure.
            The network is then as it was.
    """
    folder = as_path(path)
    network = unwrapped(model)
    saved = _read(folder)
    if attached(network):
        raise ValueError(
            "the model has gates already; load on a fresh base, or ab.unboost it first"
        )
    if structure(network) != saved.base_structure:
        raise ValueError(
            f"the gates in {folder} are for a {saved.base_class} of another structure than this "
            f"{type(network).__name__}: the names or shapes of its tensors differ"
        )
    if not saved.full and not is_same_base(network, saved.base_fingerprint):
        warnings.warn(
            "the base network has other weights than the one that these gates were made for",
            stacklevel=2,
        )
    elif saved.base_trained and not saved.full:
        warnings.warn(
            "the base network was trained too, and its new weights were not saved (full=True)",
            stacklevel=2,
        )
    remember_base(network)
    try:
        put_on(network, saved.gates)
        targets = _targets(network, saved.tensors)
    except (ValueError, AttributeError) as e:
        take_off(network)
        update_state(network, base_fingerprints=None)
        raise ValueError(f"the gates saved in {folder} do not fit: {e}") from e
    with torch.no_grad():
        for name, tensor in saved.tensors.items():
            targets[name].copy_(tensor)
    return model


def _targets(network: nn.Module, stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """{name in a save: the tensor of the boosted network to copy into}.

    `load_state_dict` is not used, because some networks want metadata there that no file has.

    Raises:
        ValueError: if a stored tensor does not fit, or one of a gate is missing.
    """
    found = tensors(network, keep_vars=True)
    names, of_gates = own_names(network), set[str]()
    for name, gate in attached(network).items():
        held = gate.state_dict(keep_vars=True)
        of_gates |= {f"{prefix_of(names[name])}{key}" for key in held}
        found |= {f"{prefix_of(names[name])}{key}": t for key, t in held.items()}
    kinds = {n: (t.shape, t.is_floating_point()) for n, t in found.items()}
    wrong = [n for n, t in stored.items() if kinds.get(n) != (t.shape, t.is_floating_point())]
    wrong += sorted(of_gates - set(stored))
    if wrong:
        raise ValueError(f"{len(wrong)} tensors are missing or do not fit, such as {wrong[0]!r}")
    return found


def _read(folder: Path) -> _Saved:
    """Read and check a save.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    try:
        info, stored = read_save(folder)
        base = info["base"]
        saved = _Saved(
            gates=parse_record(info),
            tensors=stored,
            base_class=base["class"],
            base_structure=base["structure"],
            base_fingerprint=str(base["fingerprint"]),
            base_trained=base["trained"],
            full=bool(info["full"]),
        )
        _check_tensors(saved.gates, stored)
    except FileNotFoundError as e:
        missing = next((n for n in (INFO, TENSORS) if not (folder / n).exists()), e)
        raise ValueError(f"{folder} holds no saved gates: no {missing}") from None
    except (OSError, LookupError, AttributeError, TypeError, ValueError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        raise ValueError(f"the gates saved in {folder} cannot be read: {reason}") from e
    return saved


def _check_tensors(record: Record, stored: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError unless the tensors are those of such gates, before any gate is made."""
    for site, text in record.sites:
        for name, tensor in empty_gate(site, record.recipes[text]).state_dict().items():
            found = stored.get(f"{prefix_of(site.name)}{name}")
            if found is None or found.shape != tensor.shape:
                have = "is missing" if found is None else f"has shape {list(found.shape)}"
                raise ValueError(
                    f"{prefix_of(site.name)}{name} {have}, and a gate of {site.channels} channels "
                    f"has {list(tensor.shape)}"
                )
