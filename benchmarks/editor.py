"""The editor: `serve --editor` to `/health`, and to the first picture in a cold browser: `python -m benchmarks.editor`.

Each round has an empty cache and a browser with an empty profile. It needs Chromium and the extra `editor`.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks.table import environment, machine

LOADED = "window.app?.graph?._nodes?.length > 0 && !document.querySelector('#splash-loader')"
PICTURE = "app.graph._nodes.find(node => node.type === 'SaveImage').imgs?.length > 0"


def round_of(browser: str) -> dict[str, float]:
    """Seconds from the start of the server to each event."""
    with tempfile.TemporaryDirectory() as place, socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
        found.close()
        own = {"GRAPHENGINE_STATE": f"{place}/state", "GRAPHENGINE_CACHE": f"{place}/cache"}
        command = [sys.executable, "-m", "graphengine.cli", "serve", "--editor", "--port", str(port), "--threads", "1"]
        begin = time.perf_counter()
        with (Path(place) / "log").open("w") as log:
            server = subprocess.Popen(command, env=environment(**own), stdout=log, stderr=log)
        seconds: dict[str, float] = {}
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                    break
                except OSError:
                    time.sleep(0.005)
            seconds["/health"] = time.perf_counter() - begin
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
                page = chromium.new_page()
                page.set_default_timeout(120_000)
                page.goto(f"http://127.0.0.1:{port}/editor/")
                page.wait_for_function(LOADED)
                seconds["graph on the page"] = time.perf_counter() - begin
                page.get_by_test_id("queue-button").click()
                page.wait_for_function(PICTURE)
                seconds["first picture"] = time.perf_counter() - begin
                chromium.close()
        finally:
            server.terminate()
            server.wait()
        return seconds


def main() -> None:
    """Print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("there is no Chromium on this machine")
    rounds = [round_of(browser) for _ in range(parser.parse_args().rounds)]
    print(machine())
    for name in rounds[0]:
        times = [seconds[name] for seconds in rounds]
        print(f"{name}: {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
