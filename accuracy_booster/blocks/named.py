"""The table of named blocks: the paper's, its rivals' and its ablations."""

from __future__ import annotations

import fnmatch
import re

from accuracy_booster.blocks.grammar import MAX_TEXT, Recipe
from accuracy_booster.blocks.parsing import parse
from accuracy_booster.blocks.parts import PARTS
from accuracy_booster.blocks.versions import FORMER_ROWS, VERSION, checked
from accuracy_booster.errors import shown, unknown

# {name: (recipe, source)}. "Paper" is Accuracy Booster; tables and figures are of this paper.
TABLE: dict[str, tuple[str, str]] = {
    "ab": ("gap | dense(groups=C) | bn | sigmoid", "Paper, Fig. 1 and 2(D)"),
    "ab_plus": ("gap | dense | bn | sigmoid", "Paper, Fig. 2(C)"),
    "ab_nobn": ("gap | dense(groups=C) | sigmoid", "Paper, end of section 6.1"),
    "ab_plus_nobn": ("gap | dense | sigmoid", "Paper, Fig. 2(B)"),
    "se": ("gap | bottleneck(16) | sigmoid", "Squeeze-and-Excitation, Fig. 2(A)"),
    "eca": ("gap | conv1d(adaptive, bias=false) | sigmoid", "ECA-Net"),
    "cbam": (
        "gap + gmp | bottleneck(16) | sigmoid ; "
        "channel_pool | conv2d(7) | bn(momentum=0.01) | sigmoid",
        "CBAM, as in its authors' code",
    ),
    "ge_theta_minus": ("gather(global) | sigmoid", "Gather-Excite, no parameters"),
    "ge_theta": ("gather(global, learned=true) | sigmoid", "Gather-Excite"),
    "ge_theta_plus": (
        "gather(global, learned=true) | bottleneck(16) | sigmoid",
        "Gather-Excite; Table 8",
    ),
    "ge_theta_plus_ab": (
        "gather(global, learned=true) | dense(groups=C) | bn | sigmoid",
        "Table 8",
    ),
    "ge_theta_bn": (
        "dwconv(global) | bn(momentum=0.05) | sigmoid",
        "Gather-Excite theta, as in its authors' code",
    ),
    "ge_theta_plus_bn": (
        "dwconv(global) | bn(momentum=0.05) | relu | bottleneck(16) | sigmoid",
        "Gather-Excite theta+, as in its authors' code",
    ),
    "design_e": ("gap | sigmoid", "Table 11 (E)"),
    "design_f": ("gap | bn | sigmoid", "Table 11 (F)"),
    "design_g": ("dwconv(global) | sigmoid", "Table 11 (G), without bn"),
    "design_g_bn": ("dwconv(global) | bn | sigmoid", "Table 11 (G), with bn"),
    "design_h": ("conv(global) | sigmoid", "Table 11 (H), without bn"),
    "design_h_bn": ("conv(global) | bn | sigmoid", "Table 11 (H), with bn"),
    "design_i": ("conv(3) | sigmoid", "Table 12 (I)"),
    "design_j": ("dwconv(3) | sigmoid", "Table 12 (J)"),
    "design_k": ("conv(7) | sigmoid", "Table 12 (K)"),
    "design_l": ("dwconv(7) | sigmoid", "Table 12 (L)"),
    "design_m": ("dwconv(7) | gap | sigmoid", "Table 14 (M)"),
    "design_n": ("dwconv(7) | gap | dense(groups=C) | bn | sigmoid", "Table 14 (N)"),
    "design_o": ("dwconv(7) | gap | dense | bn | sigmoid", "Table 14 (O)"),
    "dw3_bn": ("dwconv(3) | bn | sigmoid", "Table 13"),
    "dw9_bn": ("dwconv(9) | bn | sigmoid", "Table 13"),
}
_GROUPS = re.compile(r"ab_g([1-9]\d*)")  # AB with any number of groups (Table 15)


def recipe(recipe: str | Recipe) -> Recipe:
    """A block as a `Recipe`: what its gates compute, as data.

    `ab.recipe("ab") == ab.recipe("gap | dense(groups=C) | bn | sigmoid")`.

    Args:
        recipe: a block: its name in the table, `ab_gN` (AB with N groups), its text, or a
            `Recipe`, which is returned as it is.

    Raises:
        ValueError: for an unknown name (the error lists the nearest), or for a text that cannot be
            read (the error gives the position).
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str):
        raise ValueError(
            f"block={shown(recipe)} must be a block's name such as 'ab', its text, or an ab.Recipe"
        )
    name = recipe.strip()
    if name == "none":
        raise ValueError(
            "block='none' is the network without gates, so there is nothing to place; name a block "
            "such as 'ab' (accuracy-booster models lists them)"
        )
    if len(name) > MAX_TEXT:
        return parse(name)  # raises the error for long texts
    if name in TABLE:
        return parse(TABLE[name][0])
    if groups := _GROUPS.fullmatch(name):
        return parse(f"gap | dense(groups={groups[1]}) | bn | sigmoid")
    if "," in name and all(part.strip() in TABLE for part in name.split(",")):
        raise ValueError(f"{shown(name)} names several blocks; give one, or compare them")
    if name.isidentifier() and name not in PARTS:
        raise unknown("block", name, [*TABLE, "ab_g2", "ab_g4"], "or write 'gap | ... | sigmoid'")
    return parse(recipe)


def as_recorded(block: str, version: object) -> str:
    """A block that was recorded in a version of the grammar, written in today's.

    Where its meaning has not changed, the text is returned as it is.

    Raises:
        ValueError: for a version that this package does not know.
    """
    known, name = checked(version), block.strip()
    if known == VERSION or name in TABLE or name.isidentifier():
        return FORMER_ROWS.get(known, {}).get(name, block)
    try:
        former, today = parse(block, known), parse(block)
    except ValueError:
        return block  # building the block raises the error
    return block if former == today else str(former)


def list_recipes(filter: str = "*") -> list[str]:
    """The names of the blocks that match a shell-style pattern, as in `ab.boost(model, NAME)`.

    `ab_gN`, AB with any number N of groups, is a name too and is not listed.
    """
    return [name for name in TABLE if fnmatch.fnmatch(name, filter)]


def name_and_start(block: Recipe) -> tuple[str, str]:
    """A block as users write it.

    Args:
        block: the recipe of a gate.

    Returns:
        The block's name and how its gates start, "paper" or "identity"; for a block without a name
        its text and "".
    """
    groups = (f"ab_g{number}" for number in re.findall(r"groups=([1-9]\d*)", str(block)))
    for name in (*TABLE, *groups):
        named = recipe(name)
        if block == named:
            return name, "paper"
        weighted = all(any(part.has_parameters for part in gate.parts) for gate in named.gates)
        if weighted and block == named.as_identity():
            return name, "identity"
    return str(block), ""
