"""Read the tensors of a file of weights, whoever wrote it, without running code in it."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.errors import SHOWN, is_out_of_memory, shortened
from accuracy_booster.files import unpack

# Where checkpoints keep the weights beside other things.
NESTED = (
    *("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "ema"),
    "network",
)
SAVED, GATES_FILE = "model.safetensors", "booster.safetensors"  # of a run, and of `ab.save`
Tensors = dict[str, torch.Tensor]


def read_weights(path: str | Path) -> Tensors:
    """The tensors, by name, of a file, a finished run's directory, or one of `ab.save(full=True)`.

    A file is a .safetensors file or one of `torch.save`. It is read with `weights_only=True`, so
    that no code in it runs.

    Raises:
        ValueError: if the file is missing or damaged, or holds no tensors by name.
    """
    path = _file(Path(path).expanduser())
    try:
        if path.suffix == ".safetensors":
            return unpack(path).tensors
        # torch warns of a pickle in lines of its own; what is wrong with it is told below
        with _plain_values(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
    for _ in range(len(NESTED)):  # no endless loop, since a damaged file may contain itself
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
    """The file of weights that a path means: itself, or the one in that directory."""
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
    """Let torch read argparse's options and NumPy's numbers, which are harmless and common."""
    import numpy as np

    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    with torch.serialization.safe_globals([argparse.Namespace, np.dtype, *kinds, *names]):
        yield
