"""Hooks of MkDocs: the pages of the site that are made when it is built, and links that leave docs/.

The command lines come from the help pages, the configuration from the page of strelay.py, and the illustrated
page from the recording beside the documents. A link such as ../CHANGELOG.md or ../examples/listener.py leads
to a page with that file, so the site needs no other host. Mermaid comes from the package mermaidx, whose copy
is that of Mermaid's own release; the site loads nothing from outside.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import sys
from importlib import resources
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from offset_common.illustrate.page import render
from offset_common.illustrate.recording import load_recording
from offset_common.illustrate.story import tell
from tools.help_markdown import command_line, configuration
from tools.help_pages import ROOT, read_page, scripts

MERMAID = "assets/mermaid.min.js"
MERMAID_SHA256 = "74d7c46dabca328c2294733910a8aa1ed0c37451776e8d5295da38a2b758fb9b"  # of Mermaid 11.16.0
LANGUAGES = {
    ".py": "python",
    ".toml": "toml",
    ".yml": "yaml",
    ".conf": "ini",
    ".service": "ini",
    ".socket": "ini",
}

_LINK = re.compile(r"\]\(((?:\.\./)+)([\w./-]+)(#[\w-]+)?\)")
_HOME = {"README.md": "index.md"}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made now."""
    made: dict[str, str] = {"illustrated.html": render(tell(load_recording(ROOT / "docs/illustrated.json")))}
    pages = {name: read_page(name) for name in scripts()}
    for name, page in pages.items():
        made[f"{name}.md"] = command_line(name, page)
    made["configuration.md"] = configuration(pages["strelay"])
    for name in sorted({name for file in files.documentation_pages() for name in _outside(file)}):
        made[_page(name)] = _source(name)
    made[MERMAID] = _mermaid()
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links out of docs/ lead to pages of the site, and load Mermaid where there is a diagram."""
    here = posixpath.dirname(page.file.src_uri)

    def relative(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(here, link[1], link[2]))
        target = _HOME.get(link[2], _page(link[2])) if path.startswith("../") else path
        return f"]({posixpath.relpath(target, here or '.')}{link[3] or ''})"

    markdown = _LINK.sub(relative, markdown)
    if "```mermaid" in markdown:
        script = posixpath.relpath(MERMAID, posixpath.dirname(page.file.dest_uri) or ".")
        markdown += f'\n\n<script src="{script}"></script>\n'
    return markdown


def _outside(file: File) -> list[str]:
    """Return the files outside docs/ to which a document links."""
    return [path for _, path, _ in _LINK.findall(file.content_string) if path not in _HOME]


def _page(name: str) -> str:
    """Return the page for a file outside docs/."""
    return f"source/{name.removesuffix('.md')}.md"


def _source(name: str) -> str:
    """Return a page with a file of the repository; its links are those of docs/."""
    path = ROOT / name
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        up = "../" * (name.count("/") + 1)
        return re.sub(r"\]\(docs/", f"]({up}", re.sub(r"\]\((?!docs/|https?:|#|\.\./)", f"]({up}../", text))
    return f'# {path.name}\n\n`{name}`\n\n````{LANGUAGES.get(path.suffix, "text")} linenums="1"\n{text}````\n'


def _mermaid() -> str:
    """Return Mermaid's program."""
    script = (resources.files("mermaidx") / "assets" / "mermaid.js").read_bytes()
    if hashlib.sha256(script).hexdigest() != MERMAID_SHA256:
        raise PluginError(
            "mermaidx has another mermaid.js than tools/site_hooks.py expects; see the extra `docs`"
        )
    return script.decode()
