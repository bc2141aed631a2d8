"""A real browser without a window, driven through the DevTools protocol, for tests that need one."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-port=0",
         "--remote-allow-origins=*", "--window-size=1280,900",
         "--allow-pre-commit-input")      # a browser drops keys until a page's first frame; no person is as fast as a test


def program() -> str | None:
    """Where a browser is installed; None where none is."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Tab:
    """One page of the browser. requests: every address that was asked for; troubles: errors and refusals of the policy."""

    def __init__(self, address: str):
        import websocket
        self.socket = websocket.create_connection(address, timeout=60)
        self.sent, self.requests, self.troubles = 0, list[str](), list[str]()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.sent:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        name, given = event.get("method"), event.get("params", {})
        if name == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
        elif name == "Runtime.exceptionThrown":
            self.troubles.append(str(given["exceptionDetails"].get("exception", given)))
        elif name == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.troubles.append(given["entry"]["text"] + " " + given["entry"].get("url", ""))

    def js(self, script: str) -> Any:
        """The value of an expression on the page."""
        answer = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 60.0) -> Any:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(AssertionError):      # the page may be on its way to another
                if (value := self.js(script)) not in (None, False, 0, ""):     # an element comes as {}
                    return value
            time.sleep(0.05)
        says = self.js("document.body.innerText")[:500]
        raise AssertionError(f"{script} did not come true in {seconds} s; the page says {says}")

    def go(self, address: str) -> None:
        self.do("Page.navigate", url=address)
        self.until(f"document.readyState === 'complete' && location.href.split('#')[0] === {json.dumps(address.split('#')[0])}")

    def key(self, key: str) -> None:
        text = {"Enter": "\r", "Escape": ""}.get(key, key)
        code = {"Enter": 13, "Escape": 27, "+": 187, "-": 189}.get(key, ord(key[0].upper()))
        self.do("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
        self.do("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        self.do("Input.insertText", text=text)

    def hover(self, x: float, y: float) -> None:
        """The mouse at a place of the window, in pixels."""
        self.do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def shape(self, width: int, height: int, theme: str) -> None:
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])


@contextmanager
def browser() -> Iterator[Tab]:
    """A tab of a fresh browser that is closed in the end."""
    folder = tempfile.mkdtemp()
    process = subprocess.Popen([str(program()), *FLAGS, f"--user-data-dir={folder}", "about:blank"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        line = next(line for line in process.stderr if "DevTools listening on" in line)
        port = line.split("127.0.0.1:")[1].split("/")[0]
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30))
        yield Tab(next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"))
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)
