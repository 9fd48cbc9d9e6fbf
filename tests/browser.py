"""A real browser without a window, spoken to by its DevTools protocol, over tornado, which distributed brings."""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tornado.websocket import WebSocketClientConnection, websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")
PATIENCE = 60.0  # seconds for one answer of the browser, on a busy machine


class Page:
    """A page that is shown. What it complains of and what it asks of a network is kept."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        self.requests: list[str] = []

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; events that come before the answer are noted."""
        number = next(self._numbers)
        await self._socket.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            text = await asyncio.wait_for(self._socket.read_message(), PATIENCE)
            assert text is not None, "the browser has gone"
            message = json.loads(text)
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        what, about = message.get("method"), message.get("params", {})
        if what == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(about["exceptionDetails"])[:600])
        elif what == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            self.complaints.append(" ".join(str(value.get("value", value)) for value in about["args"])[:600])
        elif what == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.complaints.append(about["entry"]["text"])
        elif what == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])

    async def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        answer = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, json.dumps(answer["exceptionDetails"])[:800]
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression in the page is true; fails when the browser's patience ends."""
        waited = f"""new Promise((resolve, reject) => {{
            const end = performance.now() + {1000 * PATIENCE / 2};
            const look = () => {{
                if ({script}) resolve(true);
                else if (performance.now() > end) reject(new Error({json.dumps(script)}));
                else setTimeout(look, 20);
            }};
            look();
        }})"""
        await self.run(waited)

    async def press(self, key: str, code: int) -> None:
        """A key of the keyboard."""
        for kind in ("rawKeyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    async def show(self, file: Path, width: int = 1280, dark: bool = False, address: str = "") -> None:
        """Open a file at a width."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.send(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.send("Emulation.setDeviceMetricsOverride", **size)
        await self.send("Emulation.setFocusEmulationEnabled", enabled=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])
        await self.send("Page.navigate", url=file.as_uri() + address)
        await self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(file.as_uri())})")


def in_browser(look: Callable[[Page], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine with a page of a fresh browser."""

    async def whole() -> None:
        async with _page() as page:
            await look(page)

    asyncio.run(whole())


@contextlib.asynccontextmanager
async def _page() -> AsyncIterator[Page]:
    assert BROWSER is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        quiet = ["--disable-extensions", "--disable-background-networking", "--disable-component-update"]
        process = subprocess.Popen(
            [BROWSER, *options, *quiet, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        try:
            socket = await _connected(Path(profile) / "DevToolsActivePort")
            try:
                yield Page(socket)
            finally:
                socket.close()
                while await socket.read_message() is not None:  # until it is closed on both sides
                    pass
        finally:
            process.terminate()
            process.wait()


async def _connected(port_file: Path) -> WebSocketClientConnection:
    """The socket of the only page, once the browser has written where it listens."""
    from tornado.httpclient import AsyncHTTPClient

    for _ in range(600):
        if port_file.is_file() and len(lines := port_file.read_text().split()) == 2:
            break
        await asyncio.sleep(0.1)
    else:
        raise AssertionError("the browser did not start")
    for _ in range(100):
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{lines[0]}/json")
        pages = [target for target in json.loads(answer.body) if target["type"] == "page"]
        if pages:
            return await websocket_connect(pages[0]["webSocketDebuggerUrl"], max_message_size=1 << 28)
        await asyncio.sleep(0.1)
    raise AssertionError("the browser has no page")
