"""Opens a report in headless Chromium, as wide as a desk and as narrow as a phone, and looks at it.

    open_report.py REPORT [--screenshots DIR] [--picture FILE]

Fails when the console has an error or a warning, an exception was thrown, a request left the page, a figure
was not drawn, or the page scrolls sideways.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

WIDTHS = (1440, 375)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]
LOOK = """(async () => {
  const wait = ms => new Promise(done => setTimeout(done, ms));
  for (const fold of document.querySelectorAll('details')) fold.open = true;
  const figures = [...document.querySelectorAll('.plotly-graph-div, .js-plotly-plot')];
  const drawn = figure => {
    const svg = figure.querySelector('svg.main-svg');
    return svg !== null && svg.getBoundingClientRect().height > 40
      && svg.querySelectorAll('path, rect, circle, text').length > 3;
  };
  for (const figure of figures) { figure.scrollIntoView(); await wait(20); }
  for (let tries = 0; tries < 100 && !figures.every(drawn); tries++) await wait(100);
  window.scrollTo(0, 0);
  await wait(100);
  const page = document.documentElement;
  return JSON.stringify({
    figures: figures.length,
    missing: figures.filter(figure => !drawn(figure)).map(figure => figure.id || '(no id)'),
    title: document.title,
    text: document.body.innerText.length,
    overflow: page.scrollWidth - page.clientWidth,
    wide: [...document.querySelectorAll('body *')].filter(
      item => item.getBoundingClientRect().right > page.clientWidth + 1
    ).slice(0, 5).map(item => item.outerHTML.slice(0, 80)),
  });
})()"""


class Page:
    """One tab, spoken to over the DevTools protocol; keeps what went wrong in it."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=60)
        self.number = 0
        self.wrong: list[str] = []
        self.loaded = False

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send *method* and return its result; what comes in between is noted."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, what = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            details = what["exceptionDetails"]
            self.wrong.append("exception: " + details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "assert", "warning"):
            words = [str(item.get("value", item.get("description"))) for item in what["args"]]
            self.wrong.append(f"console {what['type']}: " + " ".join(words))
        elif method == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.wrong.append(f"log: {what['entry']['text']} {what['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            url = what["request"]["url"]
            if not url.startswith(("file:", "data:", "blob:")):
                self.wrong.append(f"asked for {url[:100]}")

    def open(self, url: str, width: int) -> None:
        """Go to *url* in a window of that *width*."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 700,
        )
        self.ask("Page.navigate", url=url)
        until = time.monotonic() + 60
        while not self.loaded and time.monotonic() < until:
            self.ask("Runtime.evaluate", expression="1")
            time.sleep(0.05)

    def look(self) -> dict[str, Any]:
        """What `LOOK` found."""
        answer = self.ask("Runtime.evaluate", expression=LOOK, awaitPromise=True, returnByValue=True)
        found: dict[str, Any] = json.loads(answer["result"]["value"])
        return found

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """The *whole* page as PNG, or its first screen."""
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser() -> Iterator[str]:
    """A fresh Chromium; gives the address of a new tab."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        sys.exit("no chromium found; apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield _tab(Path(profile) / "DevToolsActivePort", process)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _tab(port_file: Path, process: subprocess.Popen[bytes]) -> str:
    from urllib.request import urlopen

    until = time.monotonic() + 60
    while not (port_file.is_file() and port_file.read_text().strip()):
        if process.poll() is not None or time.monotonic() > until:
            sys.exit(f"chromium did not start (exit code {process.poll()})")
        time.sleep(0.1)
    port = port_file.read_text().split()[0]
    while time.monotonic() < until:
        with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
            tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
        if tabs:
            return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.1)
    sys.exit("chromium has no page")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--screenshots", type=Path, metavar="DIR")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="PNG of the first screen, for the README")
    args = parser.parse_args()
    failed = False
    for width in WIDTHS:
        with browser() as address:
            page = Page(address)
            page.open(args.report.resolve().as_uri(), width)
            found = page.look()
            if args.screenshots:
                args.screenshots.mkdir(parents=True, exist_ok=True)
                page.screenshot(args.screenshots / f"report-{width}.png")
            if args.picture and width == max(WIDTHS):
                page.screenshot(args.picture, whole=False)
        wrong = list(page.wrong)
        if not found["figures"]:
            wrong.append("there is no figure")
        wrong += [f"figure {name} was not drawn" for name in found["missing"]]
        if found["overflow"] > 0:
            wrong.append(f"scrolls {found['overflow']} px sideways, because of {found['wide']}")
        if found["text"] < 500:
            wrong.append(f"says next to nothing ({found['text']} characters)")
        print(f"{width} px: {found['figures']} figures in {found['title']!r}: {'; '.join(wrong) or 'fine'}")
        failed = failed or bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
