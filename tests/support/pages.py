"""Read an HTML page."""

from __future__ import annotations

from html.parser import HTMLParser

IMAGE = "<img src=x onerror=alert(1)>"
VOID = ("meta", "image", "use", "line", "path", "rect", "circle", "polyline", "br", "img", "link")


class Page(HTMLParser):
    """A page's elements; `broken` holds tags that close what is not open."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.broken: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.broken.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        """What it says, with signs as a keyboard has them."""
        plain = {ord("\N{MINUS SIGN}"): "-", ord("\N{MULTIPLICATION SIGN}"): "x"}
        return " ".join(" ".join(self.words).translate(plain).split())

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [
            found
            for name, found in self.found
            if name == tag and all(found.get(k.rstrip("_")) == v for k, v in attributes.items())
        ]
