"""From a row of a table to a run: what is trained or timed, with which seed, and its hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from accuracy_booster.blocks import recipe
from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.errors import unknown
from accuracy_booster.files import hash_of
from accuracy_booster.reproduction.budgets import BUDGETS, STANDARD, TIMES
from accuracy_booster.reproduction.paper_tables import ZEROED
from accuracy_booster.reproduction.table import AP, GATES, TIME, TOP1, Row, Table
from accuracy_booster.training.identity import FREE
from accuracy_booster.training.presets import preset_from_scratch, resolve
from accuracy_booster.training.train_config import TrainConfig

# The version of what a training does. It goes up when a change of the code could change an
# accuracy. Results of other versions are left out of the report, and their runs are made again.
CODE_VERSION = 1
MAX_SEEDS = 1000
# Fields that are not hashed: places of files, the seed, the name of a preset, and others that do
# not change the result. The block is hashed as text (`Spec.settings`).
_NOT_HASHED = {*FREE, "seed", "preset", "block", "device", "precision"} - {"epochs", "data"}


@dataclass(frozen=True)
class Spec:
    """One run.

    Attributes:
        measures: TOP1, AP, TIME or GATES (`table`).
        options: the arguments of the call that makes the run: of `ab.train` (TOP1), of
            `ab.detection.train` (AP, where `model` is the backbone) or of `ab.bench` (TIME). For
            GATES they are those of the trained network, and `percents` says how many channels are
            zeroed. `data` and `weights` are names, which `places` resolves. Where a training
            starts from another run, `after` has that run's options, and `merged` says whether its
            gates are made constants.
        seed: of the training; in a table of times the number of the repetition.
    """

    measures: str
    options: Mapping[str, Any]
    seed: int

    @cached_property
    def config(self) -> TrainConfig | DetectConfig:
        """The training's configuration, without the places of its data, weights and output."""
        own = ("model", "after", "merged", "percents")
        options = {name: value for name, value in self.options.items() if name not in own}
        if self.measures == AP:
            return DetectConfig(self.model, **options, seed=self.seed)
        # also where a training starts from trained weights: the tables name its settings
        standard = preset_from_scratch(self.model, self.options["data"])
        return resolve(self.model, **{"preset": standard, **options}, seed=self.seed)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What is hashed: the settings that differ from their defaults, and the block as text."""
        if self.measures == TIME:
            return {"measures": TIME, **_plain(self.options)}
        config = self.config
        given = {
            f.name: getattr(config, f.name)
            for f in fields(config)
            if f.name not in _NOT_HASHED and getattr(config, f.name) != f.default
        }
        given["block"] = "none" if config.block == "none" else str(recipe(config.block))
        given["data"] = config.data
        if self.measures == GATES:
            given |= {"measures": GATES, "percents": self.options["percents"]}
        elif self.parent is not None:
            given |= {"after": self.parent.settings, "merged": self.options["merged"]}
        if self.measures == AP:
            given["measures"] = AP
        return _plain(given)

    @cached_property
    def hash(self) -> str:
        """A hash of the settings: runs that differ only in their seeds have the same."""
        return hash_of({**self.settings, "code_version": CODE_VERSION})[:12]

    @cached_property
    def parent(self) -> Spec | None:
        """The run whose trained network this run starts from; None if there is none."""
        if self.measures == GATES:
            return Spec(TOP1, {k: v for k, v in self.options.items() if k != "percents"}, self.seed)
        after = self.options.get("after")
        return None if after is None else Spec(TOP1, dict(after), self.seed)

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the run among results: its hash and its seed."""
        return self.hash, self.seed

    @property
    def model(self) -> str:
        return str(self.options["model"])

    @property
    def block(self) -> str:
        return str(self.options.get("block", ""))

    @property
    def name(self) -> str:
        """The name of the run's folder and of its result file."""
        if self.measures == TIME:
            what = "times"
        else:
            block = self.block if self.block.isidentifier() else "recipe"
            what = f"{block}-{self.options['data']}"
            if self.measures == AP:
                what = f"detector-{what}"
            elif self.parent is not None:
                what += "-gates" if self.measures == GATES else "-more"
        return f"{self.model.replace('/', '_')}-{what}-{self.hash}-s{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same run."""
        return {"measures": self.measures, "options": _plain(self.options), "seed": self.seed}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Spec:
        return cls(str(value["measures"]), dict(value["options"]), int(value["seed"]))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON gives them back, with lists in place of tuples."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def spec_of(table: Table, row: Row, budget: str, seed: int) -> Spec:
    """The run of a row. All rows of a table of times share one run, in which they take turns.

    Raises:
        ValueError: for an unknown budget.
    """
    if budget not in BUDGETS:
        raise unknown("budget", budget, BUDGETS)
    if table.measures == TIME:
        blocks = tuple(other.block for other in table.rows)
        return Spec(TIME, {"model": row.model, "blocks": blocks, **TIMES[budget]}, seed)
    options = _options(table, row.model, row.block, budget)
    if table.measures == GATES:
        percents = [percent for percent, *_ in ZEROED]
        return Spec(GATES, {**options, "percents": percents}, seed)
    # At the budget smoke networks learn grey digits: a detector of coloured images cannot use them.
    if row.after is not None and not (budget == "smoke" and table.measures == AP):
        begun = _options(table, row.model, row.after.block, budget)
        if row.after.data:
            begun = _standard(row.model, row.after.block, row.after.data, budget)
        options |= {"after": begun, "merged": row.after.merged}
    options |= row.settings
    if budget == "smoke" and "weights" in table.settings:
        options["freeze"] = "none"  # the weights are random then, so all of them must learn
    return Spec(table.measures, options, seed)


def _options(table: Table, model: str, block: str, budget: str) -> dict[str, Any]:
    """The arguments of a training in a table, without the settings of its row."""
    own = (table.budgets or {}).get(budget, {})
    options = _standard(model, block, table.data, budget)
    options |= {**table.settings, **own}
    if budget == "smoke":
        options = {k: v for k, v in options.items() if k not in ("weights", "mean", "std")}
    return options


def _standard(model: str, block: str, data: str, budget: str) -> dict[str, Any]:
    """The arguments of the standard training of a network with a block on a data set."""
    return {"model": model, "block": block, "data": data, **STANDARD[data][budget]}


def plan(tables: Sequence[Table], budget: str, seeds: int | None = None) -> list[Spec]:
    """The runs of tables, each once, in the order in which they are best made.

    They come table after table. Within a table every row comes with the first seed, then every row
    with the next, so that rows can be compared early. A run that starts from the network of another
    run comes after it.

    Args:
        seeds: the number of seeds; by default the number that each table declares.

    Raises:
        ValueError: for a number of seeds out of range, or an unknown budget.
    """
    if seeds is not None and not 1 <= seeds <= MAX_SEEDS:
        raise ValueError(f"seeds={seeds} must be from 1 to {MAX_SEEDS:,}")
    if budget not in BUDGETS:
        raise unknown("budget", budget, BUDGETS)
    found: dict[tuple[str, int], Spec] = {}
    for table in tables:
        for seed in range(table.seeds if seeds is None else seeds):
            for row in table.rows:
                spec = spec_of(table, row, budget, seed)
                if spec.parent is not None:
                    found.setdefault(spec.parent.key, spec.parent)
                found.setdefault(spec.key, spec)
    return list(found.values())
