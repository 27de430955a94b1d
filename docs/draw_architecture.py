"""Draw docs/architecture.svg: the package's folders and which of them import which.

    python docs/draw_architecture.py

The picture is drawn from the imports, so it cannot differ from the code. An arrow leads from a
folder to one that imports it. Where A -> B -> C is drawn, A -> C is left out. Thick arrows are the
way of the images: from the data through training to the results.
"""

from __future__ import annotations

import ast
import html
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "accuracy_booster"
PICTURE = Path(__file__).with_name("architecture.svg")
WAY_OF_THE_IMAGES = [("data", "training"), ("training", "analysis"), ("training", "inspection")]
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 200, 62, 26, 44, 14


def folders() -> dict[str, str]:
    """{folder: the first sentence of its docstring}."""
    found = {}
    for init in sorted(PACKAGE.glob("*/__init__.py")):
        text = ast.get_docstring(ast.parse(init.read_text())) or ""
        first = " ".join(text.split("\n\n")[0].split())
        found[init.parent.name] = first.partition(": ")[0].strip(". ")
    return found


def imports(names: set[str]) -> dict[str, set[str]]:
    """{folder: the folders that its files import}."""
    needed: dict[str, set[str]] = {name: set() for name in names}
    for file in PACKAGE.glob("*/**/*.py"):
        own = file.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(file.read_text())):
            modules = []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            for module in modules:
                package, _, rest = module.partition(".")
                other = rest.partition(".")[0]
                if package == "accuracy_booster" and other in names and other != own:
                    needed[own].add(other)
    return needed


def reached(name: str, needed: dict[str, set[str]]) -> set[str]:
    """All folders that one needs, directly or through others."""
    found: set[str] = set()
    for other in needed[name]:
        found |= {other} | reached(other, needed)
    return found


def drawn(needed: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows (needed, needs), without those that a chain of others shows already."""
    arrows = []
    for name, direct in needed.items():
        further = set().union(*(reached(other, needed) for other in direct)) if direct else set()
        arrows += [(other, name) for other in sorted(direct - further)]
    return sorted({*arrows, *(way for way in WAY_OF_THE_IMAGES if way[0] in needed[way[1]])})


def rows(needed: dict[str, set[str]]) -> list[list[str]]:
    """The folders in rows: each stands below all that it needs."""
    depth: dict[str, int] = {}

    def at(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((at(other) for other in needed[name]), default=-1)
        return depth[name]

    for name in needed:
        at(name)
    return [sorted(n for n in depth if depth[n] == row) for row in range(max(depth.values()) + 1)]


def wrapped(text: str, most: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[:2] if len(lines) <= 2 else [lines[0], f"{lines[1]} ..."]


def picture() -> str:
    about = folders()
    needed = imports(set(about))
    table = rows(needed)
    across = max(map(len, table))
    wide = 2 * MARGIN + across * WIDTH + (across - 1) * GAP_X
    high = 2 * MARGIN + len(table) * HEIGHT + (len(table) - 1) * GAP_Y
    place = {}
    for y, row in enumerate(table):
        start = (wide - len(row) * WIDTH - (len(row) - 1) * GAP_X) / 2
        for x, name in enumerate(row):
            place[name] = (start + x * (WIDTH + GAP_X), MARGIN + y * (HEIGHT + GAP_Y))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high:g}" '
        'font-family="sans-serif" role="img" aria-label="The folders of the package">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" markerUnits="userSpaceOnUse" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#607d8b"/></marker></defs>',
        f'<rect width="{wide:g}" height="{high:g}" fill="#ffffff"/>',
    ]
    for above, below in drawn(needed):
        (x1, y1), (x2, y2) = place[above], place[below]
        x1, y1, x2 = x1 + WIDTH / 2, y1 + HEIGHT, x2 + WIDTH / 2
        thick = (above, below) in WAY_OF_THE_IMAGES
        style = 'stroke="#e65100" stroke-width="3"' if thick else 'stroke="#90a4ae"'
        middle = (y1 + y2) / 2
        out.append(
            f'<path d="M{x1:g} {y1:g} C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}" '
            f'fill="none" {style} marker-end="url(#tip)"/>'
        )
    for name, (x, y) in sorted(place.items()):
        out.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#eceff1" '
            'stroke="#607d8b"/>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + 19:g}" text-anchor="middle" font-size="14" '
            f'font-weight="bold" fill="#263238">{name}/</text>'
        )
        for i, line in enumerate(wrapped(about[name], 33)):
            out.append(
                f'<text x="{x + WIDTH / 2:g}" y="{y + 37 + 14 * i:g}" text-anchor="middle" '
                f'font-size="10.5" fill="#455a64">{html.escape(line)}</text>'
            )
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture())
