"""What `ab.fuse` or `ab.fold` did at each site: a table that the network carries with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from torch import nn

from accuracy_booster.fastpath.folded_forms import FORMS
from accuracy_booster.fastpath.running_kernels import gates_inside, why_torch_runs
from accuracy_booster.ops import backend
from accuracy_booster.surgery.state import state_of
from accuracy_booster.tables import Table


@dataclass(frozen=True)
class SiteReport:
    """One site, with a gate or without: whether it takes the fast path, and how or why not.

    Attributes:
        name: the module.
        fast: whether it takes the fast path.
        how: how it does, or why it does not.
        extra_reduction: whether it reads the module's output once more, for the mean, since no
            convolution or attention module before the gate gives that mean.
    """

    name: str
    fast: bool
    how: str
    extra_reduction: bool = False


@dataclass(frozen=True)
class ConvolutionReport:
    """How one convolution of a folded network runs.

    Attributes:
        name: the convolution.
        packed: whether it runs in our kernel, where no gradients are needed.
        how: in what order, or why torch's kernel runs.
        milliseconds: {"torch": ..., "by positions": ..., ...}; empty without a timing.
    """

    name: str
    packed: bool
    how: str
    milliseconds: Mapping[str, float]


@dataclass(frozen=True)
class FastPath:
    """What `ab.fuse` or `ab.fold` did; `print(ab.fast_path(model))` shows it as a table.

    Attributes:
        kind: "fused" or "folded".
        places: the sites, in order of execution.
        convolutions: how each convolution of a folded network runs; empty with `kernel="off"`.
    """

    kind: str
    places: list[SiteReport]
    convolutions: list[ConvolutionReport] = field(default_factory=list)

    @property
    def taken(self) -> int:
        """How many sites take the fast path."""
        return sum(site.fast for site in self.places)

    @property
    def extra_reductions(self) -> int:
        """How many of these read the module's output once more."""
        return sum(site.extra_reduction for site in self.places)

    def table(self) -> Table:
        """A row for each place: module, path, how or why not."""
        rows = [[p.name, _path(p), p.how] for p in self.places]
        return Table(["module", "path", "how, or why not"], rows)

    def overview(self) -> Table:
        """A row for all places with one path and one reason: how many, which, path, how."""
        alike: dict[tuple[str, str], list[int]] = {}
        for number, place in enumerate(self.places):
            alike.setdefault((_path(place), place.how), []).append(number)
        rows = [[str(len(found)), self._names(found), *how] for how, found in alike.items()]
        return Table(["places", "modules", "path", "how, or why not"], rows)

    def _names(self, numbers: list[int]) -> str:
        """The modules of some places. Of three or more in a row the first and the last is named."""
        rows = [[numbers[0]]]
        for before, number in pairwise(numbers):
            if number == before + 1:
                rows[-1].append(number)
            else:
                rows.append([number])
        names = []
        for row in rows:
            own = [self.places[number].name for number in row]
            names += [f"{own[0]} to {own[-1]}"] if len(own) > 2 else own
        return ", ".join(names)

    def summary(self) -> str:
        """How many sites take the fast path, and how convolutions run, in one line."""
        line = f"{self.kind}: {self.taken} of {len(self.places)} places take the fast path"
        if not self.places:
            line = f"{self.kind}: there are no gates"
        if self.extra_reductions:
            line += f", {self.extra_reductions} of them with one more reduction"
        if not self.convolutions:
            return line
        packed = sum(conv.packed for conv in self.convolutions)
        line += f"; {packed} of {len(self.convolutions)} convolutions run in our kernel"
        if packed:
            return f"{line} where no gradients are needed"
        reasons = Counter(conv.how for conv in self.convolutions)
        counts = len(reasons) > 1
        told = (f"{why} ({n})" if counts else why for why, n in reasons.most_common())
        return f"{line}: {'; '.join(told)}"

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {**asdict(self), "taken": self.taken, "extra_reductions": self.extra_reductions}

    def __str__(self) -> str:
        lines = [*self.table().lines(), self.summary()]
        if self.kind == "fused":
            lines.append(f"in eager mode on the CPU: {backend.eager_on_cpu()}")
        return "\n".join(lines)


def _path(site: SiteReport) -> str:
    """How a table calls the path of a site."""
    if not site.fast:
        return "as before"
    return "fast, one more reduction" if site.extra_reduction else "fast"


def fast_path(model: nn.Module) -> FastPath:
    """What `ab.fuse` or `ab.fold` did at each site of a network, and which kernels run now.

    A folded network that was converted since, or moved to a GPU, tells so: our kernel takes float32
    on the CPU.

    Raises:
        ValueError: for a model that is neither fused nor folded.
    """
    report = report_of(model)
    if report is None:
        raise ValueError(
            f"{type(model).__name__} is neither fused nor folded; 'accuracy-booster plan NAME "
            "--fast-path' shows what both would do"
        )
    return _as_it_runs(report, model)


def _as_it_runs(report: FastPath, model: nn.Module) -> FastPath:
    """The report with torch's kernel wherever ours does not run any more."""
    modules = dict(model.named_modules())
    convolutions = [
        replace(conv, packed=False, how=why)
        if conv.packed and (why := why_torch_runs(modules.get(conv.name)))
        else conv
        for conv in report.convolutions
    ]
    inside = gates_inside(model)
    if all(inside):
        return replace(report, convolutions=convolutions)
    before, how = (f"the gate {FORMS[form]}" for form in ("kernel", "output"))
    if any(inside):
        how = f"{before}, or {FORMS['output']} where torch's kernel runs"
    places = [replace(p, how=how) if p.how == before else p for p in report.places]
    return replace(report, places=places, convolutions=convolutions)


def report_of(model: nn.Module) -> FastPath | None:
    """The report of a fused or folded network, as it was made; None for any other.

    Raises:
        ValueError: for what is no module.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected an nn.Module, got {type(model).__name__}")
    return state_of(model).fast_path
