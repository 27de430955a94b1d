"""The sentences and the few large numbers that sum up an inspection, for page and terminal."""

from __future__ import annotations

from collections.abc import Sequence

from accuracy_booster.inspection.results import ALLOWED_LOSS, Inspection, Outcome
from accuracy_booster.report.numbers import number, signed

FEW_GATES = 6  # are named before "and 2 more"
FEW_CHANNELS = 24  # are named before "and 12 more"


def tiles(inspection: Inspection) -> list[tuple[str, str]]:
    """(large number, what it is) of the most telling findings."""
    found = [(f"{number(inspection.top1)} %", f"top-1 accuracy, {inspection.images:,} images")]
    if inspection.frozen:
        telling = sum(o.tells for o in inspection.frozen.values())
        found.append(
            (f"{telling} of {len(inspection.frozen)}", "gates that alone change the accuracy")
        )
    change = signed(inspection.all_frozen.change)
    found.append((f"{change} points", "with every gate frozen at its mean"))
    shares = [e for g in inspection.gates.values() if (e := g.explained) is not None]
    if shares:
        found.append((_range(shares), "of a gate's variance is explained by the class"))
    return found


def summary(inspection: Inspection) -> list[str]:
    """The findings, one a sentence."""
    gates = inspection.gates
    said = [
        f"The network is right on {number(inspection.top1)} % of the {inspection.images:,} images "
        f"of the {inspection.split} split."
    ]
    said += _about_each(inspection)
    if 1 < len(inspection.idle) < len(inspection.frozen) and inspection.idle_frozen is not None:
        places = gates.places()
        idle = ", ".join(places.get(site, site) for site in inspection.idle)
        said.append(
            f"The other {len(inspection.idle)} ({idle}), frozen together, change it by "
            f"{interval(inspection.idle_frozen)} points; ab.fold(model, static=...) makes them "
            "constants."
        )
    said.append(_about_all(inspection))
    shares = {site: e for site, g in gates.items() if (e := g.explained) is not None}
    if shares:
        places, best = gates.places(), max(shares, key=lambda site: shares[site])
        said.append(
            f"The class explains {_range(list(shares.values()))} of the variance of a gate's "
            f"weights across images, the most at {places.get(best, best)}. The rest depends on the "
            "image itself."
        )
    else:
        said.append("The images have no labels, so nothing is said about classes.")
    dead, constant = _where(inspection, "dead"), _where(inspection, "constant")
    whole = sum(g.is_constant for g in gates.values())
    total = sum(g.channels for g in gates.values())
    said.append(
        f"Of {total:,} channels {dead} dead (weight next to 0 on 99 % of the images) and "
        f"{constant} constant (weight hardly depends on the image)"
        + (f"; {count(whole, 'gate')} have only constant channels." if whole else ".")
    )
    if gates.silent:
        said.append(f"{count(len(gates.silent), 'gate')} never ran: {', '.join(gates.silent)}.")
    return said


def unmoved(inspection: Inspection) -> list[list[str]]:
    """Rows (block, site, dead channels, constant channels) of the gates that have some of these."""
    places = inspection.gates.places()
    return [
        [places.get(site, site), site, named(g.dead, g.channels), named(g.constant, g.channels)]
        for site, g in inspection.gates.items()
        if g.dead or g.constant
    ]


def named(channels: Sequence[int], of: int) -> str:
    """Channels by number: "3, 17 and 5 more", "all 16", "none"."""
    if not channels:
        return "none"
    if len(channels) == of:
        return f"all {of}"
    more = f" and {len(channels) - FEW_CHANNELS:,} more" if len(channels) > FEW_CHANNELS else ""
    return ", ".join(map(str, channels[:FEW_CHANNELS])) + more


def count(amount: int, noun: str) -> str:
    """An amount with its noun: 1 gate, 9 gates."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def interval(outcome: Outcome) -> str:
    """A change with its 95 % interval."""
    return f"{signed(outcome.change)} [{signed(outcome.low)} to {signed(outcome.high)}]"


def _about_each(inspection: Inspection) -> list[str]:
    frozen = inspection.frozen
    if not frozen:
        return ["No gate alone was frozen, so nothing is said about what each of them does."]
    telling = [site for site, o in frozen.items() if o.tells]
    number = f"{len(telling)} of {count(len(frozen), 'gate')}"
    text = (
        f"{number} alone {'has' if len(telling) == 1 else 'have'} an effect that these images "
        "tell: frozen at its mean weights, it changes the accuracy by a 95 % interval without 0."
    )
    worst = min(frozen, key=lambda site: frozen[site].change)
    if frozen[worst].tells and frozen[worst].change < 0:
        place = inspection.gates.places().get(worst, worst)
        text += f" {place} matters most: {interval(frozen[worst])} points."
    return [text]


def _about_all(inspection: Inspection) -> str:
    found = inspection.all_frozen
    what = (
        f"With every gate frozen at its mean weights, accuracy changes by {interval(found)} points"
    )
    if inspection.folds_away:
        return (
            f"{what}, a loss of less than {ALLOWED_LOSS} points: the network folds into the plain "
            "one, whose layers take up the constants (accuracy-booster merge)."
        )
    if inspection.all_frozen.high >= 0:
        return f"{what}: so few images cannot tell whether the network folds into the plain one."
    return f"{what}: the network does not fold into the plain one without loss."


def _range(shares: Sequence[float]) -> str:
    low, high = f"{100 * min(shares):.0f}", f"{100 * max(shares):.0f}"
    return f"{high} %" if low == high else f"{low} to {high} %"


def _where(inspection: Inspection, which: str) -> str:
    """How many channels are dead, or constant, and in which gates: "3 (Conv2_1, Conv3_2) are"."""
    channels = {site: len(getattr(gate, which)) for site, gate in inspection.gates.items()}
    amount, places = sum(channels.values()), inspection.gates.places()
    sites = [places.get(site, site) for site, number in channels.items() if number]
    more = f" and {len(sites) - FEW_GATES} more" if len(sites) > FEW_GATES else ""
    named_sites = f" ({', '.join(sites[:FEW_GATES])}{more})" if sites else ""
    return f"{amount:,}{named_sites} {'is' if amount == 1 else 'are'}"
