"""Debian's chromium without a window, driven by selenium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import PATIENCE

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDE, PHONE = (1200, 1000), (390, 844)  # CSS pixels


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Run a browser with a profile directory of its own; skip the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # The paths of the browser's sockets must be short.
    service = webdriver.ChromeService(driver, env={**os.environ, "TMPDIR": "/tmp"})
    running = webdriver.Chrome(options, service)
    try:
        running.set_page_load_timeout(PATIENCE)
        yield running
    finally:
        running.quit()


def complaints(running: Any) -> list[str]:
    """Return the warnings and errors of the browser; on a slow machine it has notes about its own pages."""
    return [entry["message"] for entry in running.get_log("browser") if entry["level"] != "INFO"]


def emulate(running: Any, scheme: str, size: tuple[int, int]) -> None:
    """Make the browser prefer a colour scheme ("light" or "dark") and have a window of some size."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    running.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    running.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
