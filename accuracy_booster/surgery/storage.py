"""Save only what boosting added, and put it on a fresh copy of the base network.

DIR/booster.json          recipe, sites, the base's class, structure and fingerprint, versions
DIR/booster.safetensors   the gates, and the base's buffers that have changed (running
                          statistics); with full=True the whole network
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from accuracy_booster.blocks import Recipe
from accuracy_booster.surgery.attach import Model, attach, attached, detach
from accuracy_booster.surgery.attention import Replaced, put_back_attention, replace_attention
from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.wrappers import own_names, tensors, unwrapped

INFO, TENSORS = "booster.json", "booster.safetensors"
RECORD = "_accuracy_booster"  # on a boosted model: its base's fingerprints when it was boosted


def remember(model: nn.Module) -> None:
    """Note the base's tensors as they are now, so that `save` knows which have changed."""
    if RECORD not in model.__dict__:
        model.__dict__[RECORD] = _fingerprints(model)


def forget(model: nn.Module) -> None:
    model.__dict__.pop(RECORD, None)


def save(model: nn.Module, path: str | Path, *, full: bool = False) -> Path:
    """Write what boosting added to a directory: the gates, and changed running statistics.

    Args:
        model: a boosted network. Wrappers around it or its parts (torch.compile, DDP, moving
            averages) leave no trace in what is written.
        path: the directory, made if need be.
        full: store the whole network's tensors too: needed when the base itself was trained (a
            warning says so then).

    Raises:
        ValueError: if the model has no gates, or the directory cannot be written.
    """
    model = unwrapped(model)
    names = own_names(model)
    gates = {names[name]: gate for name, gate in attached(model).items()}
    if not gates:
        raise ValueError(f"{type(model).__name__} has no gates to save; boost it first")
    state = _base_state(model)
    before = model.__dict__.get(RECORD) or {}
    now = _fingerprints(model)
    changed = sorted(name for name, mark in now.items() if before.get(name) != mark)
    live = tensors(model, keep_vars=True)
    parameters = {name for name, tensor in live.items() if isinstance(tensor, nn.Parameter)}
    trained = [name for name in changed if name in parameters]
    if trained and not full:
        warnings.warn(
            f"{len(trained)} parameters of the base network have changed since it was boosted "
            f"(such as {trained[0]!r}) and are not stored; save with full=True to keep them",
            stacklevel=2,
        )
    keep = {n: state[n] for n in state if full or (n in changed and n not in parameters)}
    for name, gate in gates.items():
        keep |= {f"{_prefix(name)}{key}": t for key, t in gate.state_dict().items()}
    recipes = {str(gate.recipe) for gate in gates.values()}
    replaced = [names[name] for name, m in model.named_modules() if isinstance(m, Replaced)]
    info = {
        "recipes": {str(g.recipe): g.recipe.to_dict() for g in gates.values()},
        "sites": [
            {
                "name": name,
                "channels": gate.channels,
                "spatial_size": gate.spatial_size,
                "layout": gate.layout,
                "recipe": str(gate.recipe) if len(recipes) > 1 else next(iter(recipes)),
            }
            for name, gate in gates.items()
        ],
        "replaced": replaced,
        "base": {
            "class": type(model).__name__,
            "structure": _structure(model),
            "fingerprint": _combined(before or now),
            "trained": bool(trained),
        },
        "full": full,
        "versions": _versions(),
    }
    from safetensors.torch import save_file

    path = _as_path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        stored = {name: t.detach().cpu().contiguous().clone() for name, t in keep.items()}
        partial = path / f"{TENSORS}.partial"
        save_file(stored, partial)
        (path / INFO).write_text(json.dumps(info, indent=1) + "\n")
        partial.replace(path / TENSORS)
    except OSError as e:
        raise ValueError(f"cannot write to {path}: {e.strerror or e}") from e
    return path


def load(model: Model, path: str | Path) -> Model:
    """Put saved gates on a fresh copy of the base network, in place; returns the model.

    Other weights in the base than those it was boosted with are a warning.

    Raises:
        ValueError: if nothing is saved there, it is damaged, or the network has another structure.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _as_path(path)
    whole, model = model, unwrapped(model)  # type: ignore[assignment]
    try:
        info = json.loads((path / INFO).read_text())
        stored = load_file(path / TENSORS, device="cpu")
        sites = [_site(entry) for entry in info["sites"]]
        recipes = {text: Recipe.from_dict(data) for text, data in info["recipes"].items()}
        base = {key: info["base"][key] for key in ("class", "structure", "fingerprint", "trained")}
        replaced, full = set(info["replaced"]), bool(info["full"])
    except FileNotFoundError as e:
        missing = next((n for n in (INFO, TENSORS) if not (path / n).exists()), e)
        raise ValueError(f"{path} holds no saved gates: no {missing}") from None
    except (SafetensorError, OSError, LookupError, AttributeError, TypeError, ValueError) as e:
        raise ValueError(f"the gates saved in {path} cannot be read: {e!r}") from e
    if attached(model):
        raise ValueError(
            "the model has gates already; load on a fresh base, or ab.unboost it first"
        )
    if _structure(model) != base["structure"]:
        raise ValueError(
            f"the gates in {path} are for a {base['class']} of another structure than this "
            f"{type(model).__name__}: the names or shapes of its tensors differ"
        )
    marks = _fingerprints(model)
    if not full and _combined(marks) != base["fingerprint"]:
        warnings.warn(
            "the base network has other weights than the one that these gates were made for",
            stacklevel=2,
        )
    elif base["trained"] and not full:
        warnings.warn(
            "the base network was trained too, and its new weights were not saved (full=True)",
            stacklevel=2,
        )
    remember(model)
    try:
        replace_attention(model, [site for site, _ in sites if site.name in replaced])
        for text, recipe in recipes.items():
            attach(model, recipe, [site for site, used in sites if used == text])
        # not load_state_dict: some networks want metadata that no file has
        state = tensors(model, keep_vars=True)
        names, own = own_names(model), set[str]()
        for name, gate in attached(model).items():
            held = gate.state_dict(keep_vars=True)
            own |= {f"{_prefix(names[name])}{key}" for key in held}
            state |= {f"{_prefix(names[name])}{key}": t for key, t in held.items()}
        kinds = {n: (t.shape, t.is_floating_point()) for n, t in state.items()}
        wrong = [n for n, t in stored.items() if kinds.get(n) != (t.shape, t.is_floating_point())]
        wrong += sorted(own - set(stored))
        if wrong:
            raise ValueError(
                f"{len(wrong)} tensors are missing or do not fit, such as {wrong[0]!r}"
            )
    except (ValueError, AttributeError) as e:
        detach(model)
        put_back_attention(model)
        forget(model)
        raise ValueError(f"the gates saved in {path} do not fit: {e}") from e
    with torch.no_grad():
        for name, tensor in stored.items():
            state[name].copy_(tensor)
    return whole


def _prefix(site: str) -> str:
    """What the names of a gate's tensors start with in a file, wherever the gate is held."""
    return f"{site}.{ATTRIBUTE}." if site else f"{ATTRIBUTE}."


def _as_path(path: str | Path) -> Path:
    if not isinstance(path, (str, Path)):
        raise ValueError(f"expected a directory's path, got {type(path).__name__}")
    return Path(path)


def _site(entry: dict[str, Any]) -> tuple[Site, str]:
    size = tuple(int(side) for side in entry["spatial_size"])
    return Site(str(entry["name"]), entry["channels"], size, entry["layout"]), entry["recipe"]


def _is_gates(name: str) -> bool:
    return f".{ATTRIBUTE}." in f".{name}"


def _fingerprints(model: nn.Module) -> dict[str, str]:
    """A short mark of each tensor of the base: it tells change, not tampering."""
    marks = {}
    for name, tensor in _base_state(model).items():
        if tensor.is_meta:
            marks[name] = "meta"
            continue
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        words = data[: data.size // 8 * 8].view(np.uint64)
        tail = data[words.size * 8 :].tobytes().hex()
        # a sum and an exclusive or of 64-bit words: several gigabytes a second
        total, parity = int(words.sum(dtype=np.uint64)), int(np.bitwise_xor.reduce(words))
        marks[name] = f"{total:x}-{parity:x}-{tail}"
    return marks


def _base_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The base's tensors, those of replaced attention modules included."""
    state = {n: t for n, t in tensors(model).items() if not _is_gates(n)}
    names = own_names(model)
    for name, module in model.named_modules():
        if isinstance(module, Replaced):
            original = tensors(module.__dict__["original"])
            state |= {f"{names[name]}.{key}": tensor for key, tensor in original.items()}
    return state


def _structure(model: nn.Module) -> str:
    shapes = sorted((name, list(t.shape)) for name, t in _base_state(model).items())
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()


def _combined(marks: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(marks.items())).encode()).hexdigest()


def _versions() -> dict[str, str]:
    from accuracy_booster import __version__

    return {"accuracy-booster": __version__, "torch": torch.__version__}
