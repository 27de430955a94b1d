"""`Section`: a part of the report as plain text, which `markdown` and `html_page` lay out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from accuracy_booster.reproduction.comparing import TableResult


@dataclass(frozen=True)
class LayerWeights:
    """The mean weight of each channel of a layer over the test images, in one trained network."""

    network: str
    layer: str
    seed: int
    means: tuple[float, ...]

    def __str__(self) -> str:
        low, high = min(self.means), max(self.means)
        return (
            f"Figure 3: the mean weights of the {len(self.means)} channels of {self.layer} in "
            f"{self.network} (seed {self.seed}) go from {low:.2f} to {high:.2f}, with the median "
            f"{median(self.means):.2f}"
        )


@dataclass(frozen=True)
class Section:
    """A part of the report. Its pieces stand in this order, and may be empty.

    In all texts, backticks mark names of files, runs and commands.

    Attributes:
        title: the heading.
        text: a paragraph.
        rule: Markdown, which is taken over as it is.
        picture: the table whose differences are drawn.
        weights: the mean weights that are drawn, as in the paper's Figure 3.
        table: its header and its rows.
        items_title: the line above the list.
        items: the lines of a list.
    """

    title: str = ""
    text: str = ""
    rule: str = ""
    picture: TableResult | None = None
    weights: LayerWeights | None = None
    table: tuple[list[str], list[list[str]]] | None = None
    items_title: str = ""
    items: Sequence[str] = ()
