"""A headless Chromium, driven over a pipe by the DevTools protocol.

https://chromedevtools.github.io/devtools-protocol: messages are JSON, each with a zero byte at its
end. The browser reads them from descriptor 3 and answers on descriptor 4.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SECONDS = 30.0
"""The longest that an answer may take."""


class Browser:
    """A page in Chromium: what it shows, and what went wrong in it."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self._home = tempfile.TemporaryDirectory()
        in_browser, self._to = os.pipe()
        self._from, out_browser = os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run"
        # The descriptors that it uses are 3 and 4, whatever they are here.
        shell = f'exec "$0" "$@" 3<&{in_browser} 4>&{out_browser}'
        self._process = subprocess.Popen(
            [
                "/bin/bash",
                "-c",
                shell,
                CHROMIUM,
                *flags.split(),
                f"--user-data-dir={self._home.name}",
            ],
            pass_fds=(in_browser, out_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(in_browser)
        os.close(out_browser)
        self._rest, self._number = b"", 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._home.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; returns its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(end - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            part = os.read(self._from, 2**16)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, width: int = 1280, *, dark: bool = False, height: int = 800) -> None:
        """Open a file in a window of some width, and wait until it is drawn."""
        self.events.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.absolute().as_uri())
        self.wait("document.readyState === 'complete'")
        self.wait(
            "[...document.querySelectorAll('[data-figure]')].every("
            "x => !x.checkVisibility() || x.firstChild)"
        )

    def run(self, script: str) -> Any:
        """Evaluate JavaScript; returns its value, or that of its promise."""
        parameters = {"expression": script, "returnByValue": True, "awaitPromise": True}
        result = self.call("Runtime.evaluate", **parameters)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a condition in JavaScript holds."""
        end = time.monotonic() + SECONDS
        while not self.run(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.05)

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        """Save what is shown as a PNG; or the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(data))

    @property
    def requests(self) -> list[str]:
        """The addresses that the page has asked for, but for data inside of it."""
        sent = (x["params"] for x in self.events if x.get("method") == "Network.requestWillBeSent")
        urls = [each["request"]["url"] for each in sent]
        return [url for url in urls if not url.startswith("data:")]

    @property
    def problems(self) -> list[str]:
        """Exceptions, and what the page or the browser wrote to the console."""
        names = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}
        return [json.dumps(event) for event in self.events if event.get("method") in names]
