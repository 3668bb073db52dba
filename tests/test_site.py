"""The site of the documentation: it is built without a warning, and complete without a network."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

from tests.documents import ROOT
from tests.status.browser import browser
from tests.support.process import wait_until

RESOURCES = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
NOT_LOADED = {"canonical", "prev", "next"}  # kinds of <link> that only name a page


# Mermaid's drawings are in closed shadow trees; opened, they can be inspected.
OPEN_SHADOW_TREES = """
const attach = Element.prototype.attachShadow;
Element.prototype.attachShadow = function () { return attach.call(this, {mode: "open"}); };
"""


class Links(HTMLParser):
    """The links of a page, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a" and values.get("href"):
            self.links.append(values["href"] or "")
        address = values.get(RESOURCES.get(tag, ""))
        if address and values.get("rel") not in NOT_LOADED:
            self.loaded.append(address)


def is_outside(address: str) -> bool:
    return re.match(r"(https?:)?//|mailto:", address) is not None


def has_drawings(page: Any, count: int) -> bool:
    """Return whether the page has this number of diagrams, each drawn, with text in it."""
    script = "return [...document.querySelectorAll('.mermaid')].map("
    script += "each => each.shadowRoot?.querySelector('svg text, svg p'))"
    drawings = page.execute_script(script)
    return len(drawings) == count and all(drawings)


def test_every_page_is_in_the_navigation() -> None:
    """MkDocs reports pages that the navigation names and that don't exist; this is the other direction."""
    named = set(re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= named


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built now."""
    pytest.importorskip("mkdocs", reason="needs the extra docs: make docs")
    pytest.importorskip("mermaidx", reason="needs the extra docs: make docs")
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(directory)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.mark.slow
def test_links_of_the_site_have_a_target(site: Path) -> None:
    pages = [path for path in site.rglob("*.html") if path.name != "404.html"]
    assert len(pages) > 25
    missing = []
    for path in pages:
        links = Links(path.read_text("utf-8"))
        assert [address for address in links.loaded if is_outside(address)] == [], path.name
        for address in {*links.links, *links.loaded}:
            name = unquote(urldefrag(address).url)
            if name and not is_outside(name) and not name.startswith("data:"):
                target = path.parent / name
                if not (target.is_file() or (target / "index.html").is_file()):
                    missing.append((path.name, address))
    assert missing == []


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[str]:
    """The address of a server with the site."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    serving = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(site))
    )
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_address[1]}"
    serving.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_diagram_is_drawn_without_a_network(site: Path, server: str, tmp_path: Path) -> None:
    diagrams = {
        path.stem: len(re.findall("^```mermaid$", path.read_text("utf-8"), re.MULTILINE))
        for path in (ROOT / "docs").glob("*.md")
    }
    pages = {"index": 0, "illustrated": 0, **{name: count for name, count in diagrams.items() if count}}
    assert "architecture" in pages and "protocol" in pages
    with browser(tmp_path / "profile") as page:
        page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": OPEN_SHADOW_TREES})
        for name, count in pages.items():
            page.get(f"{server}/{name}.html")
            wait_until(functools.partial(has_drawings, page, count), f"{count} diagrams of {name}")
            assert page.execute_script("return document.body.innerText.includes('Syntax error')") is False
            loaded = page.execute_script("return performance.getEntries().map(each => each.name)")
            assert [each for each in loaded if is_outside(each) and not each.startswith(server)] == [], name
        messages = [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
        assert messages == []
