"""Write one self-contained HTML page of text, tables and figures, and how to make it again."""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from accuracy_booster.files import write
from accuracy_booster.tables import is_number

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

HERE = "accuracy_booster.report"


class Link(str):
    """A cell of a table that leads to a file or folder, relative to the page.

    So the page and what it leads to can be moved together. The text and the address are escaped.
    """

    href: str

    def __new__(cls, text: str, target: str) -> Link:
        """A cell `text` that leads to `target`, a path relative to the page, ending in / for a
        folder."""
        link = super().__new__(cls, text)
        link.href = "./" + quote(os.fsencode(target))
        return link


def write_page(
    path: Path,
    title: str,
    lead: str,
    sections: Sequence[Mapping[str, Any]],
    made: str | None = None,
    script: str = "",
) -> None:
    """Write a page of sections.

    Args:
        sections: each {"title", "table"?: a `tables.Table`, in which a cell may be a `Link`,
            "figure"?: a wide SVG, "label"?: what the figure shows, "figures"?: pairs of a small
            SVG and what it shows, "html"?: Markup from `render`, "text"?}. Everything but figures
            and Markup is escaped.
        made: the last line of the page; by default the time at which it is written.
        script: the text of the one script that the page's content policy lets run.

    Raises:
        CannotWrite: if the file cannot be written; what was there is still there.
    """
    page = render(
        "page.html",
        title=title,
        lead=lead,
        sections=sections,
        script=script,
        policy=_policy(script),
        command=command(),
        made=datetime.now().strftime("%Y-%m-%d %H:%M") if made is None else made,
    )
    write(path, page.encode("utf-8", "backslashreplace"))


def render(template: str, package: str = HERE, **values: Any) -> Markup:
    """HTML from a template of `package` or of this folder. Values are escaped, except Markup."""
    from markupsafe import Markup

    return Markup(_environment(package).get_template(template).render(**values))


def command() -> str | None:
    """The command line of this program, if it is `accuracy-booster`; else None."""
    if Path(sys.argv[0]).stem != "accuracy-booster":
        return None
    return shlex.join(["accuracy-booster", *sys.argv[1:]])


@cache
def _environment(package: str) -> Environment:
    import jinja2

    loaders = [jinja2.PackageLoader(name) for name in dict.fromkeys((package, HERE))]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["number_like"] = is_number
    return environment


def _policy(script: str) -> str:
    """The page's content policy: it fetches nothing, and runs no script but this one.

    So a name from outside cannot run a script, even if it were not escaped.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
