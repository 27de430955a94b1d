"""Write the list of commands into docs/reference/commands.md.

    python docs/write_commands.py
"""

from __future__ import annotations

from pathlib import Path

from accuracy_booster.cli import COMMANDS

PAGE = Path(__file__).with_name("reference") / "commands.md"
BEGIN, END = "<!-- commands -->\n", "<!-- /commands -->\n"


def page(before: str) -> str:
    """The page with a section for each command."""
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    sections = [
        f"## {name}\n\n{command.about}\n\n```bash\n{command.example}\n```\n"
        for name, command in COMMANDS.items()
    ]
    return head + BEGIN + "\n" + "\n".join(sections) + "\n" + END + tail


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
