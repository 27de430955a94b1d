"""A headless Chromium that opens a page: the DevTools protocol over a pipe, without a driver.

The protocol: https://chromedevtools.github.io/devtools-protocol
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--disable-background-networking"),
    *("--disable-extensions", "--disable-component-update", "--mute-audio"),
)
PATIENCE = 60  # seconds until an answer is given up


def find() -> str | None:
    """The path of a browser; None where none is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser. Use it as a context manager.

    Attributes:
        errors: messages of errors on the page's console, of exceptions and of blocked content.
        requests: the addresses that the page asked for, its own file too.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._number, self._session = 0, ""
        self._events: list[dict[str, Any]] = []
        self._unread = b""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        program = find()
        assert program, "no browser is installed"
        flags = [*FLAGS, f"--user-data-dir={self._profile.name}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            flags.append("--no-sandbox")  # it refuses to start as root with it
        # the protocol is spoken on the descriptors 3 and 4: here they are stdin and stdout
        self._process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null', "sh", program, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        found = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with the processes of its pages
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._profile.cleanup()

    def open(
        self,
        path: Path,
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        script: bool = True,
        calm: bool = True,
    ) -> None:
        """Open a file and wait until it is shown; what an earlier page said is forgotten."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        features = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if calm else "no-preference",
        }
        pairs = [{"name": name, "value": value} for name, value in features.items()]
        self._ask("Emulation.setEmulatedMedia", features=pairs)
        self._ask("Emulation.setScriptExecutionDisabled", value=not script)
        self.errors, self.requests, self._events = [], [], []
        self._ask("Page.navigate", url=path.resolve().as_uri())
        self._until("Page.loadEventFired")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, as plain values; promises are awaited."""
        found = self._ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise AssertionError(f"{expression}: {_words(found['exceptionDetails'])}")
        return found["result"].get("value")

    def click(self, selector: str) -> None:
        """Click the middle of the first element that a CSS selector finds, as a mouse does."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const b = e.getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key: "Tab", "Enter", "ArrowRight"."""
        codes = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
        about: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self._ask("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self._ask("Input.dispatchKeyEvent", type="keyUp", **about)

    def screenshot(self, whole: bool = False) -> Image.Image:
        """What is seen, or the whole page, as RGB."""
        found = self._ask(
            "Page.captureScreenshot",
            format="png",
            captureBeyondViewport=whole,
            **({"clip": {**self.run(_WHOLE), "x": 0, "y": 0, "scale": 1}} if whole else {}),
        )
        return Image.open(io.BytesIO(base64.b64decode(found["data"]))).convert("RGB")

    # --- the protocol

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        number = self._number
        while True:
            answer = self._read()
            if answer.get("id") == number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]

    def _until(self, event: str) -> None:
        while not any(found["method"] == event for found in self._events):
            self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._process.stdout], [], [], end - time.monotonic())
            more = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
            if not more:
                raise AssertionError("the browser ended or gave no answer")
            self._unread += more
        text, _, self._unread = self._unread.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self._note(message)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        name, about = event["method"], event["params"]
        if name == "Runtime.exceptionThrown":
            self.errors.append(_words(about["exceptionDetails"]))
        elif name == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            self.errors.append(str([a.get("value") for a in about["args"]]))
        elif name == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"]["text"])
        elif name == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])


_WHOLE = "({width: innerWidth, height: document.documentElement.scrollHeight})"


def _words(details: Mapping[str, Any]) -> str:
    return details.get("exception", {}).get("description") or details["text"]
