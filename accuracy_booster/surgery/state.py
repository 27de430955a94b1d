"""What a network remembers of being boosted, fused, folded or pruned.

All of it is one `BoostState` in the `__dict__` of the network. So it goes along with copies,
pickle and moving averages, and is in no state dict. `surgery`, `fastpath` and `pruning` write it
with `update_state`; everybody reads it with `state_of`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

_KEY = "_boost_state"


@dataclass(frozen=True)
class BoostState:
    """What one network remembers. A field is None for what was not done to the network.

    Attributes:
        base_fingerprints: {name of a tensor of the base: a short mark of its values}, as they were
            when the network was boosted. `ab.save` compares them with the values of now.
        fast_path: the report of `ab.fuse` or `ab.fold`, a `fastpath` report with `kind` "fused" or
            "folded".
        pruning: the report of `ab.prune`, a `pruning` report.
    """

    base_fingerprints: dict[str, str] | None = None
    fast_path: Any = None  # Any: the classes of reports stand in folders that import this one
    pruning: Any = None


NOTHING = BoostState()


def state_of(model: nn.Module) -> BoostState:
    """What a network remembers; changes nothing. A network that remembers nothing has all None."""
    return model.__dict__.get(_KEY, NOTHING)


def update_state(model: nn.Module, **changes: Any) -> None:
    """Change what a network remembers, in place: `update_state(model, fast_path=report)`.

    A network whose fields are all None again keeps no trace in its `__dict__`.

    Raises:
        TypeError: for a field that `BoostState` does not have.
    """
    state = replace(state_of(model), **changes)
    if state == NOTHING:
        model.__dict__.pop(_KEY, None)
    else:
        model.__dict__[_KEY] = state
