"""A headless Chromium that a test drives: DevTools' messages over two pipes, no other package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """Hold a page that can be opened, asked and clicked.

    As a context manager, so that the browser ends with the test.
    """

    def __init__(self, folder: Path, width: int = 1280, height: int = 900, dark: bool = False):
        to_read, self.to_write = os.pipe()
        self.to_hear, to_say = os.pipe()

        def as_chromium_wants_them() -> None:
            os.dup2(to_read, 8)
            os.dup2(to_say, 9)
            os.dup2(8, 3)
            os.dup2(9, 4)

        self.process = subprocess.Popen(
            [
                *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"),
                *("--remote-debugging-pipe", f"--window-size={width},{height}"),
                *(f"--user-data-dir={folder}", "about:blank"),
            ],
            pass_fds=(3, 4), preexec_fn=as_chromium_wants_them,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_say)
        self.count, self.heard, self.session, self.said = 0, b"", None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.to_write)
        os.close(self.to_hear)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self.heard:
            piece = os.read(self.to_hear, 1 << 16)
            if not piece:
                raise RuntimeError("the browser has ended")
            self.heard += piece
        message, _, self.heard = self.heard.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of DevTools and wait for its answer; what came between is in `said`."""
        self.count += 1
        message: dict[str, Any] = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.said.append(answer)

    def open(self, address: str) -> None:
        """Open an address and wait until it is there."""
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def ask(self, expression: str) -> Any:
        """Evaluate an expression of JavaScript."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key that writes nothing, or Enter, where the focus is."""
        code = {"Enter": 13, "Tab": 9, "ArrowRight": 39}[key]
        what = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **what, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    def until(self, expression: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while True:
            try:
                if self.ask(expression):
                    return
            except RuntimeError as error:  # asked of a page that is being left
                if "navigated" not in str(error) and "context" not in str(error):
                    raise
            if time.monotonic() > end:
                raise TimeoutError(expression)
            time.sleep(0.05)

    def errors(self) -> list[str]:
        """List what the page has complained of so far."""
        return [
            str(said["params"])
            for said in self.said
            if said.get("method") == "Runtime.exceptionThrown"
            or (
                said.get("method") == "Log.entryAdded"
                and said["params"]["entry"]["level"] == "error"
            )
        ]
