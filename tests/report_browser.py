"""A browser that a test drives as a person's hand would: Chromium, spoken to through a pipe (Chrome DevTools Protocol)."""

import fcntl
import json
import os
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

HIGH = 20
"""A descriptor that neither end of the browser's pipe (3 and 4 in its process) can be."""

PATIENCE = 60.0
"""Seconds after which a browser that does not answer is given up."""


class Browser:
    """A headless Chromium with one page open; a context manager."""

    def __init__(self, chromium: str, address: str, profile: Path) -> None:
        (hears, self._to), (self._from, speaks) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, HIGH) for end in (hears, speaks)]
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]

        def take_ends() -> None:
            for place, end in enumerate(ends, start=3):
                os.dup2(end, place)

        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen([chromium, *flags], preexec_fn=take_ends, close_fds=False, stdout=quiet, stderr=quiet)
        for end in (hears, speaks, *ends):
            os.close(end)
        self._left, self._said, self._session = b"", 0, ""
        target = self.ask("Target.createTarget", url=address)["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        began = time.monotonic()
        while self.value("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < began + PATIENCE, "the page does not open"
            time.sleep(0.05)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command; return its answer."""
        self._said += 1
        message = {"id": self._said, "method": method, "params": params, **({"sessionId": self._session} if self._session else {})}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._left:
                heard_of, _, _ = select.select([self._from], [], [], PATIENCE)
                some = os.read(self._from, 1 << 16) if heard_of else b""
                assert some, "the browser has ended, or does not answer"
                self._left += some
            first, self._left = self._left.split(b"\0", 1)
            heard = json.loads(first)
            if heard.get("id") == self._said:  # all else are events
                assert "error" not in heard, heard
                return heard["result"]

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def click(self, selector: str) -> None:
        """Press and release the left button over an element, where it is on the screen."""
        shown = f"const box = document.querySelector({json.dumps(selector)})"
        middle = "box.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'}); const at = box.getBoundingClientRect()"
        x, y = self.value(f"(() => {{ {shown}; {middle}; return [at.x + at.width / 2, at.y + at.height / 2]; }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
