"""The demo as its user starts it, kept up after its story, and a Chromium that looks at its UI."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from airflow_ext.testing.airflow_client import AirflowClient, wait_until
from airflow_ext.testing.processes import processes_in
from demo.world import READER_SECRET
from tests.paths import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@dataclass(frozen=True)
class Demo:
    """A demo whose story is told and whose UI is up."""

    home: Path
    output: str
    source_password: str
    url: str
    user: str
    password: str

    @property
    def client(self) -> AirflowClient:
        """A new client of its Airflow."""
        return AirflowClient(self.url, user=self.user, password=self.password)


@pytest.fixture(scope="session")
def demo(work: Path) -> Iterator[Demo]:
    """Run ``python -m demo`` once; in the end it must stop by Ctrl-C with status 0 and leave no process."""
    home = work / "demo"
    shutil.rmtree(home, ignore_errors=True)
    source_password = secrets.token_urlsafe(20)
    process = subprocess.Popen(
        [sys.executable, "-m", "demo", "--home", str(home)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", READER_SECRET: source_password},
        start_new_session=True,
    )
    lines: list[str] = []
    assert process.stdout is not None
    stream = process.stdout
    reader = threading.Thread(target=lambda: lines.extend(stream), daemon=True)
    reader.start()
    try:
        wait_until(
            lambda: "Ctrl-C" in "".join(lines) or process.poll() is not None,
            timeout=900,
            what="the story is told",
            explain=lambda: "".join(lines),
        )
        text = "".join(lines)
        (work / "demo.txt").write_text(text)
        found = re.search(r"The UI: (\S+)\s+user (\S+)\s+password (\S+)", text)
        assert found, text
        yield Demo(home, text, source_password, *found.groups())
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            reader.join(timeout=10)
            stream.close()
    assert process.returncode == 0, "".join(lines)[-3000:]
    wait_until(lambda: not processes_in(home), timeout=20, what="no process of the demo is left")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium of the system."""
    if CHROMIUM is None:
        raise RuntimeError("Chromium is not installed: run scripts/chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield running
        running.close()


@pytest.fixture(scope="session")
def page(browser: Browser, demo: Demo) -> Iterator[Page]:
    """A page logged in to the demo's Airflow."""
    context = browser.new_context(viewport={"width": 1500, "height": 950})
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    opened.goto(demo.url)
    opened.fill("input[name=username]", demo.user)
    opened.fill("input[name=password]", demo.password)
    opened.keyboard.press("Enter")
    opened.wait_for_url(lambda url: "/auth/login" not in url)
    yield opened
    context.close()
