"""Names of gated layers: sites, and the paper's words for them, such as Conv4_1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accuracy_booster.errors import unknown

Shapes = Mapping[str, Any]  # {site: the shape of its feature map}, in the order of execution


def paper_names(shapes: Shapes) -> dict[str, str]:
    """{site: its name in the paper}: Conv4_1 is the first block of stage 4.

    Stages are numbered from 2, as in ResNet's paper. A new stage begins where the shape changes.
    The second gate of a block has no name of its own.
    """
    found: dict[str, str] = {}
    stage, block, before = 1, 0, object()
    for site, shape in shapes.items():
        if "#" in site:
            continue
        stage, block = (stage, block + 1) if shape == before else (stage + 1, 1)
        before = shape
        found[site] = f"Conv{stage}_{block}"
    return found


def find_layer(name: str | None, shapes: Shapes) -> str:
    """The site that a name means: a site, a module around one, or the paper's Conv4_1.

    Without a name it is the first block of the last stage, as in the paper's Figure 3.

    Raises:
        ValueError: for any other name, with the nearest.
    """
    names = paper_names(shapes)
    if not names:
        raise ValueError("none of the gates ran, so there is no layer to show")
    if name is None:
        last_stage = list(names.values())[-1].partition("_")[0]
        return next(site for site, paper in names.items() if paper == f"{last_stage}_1")
    if name in shapes:
        return name
    inside = [site for site in names if site.startswith(f"{name}.")]
    if len(inside) == 1:
        return inside[0]
    site_of = {paper.lower(): site for site, paper in names.items()}
    if (wanted := str(name).lower()) in site_of:
        return site_of[wanted]
    raise unknown("layer", name, inside or [*shapes, *names.values()])
