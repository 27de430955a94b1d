"""Start a network from a file of weights, whatever wrapped the network that it was saved from."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accuracy_booster.errors import SHOWN, is_out_of_memory, shortened, shown
from accuracy_booster.files import unpack
from accuracy_booster.models.heads import heads

NESTED = (
    *("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "ema"),
    "network",
)
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "network.", "net.", "encoder.")
# names that torch.compile, FSDP and activation checkpointing put anywhere in a name
WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
GATES = ".recalibrate."
SAVED, GATES_FILE = "model.safetensors", "booster.safetensors"  # of a run, and of `ab.save`
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Loaded:
    """What came of loading a file.

    Attributes:
        tensors: how many of the network's tensors are from the file.
        new: names that keep their fresh values: heads for other classes, gates.
        unused: how many of the file's tensors belong to something around the network.
    """

    tensors: int
    new: list[str]
    unused: int = 0


def read_weights(path: str | Path) -> Tensors:
    """The tensors of a file, a finished run's directory, or a directory of `ab.save(full=True)`.

    A file is a .safetensors file or one of `torch.save`. It is read with `weights_only=True`, so
    no code in it runs.

    Raises:
        ValueError: for a file that is not there, is damaged, or holds no tensors by name.
    """
    path = _file(Path(path).expanduser())
    try:
        if path.suffix == ".safetensors":
            return unpack(path).tensors
        with _plain_values():
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        if (other := re.search(r"GLOBAL ([\w.]+)", str(e))) is None:
            raise ValueError(
                f"weights={str(path)!r} cannot be read: it is no file of torch.save"
            ) from None
        raise ValueError(
            f"weights={str(path)!r} holds more than tensors ({shortened(other[1], SHOWN)}), and "
            "reading that could run code; save model.state_dict() instead"
        ) from None
    except Exception as e:
        if is_out_of_memory(e):
            raise
        reason = " ".join(str(e).split())[:200] or "it is empty or cut off"
        raise ValueError(f"weights={str(path)!r} cannot be read: {reason}") from e
    for _ in range(len(NESTED)):  # a damaged file may hold itself
        if not isinstance(found, Mapping):
            break
        inner = next((found[n] for n in NESTED if isinstance(found.get(n), Mapping)), None)
        if inner is None:
            break
        found = inner
    tensors = {
        str(name): value
        for name, value in (found.items() if isinstance(found, Mapping) else ())
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise ValueError(
            f"weights={str(path)!r} holds no tensors by name, but {type(found).__name__}; save "
            "model.state_dict()"
        )
    return tensors


def _file(path: Path) -> Path:
    """The file that a path means."""
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"weights={str(path)!r}: there is no such file")
        return path
    for name in (SAVED, GATES_FILE):
        if (path / name).is_file():
            return path / name
    begun = (path / "config.yaml").is_file()
    why = "the run there has not ended" if begun else f"the directory holds no {SAVED}"
    raise ValueError(f"weights={str(path)!r}: {why}; give a finished run, or a file of weights")


@contextmanager
def _plain_values() -> Iterator[None]:
    """Let checkpoints hold argparse's options and NumPy's numbers, as many do: they are data."""
    import numpy as np

    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    with torch.serialization.safe_globals([argparse.Namespace, np.dtype, *kinds, *names]):
        yield


def load_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> Loaded:
    """Put tensors of a file into a network, in place, as `match_weights` matches them.

    Raises:
        ValueError: where they do not fit.
    """
    fitting, loaded = match_weights(model, tensors, source)
    own = model.state_dict()
    with torch.no_grad():
        for name, value in fitting.items():
            own[name].copy_(value)
    return loaded


def match_weights(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], source: str
) -> tuple[Tensors, Loaded]:
    """The tensors of a file by the names that a network has for them, and what comes of it.

    Prefixes of wrappers (`module.`, `_orig_mod.`, `model.`, `backbone.`, ...) are taken off. A
    head for another number of classes, and gates where the file has none, keep their fresh values.

    Raises:
        ValueError: where other tensors are missing, left over, or of another shape.
    """
    own = {n: t for n, t in model.state_dict().items() if isinstance(t, torch.Tensor)}
    plain = {WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    given = _without_prefixes(plain, set(own))
    unused = len(plain) - len(given)
    outer = {f"{name}.{part}" for name in heads(model) for part in ("weight", "bias")} & set(own)
    given = _with_head(given, own, outer)
    other = [n for n in given if n in own and given[n].shape != own[n].shape]
    new = [name for name in other if name in outer]
    if wrong := [name for name in other if name not in outer]:
        raise ValueError(
            f"weights={source!r}: {len(wrong)} tensors have other shapes, such as "
            f"{shown(wrong[0])}: {list(given[wrong[0]].shape)} in the file, "
            f"{list(own[wrong[0]].shape)} in the network; give the model that they are of"
        )
    missing = [name for name in own if name not in given and _counts(name)]
    left = [name for name in given if name not in own and _counts(name)]
    if gates := [name for name in left if GATES in f".{name}"]:
        raise ValueError(
            f"weights={source!r} holds gates, such as {shown(gates[0])}, which the network has "
            "not; give the block that they are of"
        )
    has_gates = any(GATES in f".{name}" for name in given)
    new += [n for n in missing if n in outer or (GATES in f".{n}" and not has_gates)]
    missing = [name for name in missing if name not in new]
    if missing or left:
        problems = [
            f"{len(names)} {what} (such as {shown(names[0])})"
            for what, names in (("are missing", missing), ("fit nothing", left))
            if names
        ]
        raise ValueError(
            f"weights={source!r} do not fit the network: of the tensors {', '.join(problems)}; "
            "give the model and the block that they are of"
        )
    fitting = {name: value for name, value in given.items() if name in own and name not in new}
    return fitting, Loaded(len(fitting), new, unused)


def _counts(name: str) -> bool:
    """Whether a missing tensor matters: counters do not, and old files lack them."""
    return not name.endswith(("num_batches_tracked", "n_averaged", "total_ops", "total_params"))


def _without_prefixes(given: Tensors, own: set[str]) -> Tensors:
    """The tensors with the prefix taken off that lets the most names fit."""
    best, tried, fits = given, [given], len(own & set(given))
    while tried:
        state = tried.pop()
        for prefix in PREFIXES:
            if not any(name.startswith(prefix) for name in state):
                continue
            inner = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            tried.append(inner)
            if (count := len(own & set(inner))) > fits:
                best, fits = inner, count
    return best


def _with_head(given: Tensors, own: Mapping[str, torch.Tensor], outer: set[str]) -> Tensors:
    """The tensors with the head under the network's name for it (`linear` for `fc`, say)."""
    missing = [name for name in outer if name not in given]
    left = [name for name in given if name not in own and _counts(name)]
    renamed = {}
    for name in missing:
        end = name.rpartition(".")[2]
        alike = [n for n in left if n.endswith(f".{end}") and given[n].ndim == own[name].ndim]
        if len(missing) != len(left) or len(alike) != 1:
            return given
        renamed[alike[0]] = name
    return {renamed.get(name, name): tensor for name, tensor in given.items()}
