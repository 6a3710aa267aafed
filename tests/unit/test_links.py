"""Links in the documentation: each has an existing target."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
GENERATED = "<!-- generated: "  # tests/process/test_site.py checks the anchors of such pages
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors(page: Path) -> set[str]:
    """Return the names of the page's headings in links, as GitHub derives them."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documentation_links_point_to_existing_targets(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {target}"
        known = not anchor or GENERATED in file.read_text() or anchor in anchors(file)
        assert known, f"{page.name} links to {target}#{anchor}"


def test_files_that_the_readme_names_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`((?:hpcmarl|configs|docs|tools|tests)/[\w./-]+)`", readme))
    named |= set(re.findall(r"\b((?:tests|configs|docs|tools)/[\w./-]+\w)", readme))
    assert named
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert not missing
