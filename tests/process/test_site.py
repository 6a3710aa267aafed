"""The documentation site builds without warnings, its links resolve, and it loads only its own files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_loader
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from hpcmarl.config.keys import schema_rows
from hpcmarl.config.simulation import SimulationConfig

ROOT = Path(__file__).parents[2]
BUILT = find_spec("mkdocs") is not None and find_spec("material") is not None
pytestmark = [
    pytest.mark.skipif(
        not BUILT and os.environ.get("CI") != "true",
        reason="mkdocs is not installed: pip install -e '.[docs]'",
    ),
    pytest.mark.slow("builds the whole site once"),
]
# Attributes with an address that a browser loads without a click.
LOADED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "object": ("data",),
    "embed": ("src",),
    "input": ("src",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
}
NOT_LOADED = {"canonical", "prev", "next", "alternate", "author", "license"}  # rel of <link>


@dataclass
class Page:
    """Addresses and anchors of a built page.

    Attributes:
        ids: Anchors.
        links: Targets of <a>.
        loaded: Addresses that a browser loads with the page.
        navigation: Targets of <a> in the main navigation.
    """

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    navigation: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    """Collect the addresses and anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._navigation = 0  # open <nav> elements, from the main navigation inwards
        self._style = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.page.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "nav" and (self._navigation or "md-nav--primary" in values.get("class", "")):
            self._navigation += 1
        self._style = self._style or tag == "style"
        if tag == "a" and "href" in values:
            self.page.links.append(values["href"])
            if self._navigation:
                self.page.navigation.append(values["href"])
        if tag == "link" and not NOT_LOADED & set(values.get("rel", "").split()):
            self.page.loaded.append(values.get("href", ""))
        self.page.loaded += [values[name] for name in LOADED.get(tag, ()) if values.get(name)]
        self.page.loaded += addresses_of_css(values.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "nav" and self._navigation:
            self._navigation -= 1
        if tag == "style":
            self._style = False

    def handle_data(self, text: str) -> None:
        if self._style:
            self.page.loaded += addresses_of_css(text)


def addresses_of_css(text: str) -> list[str]:
    """Return the addresses in a style sheet that a browser loads."""
    found = re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(r"@import\s+['\"]([^'\"]+)", text)
    return [address for address in found if not address.startswith(("data:", "#"))]


def read(text: str) -> Page:
    """Return the addresses and anchors of HTML text."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader.page


def is_outside(address: str) -> bool:
    """Return whether an address names another host."""
    parts = urlsplit(address.strip())
    return bool(parts.netloc) or parts.scheme in ("http", "https")


def broken_links(pages: dict[Path, Page]) -> list[str]:
    """Return the links of pages whose file or anchor does not exist."""
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                broken.append(f"{path}: {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                broken.append(f"{path}: {link} (anchor)")
    return broken


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site in strict mode; return its directory."""
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", directory],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return directory


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Return the addresses and anchors of every page, by path.

    404.html has absolute addresses and is left out.
    """
    files = [path for path in site.rglob("*.html") if path.name != "404.html"]
    return {path: read(path.read_text(encoding="utf-8")) for path in files}


def test_links_and_anchors_resolve(pages: dict[Path, Page]) -> None:
    assert len(pages) > 30
    assert broken_links(pages) == []


def test_pages_load_nothing_from_other_hosts(site: Path, pages: dict[Path, Page]) -> None:
    outside = [
        f"{path}: {address}" for path, page in pages.items() for address in page.loaded if is_outside(address)
    ]
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        outside += [f"{sheet}: {address}" for address in addresses_of_css(text) if is_outside(address)]
    assert outside == []


def test_every_configuration_key_has_an_anchor(site: Path, pages: dict[Path, Page]) -> None:
    ids = pages[site / "reference/configuration/index.html"].ids
    anchor_of = load_hooks().anchor_of
    keys = {row.key for row in schema_rows()}
    assert len(keys) > 250
    assert {key for key in keys if anchor_of(key) not in ids} == set()
    # sections that simulations share with runs are listed once
    simulated = {row.key for row in schema_rows(SimulationConfig)} - keys
    missing = {key for key in simulated if anchor_of(key) not in ids}
    assert {key for key in missing if anchor_of(key.removeprefix("objective.")) not in ids} == set()


def test_every_page_is_in_the_navigation(site: Path, pages: dict[Path, Page]) -> None:
    home = site / "index.html"
    named = {
        (site / urlsplit(link).path / "index.html").resolve()
        for link in pages[home].navigation
        if not urlsplit(link).netloc
    }
    assert {path for path in pages if path.resolve() not in named} == set()


def load_hooks():
    """Import tools/site_hooks.py."""
    loader = SourceFileLoader("site_hooks", str(ROOT / "tools/site_hooks.py"))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


# ---- the checks themselves, and the hooks


def test_broken_links_and_anchors_are_found(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    texts = {
        tmp_path / "index.html": '<a href="a/#here">x</a> <a href="a/#gone">x</a> <a href="b/">x</a>',
        tmp_path / "a/index.html": '<p id="here"><a href="../">x</a> <img src="no.png">',
    }
    for path, text in texts.items():
        path.write_text(text)
    found = broken_links({path: read(text) for path, text in texts.items()})
    assert [line.rpartition(": ")[2] for line in found] == ["a/#gone (anchor)", "b/", "no.png"]


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<link rel="preconnect" href="https://fonts.example">',
        '<img src="https://badge.example/x.svg">',
        "<style>@import 'https://fonts.example/css';</style>",
        '<p style="background: url(http://images.example/x.png)">',
    ],
)
def test_addresses_of_other_hosts_are_found(text: str) -> None:
    assert [address for address in read(text).loaded if is_outside(address)]


def test_links_that_browsers_do_not_follow_are_allowed() -> None:
    text = '<a href="https://arxiv.org">x</a> <link rel="canonical" href="https://hpcmarl.example/">'
    assert read(text).loaded == []


@pytest.mark.parametrize(
    ("link", "source", "expected"),
    [
        ("[x](../README.md#ranks)", "cluster.md", "[x](index.md)"),
        ("[x](../CHANGELOG.md)", "cluster.md", "[x](changelog.md)"),
        ("[`slurm/`](../slurm)", "cluster.md", "`slurm/`"),
        ("[x](docs/files.md#metrics)", "contributing.md", "[x](files.md#metrics)"),
        ("[x](../files.md#metrics)", "results/smax.md", "[x](../files.md#metrics)"),
        ("[x](#here)", "cluster.md", "[x](#here)"),
        ("[x](https://arxiv.org)", "cluster.md", "[x](https://arxiv.org)"),
    ],
)
def test_links_out_of_docs_become_links_of_the_site(link: str, source: str, expected: str) -> None:
    hooks = load_hooks()
    page = type("Page", (), {"file": type("File", (), {"src_uri": source})})
    assert hooks.on_page_markdown(link, page, None, None) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n- b\n  c\n- d", "a\n\n- b\n  c\n- d"),
        ("a\n\n1. b\nc\n2. d", "a\n\n1. b\nc\n2. d"),
        ("```\na\n- b\n```", "```\na\n- b\n```"),
    ],
)
def test_lists_are_separated_from_paragraphs(text: str, expected: str) -> None:
    assert load_hooks().separate_lists(text) == expected


def test_text_is_escaped_for_markdown() -> None:
    hooks = load_hooks()
    assert hooks.plain("a_b* <c> | `d_e`") == r"a\_b\* &lt;c&gt; &#124; `d_e`"


def test_empty_columns_of_tables_are_left_out() -> None:
    table = load_hooks().table(("Key", "Only for"), [("1", ""), ("2", "")])
    assert "| Key { .key } |\n| --- |\n| 1 |\n| 2 |" in table
