"""One run of a table: what is trained or timed, with which seed, and the hash that names it."""

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
from accuracy_booster.training.presets import resolve
from accuracy_booster.training.train_config import TrainConfig

# What a training means. It goes up when a change of the code could change an accuracy; results of
# other versions are then left out of the report, and their runs are made again.
CODE_VERSION = 1
MAX_SEEDS = 1000
# what has no part in a configuration's hash: where things are, the seed, and how a preset is called
_NOT_HASHED = {*FREE, "seed", "preset", "block", "device", "precision"} - {"epochs", "data"}


@dataclass(frozen=True)
class Spec:
    """One run.

    `options` are the arguments of `ab.train`, of `ab.detection.train` for a table of detectors
    (where `model` is the backbone), or of `ab.bench` for a table of times. Their `data` and
    `weights` are names; `places` knows where they are. Where a training goes on from another run,
    `after` has that one's options, and `merged` says that its gates become constants. Where gates
    are changed in a trained network, the options are that network's, and `percents` says how many
    channels are zeroed.
    """

    measures: str
    options: Mapping[str, Any]
    seed: int

    @cached_property
    def config(self) -> TrainConfig | DetectConfig:
        """The training's configuration, but for the places of its data, weights and output."""
        own = ("model", "after", "merged", "percents")
        options = {name: value for name, value in self.options.items() if name not in own}
        if self.measures == AP:
            return DetectConfig(self.model, **options, seed=self.seed)
        return resolve(self.options["model"], **options, seed=self.seed)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What is hashed: the settings that are not at their defaults, and the block as a text."""
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
        """The same for the runs that differ in their seeds alone."""
        return hash_of({**self.settings, "code_version": CODE_VERSION})[:12]

    @cached_property
    def parent(self) -> Spec | None:
        """The run whose trained network this one takes; None if it takes none."""
        if self.measures == GATES:
            return Spec(TOP1, {k: v for k, v in self.options.items() if k != "percents"}, self.seed)
        after = self.options.get("after")
        return None if after is None else Spec(TOP1, dict(after), self.seed)

    @property
    def key(self) -> tuple[str, int]:
        """What a run is looked up by."""
        return self.hash, self.seed

    @property
    def model(self) -> str:
        return str(self.options["model"])

    @property
    def block(self) -> str:
        return str(self.options.get("block", ""))

    @property
    def name(self) -> str:
        """The name of the run's folder and of its result."""
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
        return {"measures": self.measures, "options": _plain(self.options), "seed": self.seed}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Spec:
        return cls(str(value["measures"]), dict(value["options"]), int(value["seed"]))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON gives them back: lists for tuples."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def spec_of(table: Table, row: Row, budget: str, seed: int) -> Spec:
    """The run of a row. Rows of a table of times share one run, in which they take turns.

    Raises:
        ValueError: for a budget that there is not.
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
    # the digits are grey, so a detector of coloured images cannot start from their network
    if row.after is not None and not (budget == "smoke" and table.measures == AP):
        begun = _options(table, row.model, row.after.block, budget)
        if row.after.data:
            begun = _standard(row.model, row.after.block, row.after.data, budget)
        options |= {"after": begun, "merged": row.after.merged}
    options |= row.settings
    if budget == "smoke" and "weights" in table.settings:
        options["freeze"] = "none"  # without trained weights there is nothing to freeze
    return Spec(table.measures, options, seed)


def _options(table: Table, model: str, block: str, budget: str) -> dict[str, Any]:
    """The arguments of the training for a row without settings of its own."""
    own = (table.budgets or {}).get(budget, {})
    options = _standard(model, block, table.data, budget)
    options |= {**table.settings, **own}
    if budget == "smoke":
        options = {k: v for k, v in options.items() if k not in ("weights", "mean", "std")}
    return options


def _standard(model: str, block: str, data: str, budget: str) -> dict[str, Any]:
    """The arguments of the training of a network with a block on a data set."""
    return {"model": model, "block": block, "data": data, **STANDARD[data][budget]}


def plan(tables: Sequence[Table], budget: str, seeds: int | None = None) -> list[Spec]:
    """The runs of tables, each once, in the order in which they tell most.

    Table after table; within a table every row with the first seed, then every row with the next.
    A run whose trained network another one takes comes before that one.

    Args:
        seeds: how many; by default the number that each table declares.

    Raises:
        ValueError: for a number of seeds out of range, or a budget that there is not.
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
