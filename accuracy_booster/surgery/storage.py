"""Save only what boosting added, and put it on a fresh copy of the base network.

DIR/booster.json          recipe, sites, the base's class, structure and fingerprint, versions, and
                          the hash of the tensors
DIR/booster.safetensors   the gates, and the base's buffers that have changed (running
                          statistics); with full=True the whole network; and what booster.json
                          says, so that a save is whole even if it was interrupted between the two
"""

from __future__ import annotations

import hashlib
import json
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate, Recipe
from accuracy_booster.files import check_folder, pack, read_json, unpack, write, write_json
from accuracy_booster.surgery.attach import Model, attach, attached, detach
from accuracy_booster.surgery.attention import Replaced, put_back_attention, replace_attention
from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.state import state_of, update_state
from accuracy_booster.surgery.wrappers import own_names, tensors, unwrapped

INFO, TENSORS = "booster.json", "booster.safetensors"
ORDERED = "crc32:"  # what fingerprints start with that depend on the order of filters


def remember(model: nn.Module) -> None:
    """Note the base's tensors as they are now, so that `save` knows which have changed."""
    if state_of(model).base_fingerprints is None:
        update_state(model, base_fingerprints=_fingerprints(model))


def forget(model: nn.Module) -> None:
    update_state(model, base_fingerprints=None)


def save(model: nn.Module, path: str | Path, *, full: bool = False) -> Path:
    """Write what boosting added to a directory: the gates, and changed running statistics.

    Args:
        model: a boosted network. Wrappers around it or its parts (torch.compile, DDP, moving
            averages) leave no trace in what is written.
        path: the directory, made if need be.
        full: store the whole network's tensors too: needed when the base itself was trained (a
            warning says so then).

    A save over an older one replaces it whole: interrupted at any instant, the one or the other
    loads.

    Raises:
        ValueError: if the model has no gates, or there can be no directory.
        CannotWrite: if the directory cannot be written, or the disk is full.
    """
    model = unwrapped(model)
    if state_of(model).pruning is not None:
        raise ValueError("the model is pruned, and no base has its shapes; use torch.save(model)")
    names = own_names(model)
    gates = {names[name]: gate for name, gate in attached(model).items()}
    if not gates:
        raise ValueError(f"{type(model).__name__} has no gates to save; boost it first")
    state = _base_state(model)
    before = state_of(model).base_fingerprints or {}
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
    path = _as_path(path)
    check_folder(path)
    content, digest = pack(keep, info)
    write(path / TENSORS, content)
    write_json(path / INFO, {**info, "tensors": digest})
    return path


def load(model: Model, path: str | Path) -> Model:
    """Put saved gates on a fresh copy of the base network, in place; returns the model.

    Other weights in the base than those it was boosted with are a warning.

    Raises:
        ValueError: if nothing is saved there, it is damaged, or the network has another structure.
    """
    path = _as_path(path)
    whole, model = model, unwrapped(model)  # type: ignore[assignment]
    try:
        info, stored = read_save(path)
        sites = [_site(entry) for entry in info["sites"]]
        recipes = {text: Recipe.from_dict(data) for text, data in info["recipes"].items()}
        _check_gates(sites, recipes, stored)
        base = {key: info["base"][key] for key in ("class", "structure", "fingerprint", "trained")}
        replaced, full = set(info["replaced"]), bool(info["full"])
    except FileNotFoundError as e:
        missing = next((n for n in (INFO, TENSORS) if not (path / n).exists()), e)
        raise ValueError(f"{path} holds no saved gates: no {missing}") from None
    except (OSError, LookupError, AttributeError, TypeError, ValueError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        raise ValueError(f"the gates saved in {path} cannot be read: {reason}") from e
    if attached(model):
        raise ValueError(
            "the model has gates already; load on a fresh base, or ab.unboost it first"
        )
    if _structure(model) != base["structure"]:
        raise ValueError(
            f"the gates in {path} are for a {base['class']} of another structure than this "
            f"{type(model).__name__}: the names or shapes of its tensors differ"
        )
    if not full and not _is_same_base(model, str(base["fingerprint"])):
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


def read_save(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a save says, and its tensors.

    The tensors are written first. If the save was interrupted then, booster.json is that of the
    save before, and what the tensors' file says itself holds.
    """
    info, packed = read_json(path / INFO), unpack(path / TENSORS)
    if "sites" not in info:
        raise ValueError(f"{INFO} is damaged: it names no sites")
    if packed.sha256 is None and "tensors" in info:
        raise ValueError(f"{TENSORS} is not the file that {INFO} was written for")
    same = packed.sha256 is None or info.get("tensors") == packed.sha256
    return (info if same else packed.values), packed.tensors


def _check_gates(
    sites: Sequence[tuple[Site, str]],
    recipes: Mapping[str, Recipe],
    stored: Mapping[str, torch.Tensor],
) -> None:
    """Raise ValueError unless the tensors are those of such gates, before any is made."""
    for site, text in sites:
        if type(site.channels) is not int or site.channels < 1:
            raise ValueError(f"site {site.name!r} has channels={site.channels!r}")
        with torch.device("meta"):  # which takes no memory
            gate = Recalibrate(site.channels, recipes[text], spatial_size=site.spatial_size)
        for name, tensor in gate.state_dict().items():
            found = stored.get(f"{_prefix(site.name)}{name}")
            if found is None or found.shape != tensor.shape:
                have = "is missing" if found is None else f"has shape {list(found.shape)}"
                raise ValueError(
                    f"{_prefix(site.name)}{name} {have}, and a gate of {site.channels} channels "
                    f"has {list(tensor.shape)}"
                )


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
    return {name: "meta" if t.is_meta else _mark(t) for name, t in _base_state(model).items()}


def _bytes_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _mark(tensor: torch.Tensor) -> str:
    return f"{zlib.crc32(_bytes_of(tensor).data):08x}" if tensor.numel() else ""


def _former_mark(tensor: torch.Tensor) -> str:
    """The mark of versions before 0.3, which did not depend on the order of filters."""
    data = _bytes_of(tensor)
    words = data[: data.size // 8 * 8].view(np.uint64)
    tail = data[words.size * 8 :].tobytes().hex()
    total, parity = int(words.sum(dtype=np.uint64)), int(np.bitwise_xor.reduce(words))
    return f"{total:x}-{parity:x}-{tail}"


def _is_same_base(model: nn.Module, fingerprint: str) -> bool:
    """Whether the base has the weights whose fingerprint is stored."""
    if fingerprint.startswith(ORDERED):
        return _combined(_fingerprints(model)) == fingerprint
    state = _base_state(model).items()
    former = {name: "meta" if t.is_meta else _former_mark(t) for name, t in state}
    return _combined(former).removeprefix(ORDERED) == fingerprint


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
    """One fingerprint of all marks."""
    return ORDERED + hashlib.sha256(json.dumps(sorted(marks.items())).encode()).hexdigest()


def _versions() -> dict[str, str]:
    from accuracy_booster.version import __version__

    return {"accuracy-booster": __version__, "torch": torch.__version__}
