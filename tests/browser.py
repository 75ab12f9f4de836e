"""A real chromium, driven over its debugging pipe: keys, sizes, colour schemes, screenshots. Needs no package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync --disable-background-networking"
    " --disable-component-update --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
)
PATIENCE = 120
"""Seconds for one answer of the browser."""
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Escape": 27, "Tab": 9, "Enter": 13}


class Browser:
    """One browser with one page. `requests` collects every address it asked for."""

    def __init__(self, profile: Path) -> None:
        commands, self._write = (_high(end) for end in os.pipe())
        self._read, answers = (_high(end) for end in os.pipe())
        arguments = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
        actions = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, commands, 3), (os.POSIX_SPAWN_DUP2, answers, 4)]
        self._pid = os.posix_spawn(arguments[0], arguments, os.environ, file_actions=actions, setpgroup=0)
        os.close(commands)
        os.close(answers)
        self._asked, self._buffer, self._session = 0, b"", ""
        self._shown, self._loaded = "", ""
        self.requests: list[str] = []
        self.console: list[str] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        target = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._write)
        os.close(self._read)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Result of one command of the Chrome DevTools Protocol."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._asked:
            self._note(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def open(self, url: str) -> None:
        """Load the page anew, in whatever state its address asks for."""
        self.send("Page.navigate", url="about:blank")
        self.requests.clear()
        self.console.clear()
        self.send("Page.navigate", url=url)
        while self._loaded != url.partition("#")[0]:
            self._note(self._next())

    def js(self, expression: str) -> Any:
        """Value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        """Real key presses, one after the other."""
        for key in keys:
            code = KEYS.get(key, ord(key[0].upper()))
            text = {"text": key} if len(key) == 1 else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def shape(self, width: int, height: int, scheme: str = "light") -> None:
        """Window size in CSS pixels, and the colour scheme that the reader prefers."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        """What the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], PATIENCE)
            assert ready, "the browser does not answer"
            received = os.read(self._read, 1 << 20)
            assert received, "the browser has gone"
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if event.get("method") == "Page.frameNavigated":
            self._shown, self._loaded = params["frame"]["url"], ""
        if event.get("method") == "Page.loadEventFired":
            self._loaded = self._shown
        if event.get("method") == "Runtime.exceptionThrown":
            self.console.append(params["exceptionDetails"]["exception"].get("description", ""))
        if event.get("method") == "Log.entryAdded":
            self.console.append(params["entry"]["text"])


def _high(descriptor: int) -> int:
    """The same pipe at a number that the child's 3 and 4 cannot collide with."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved
