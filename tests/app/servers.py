"""A running app, and a browser that looks at it."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Chromium looks for updates and the like at every start, and its sandbox does not start as root
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
PATIENCE = 240  # seconds: a machine with other work needs a minute to import all


class Server:
    """`clipalign app` in a process of its own, on a free port."""

    def __init__(self, arguments, record):
        self.record, self.lines = record, []
        command = [sys.executable, "-m", "tests.app.recorder", str(record), "app", *map(str, arguments), "--port", "0"]
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command, cwd=ROOT, text=True, env=os.environ | {"COLUMNS": "200"}, **both)
        found: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=(found,), daemon=True).start()
        self.base = found.get(timeout=PATIENCE)
        assert self.base, "".join(self.lines)
        self.port = int(self.base.rstrip("/").rsplit(":", 1)[1])

    def _read(self, found):
        for line in self.process.stdout:
            self.lines.append(line)
            if match := re.search(r"open (http://\S+:\d+/)", line):
                found.put(match[1])
        found.put(None)

    @property
    def outgoing(self):
        return self.record.read_text().splitlines()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def served(arguments, record):
    server = Server(arguments, record)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def chromium():
    """A real browser; without one the test fails and says what to install."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail("this lane needs Chromium: apt-get install chromium", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class User:
    """One person's window; requests to other hosts are aborted and noted, as are errors of the page."""

    def __init__(self, browser, base, width=1280, height=900):
        self.base, self.elsewhere, self.errors = base, [], []
        self.context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        self.context.route("**/*", self._pass)
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._listen)

    def _pass(self, route):
        url = route.request.url
        if url.startswith((self.base, "data:", "blob:")):
            route.continue_()
        else:
            self.elsewhere.append(url)
            route.abort()

    def _listen(self, message):
        refused = "the server responded with a status of 4"
        if message.type == "error" and refused not in message.text:
            self.errors.append(message.text)

    def open(self):
        self.page.goto(self.base)
        self.page.wait_for_selector(".ca-spectrum")
        return self

    def give(self, path):
        self.page.set_input_files("#ca-file", str(path))

    def write(self, line):
        self.page.fill("#ca-line textarea, #ca-line input", line)
        self.page.keyboard.press("Enter")

    def results(self, text):
        """The words of the results, once they hold some."""
        self.page.wait_for_function("t => document.querySelector('#ca-results').innerText.includes(t)", arg=text)
        return self.page.inner_text("#ca-results")

    def names(self, column):
        return self.page.locator(f".ca-column[aria-label^='{column}'] .ca-name").all_inner_texts()

    def picture(self, name):
        """A screenshot, where SCREENSHOTS names a folder."""
        if folder := os.environ.get("SCREENSHOTS"):
            self.page.wait_for_load_state("networkidle")
            self.page.wait_for_timeout(300)
            self.page.screenshot(path=Path(folder) / f"{name}.png")
