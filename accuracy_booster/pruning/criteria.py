"""The criteria by which `ab.prune` scores channels, one a row, and the mean weights they read.

At the end of a branch let W[C, ...] be the weight of the last layer, gamma[C] and var[C] those of
the norm after it, and p[C] the mean weights of the gate. Channel c scores

    gates       p_c
    magnitude   |W_c| |gamma_c| / sqrt(var_c + eps)

Inside a branch let V[K, C] hold the norm of each kernel of the layer that reads the channels,
s[K] = |gamma| / sqrt(var + eps) of the norm after that layer, p[K] the mean weights of the gate
there, and gamma[C] the weight of the norm before it. Channel c scores

    gates       |gamma_c| sqrt(sum_k (p_k s_k V_kc)^2)
    magnitude   |gamma_c| sqrt(sum_k (s_k V_kc)^2)

A factor whose module is not there is 1.
"""

# C channels of a cut, K outputs of the layer that reads them

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.errors import unknown
from accuracy_booster.pruning.cuts import Cut, Cuts, Whole
from accuracy_booster.surgery.gated import ATTRIBUTE


class Signals:
    """The scores of one cut's channels: each method gives [C], on the CPU, in float64.

    Args:
        cuts: those of the network.
        cut: the channels.
        means: {site: mean weights of its gate}.
        random: the generator for the criterion "random".

    Attributes:
        has_means: whether the gate that counts for the channels has mean weights.
    """

    def __init__(
        self, cuts: Cuts, cut: Cut, means: Mapping[str, torch.Tensor], random: torch.Generator
    ):
        self._modules, self._cut = cuts.modules, cut
        self._random = random
        self._norm_after_consumer = cuts.norm_after.get(cut.consumer or "")
        at_end = cut.consumer is None
        sites = cut.gates if at_end else (cut.consumer or "", self._norm_after_consumer or "")
        self._means = next((means[site] for site in sites if site in means), None)
        self.has_means = self._means is not None

    def gates(self) -> torch.Tensor:
        if self._cut.consumer is None:
            assert self._means is not None
            return self._means
        return self._outgoing(self._means)

    def magnitude(self) -> torch.Tensor:
        if self._cut.consumer is not None:
            return self._outgoing(None)
        rows = self._weight(self._cut.producer).flatten(1).norm(dim=1)
        return rows * self._scale(self._cut.norm)

    def random(self) -> torch.Tensor:
        return torch.rand(self._cut.channels, generator=self._random, dtype=torch.float64)

    def _outgoing(self, means: torch.Tensor | None) -> torch.Tensor:
        """How much the layer that reads the channels takes of each: the formula at the top.

        Args:
            means: p[K]; None for ones.
        """
        assert self._cut.consumer is not None
        taken = self._weight(self._cut.consumer).flatten(2).norm(dim=2)  # [K, C / groups]
        taken = taken * self._scale(self._norm_after_consumer).view(-1, 1)
        if means is not None:
            taken = taken * means[:, None]
        groups = getattr(self._modules[self._cut.consumer], "groups", 1)
        outgoing = taken.unflatten(0, (groups, -1)).norm(dim=1).flatten()
        # a batch norm gives each channel the standard deviation |gamma|
        norm = None if self._cut.norm is None else self._modules[self._cut.norm]
        gamma = getattr(norm, "weight", None)
        return outgoing if gamma is None else outgoing * gamma.detach().double().abs().cpu()

    def _weight(self, name: str) -> torch.Tensor:
        weight = self._modules[name].weight.detach().double().cpu()  # type: ignore[union-attr, operator]
        return weight[..., None] if weight.ndim == 2 else weight

    def _scale(self, name: str | None) -> torch.Tensor:
        """|gamma| / sqrt(running variance + eps) of a norm; 1 for other modules and for None."""
        norm = None if name is None else self._modules[name]
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_var is None:
            return torch.ones(1, dtype=torch.float64)
        scale = torch.rsqrt(norm.running_var.double() + norm.eps)
        return (scale if norm.weight is None else scale * norm.weight.detach().double().abs()).cpu()


@dataclass(frozen=True)
class Criterion:
    """How channels are scored; the highest scores stay.

    Attributes:
        score: the method of `Signals`.
        needs_gates: whether it reads mean weights.
        what: its name in reports.
    """

    score: Callable[[Signals], torch.Tensor]
    needs_gates: bool
    what: str


CRITERIA = {
    "gates": Criterion(Signals.gates, True, "mean weights of gates"),
    "magnitude": Criterion(Signals.magnitude, False, "the norm of weights"),
    "gates*magnitude": Criterion(
        lambda signals: signals.gates() * signals.magnitude(),
        True,
        "gates times magnitude",
    ),
    "random": Criterion(Signals.random, False, "chance"),
}


def mean_weights(gates: Any, criterion: Criterion) -> dict[str, torch.Tensor]:
    """{site: mean weights [C]}; {} for a criterion that needs none.

    Args:
        gates: as for `ab.prune`. The mean weights of several gates at one site are multiplied.

    Raises:
        ValueError: for what is neither a mapping nor has a method `means()`.
    """
    if not criterion.needs_gates:
        return {}
    given = gates.means() if callable(getattr(gates, "means", None)) else gates
    if not isinstance(given, Mapping):
        raise ValueError(
            f"gates={type(gates).__name__} must be ab.gates(model, loader) or a dict "
            "{site: mean weights [C]}"
        )
    means: dict[str, torch.Tensor] = {}
    for name, value in given.items():
        mean = torch.as_tensor(value).detach().double().cpu()
        site = name.partition("#")[0]
        means[site] = means[site] * mean if site in means else mean
    return means


def check_means(
    cuts: Cuts,
    found: list[Cut | Whole],
    means: dict[str, torch.Tensor],
    criterion: Criterion,
    by: str,
) -> None:
    """Raise ValueError if a criterion needs mean weights and they are missing or do not fit."""
    if not criterion.needs_gates:
        return
    if not cuts.gates:
        raise ValueError(f"by={by!r} needs gates, and the network has none; use by='magnitude'")
    for site in means:
        # `ab.gates` also reports blocks that the network's author put there
        own = (cuts.modules.get(name) for name in (site, f"{site}.{ATTRIBUTE}"))
        if site not in cuts.gates and not any(isinstance(m, Recalibrate) for m in own):
            raise unknown("site of a gate", site, cuts.gates)
    for site, gate in cuts.gates.items():
        used = any(isinstance(cut, Cut) and site in cut.gates and not cut.consumer for cut in found)
        if site not in means and used:
            raise ValueError(
                f"gates= has no mean weight of the gate at {site!r}; ab.gates(model, loader) has "
                "those of all gates with one weight per channel"
            )
        if site in means and means[site].shape != (gate.channels,):
            raise ValueError(
                f"the mean weights of {site!r} are {list(means[site].shape)}, but must be "
                f"[{gate.channels}], one for each channel"
            )
    if not means:
        raise ValueError(
            f"gates= has no mean weights, which by={by!r} needs: weights per position or of all "
            "channels together say nothing of one channel; use by='magnitude'"
        )
