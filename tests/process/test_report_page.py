"""The report of real runs in a real browser: nothing is asked of a network, nothing is cut off."""

import select
import socket

import numpy as np
import pytest
from PIL import Image

from hpcmarl.report.report import write_report
from tests.support.browser import browser, find_browser
from tests.support.reports import make_run

# Elements that reach past the window, unless they or a parent can be scrolled.
CUT_OFF = """
[...document.querySelectorAll("body *")].filter((element) => {
  const box = element.getBoundingClientRect();
  if (!box.width || !box.height || (box.right <= innerWidth + 1 && box.left >= -1)) return false;
  for (let each = element; each; each = each.parentElement)
    if (["auto", "scroll"].includes(getComputedStyle(each).overflowX) || each.matches(".skip")) return false;
  if (element.closest("#js-plotly-tester")) return false;  // where plotly measures texts
  return !element.closest("svg") || element.closest("svg") === element;
}).map((element) => element.outerHTML.slice(0, 120))
"""
# Labels of axes and legends that reach past their plot.
LABELS_CUT_OFF = """
[...document.querySelectorAll(".plot text")].filter((label) => {
  const box = label.getBoundingClientRect(), plot = label.closest(".plot").getBoundingClientRect();
  return box.width && (box.left < plot.left - 2 || box.right > plot.right + 2 || box.top < plot.top - 2
    || box.bottom > plot.bottom + 2);
}).map((label) => label.textContent)
"""

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def report_file(tmp_path_factory):
    """A report of five runs of two configurations."""
    root = tmp_path_factory.mktemp("reported")
    for seed in range(3):
        make_run(root / f"a-rather-long-name-of-a-run-{seed}", seed=seed, shift=float(seed))
    for seed in range(2):
        make_run(root / f"b{seed}", seed=seed, step_size=0.01, shift=10.0 + seed)
    return write_report([root], root / "report.html").path


@pytest.fixture(scope="module")
def page():
    with browser() as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_report_fits_its_window(page, report_file, tmp_path, width, dark):
    page.requests.clear()
    page.errors.clear()
    page.open(report_file, width, dark=dark, phone=width == 400)
    page.run("hpcmarlReport.drawAll()")
    plots = page.run(
        "Object.keys(JSON.parse(document.getElementById('report-data').textContent).plots).length"
    )
    assert page.run("document.querySelectorAll('.plot .main-svg').length") >= plots > 10
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run(CUT_OFF) == []
    assert page.run(LABELS_CUT_OFF) == []
    assert page.errors == []
    assert {address.partition(":")[0] for address in page.requests} <= {"file", "data", "blob"}
    assert len([address for address in page.requests if address.startswith("file:")]) == 1
    page.picture(tmp_path / "window.png")
    pixels = np.asarray(Image.open(tmp_path / "window.png").convert("L"))
    assert (np.median(pixels) < 60) == dark


def test_network_is_forbidden_to_the_report(page, report_file):
    """The content security policy stops what a file of a run might smuggle in."""
    page.open(report_file, 800)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.png"
        for script in (
            f"fetch('{address}').then(() => 'sent', () => 'stopped')",
            "new Promise((done) => { const image = new Image(); image.onerror = () => done('stopped'); "
            f"image.onload = () => done('sent'); image.src = '{address}'; }})",
        ):
            assert page.run(script) == "stopped"
        assert select.select([server], [], [], 0.2)[0] == []  # nobody has connected


def test_axis_and_runs_can_be_chosen(page, report_file):
    page.open(report_file, 1200)
    page.run("sessionStorage.clear(); hpcmarlReport.drawAll()")
    thin = "document.querySelector('.plot').data.filter((each) => each.line.width > 0 && each.line.width < 2)"
    ends = thin + ".map((each) => each.x.at(-1))"
    assert page.run(ends)[:1] == [50000]
    page.run("document.querySelector('input[value=time]').click()")
    assert page.run(ends)[:1] == [100]
    before = page.run("document.querySelector('.plot').data.length")
    page.run("document.querySelector('#shown li li input').click()")
    assert page.run("document.querySelector('.plot').data.length") == before - 1
    page.open(report_file, 1200)  # the choice is kept when the page is loaded again
    assert page.run("document.querySelector('input[value=time]').checked")
    assert not page.run("document.querySelector('#shown li li input').checked")
    page.run("sessionStorage.clear()")


def test_screen_reader_finds_names_and_tables(page, report_file):
    page.open(report_file, 1200)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = [(each["role"]["value"], each.get("name", {}).get("value")) for each in nodes if "role" in each]
    plots = [name for role, name in named if role in ("image", "img") and name and name.startswith("Plot: ")]
    assert len(plots) > 10
    assert ("heading", "Learning") in named
    assert ("navigation", "sections") in named
    assert all(name for role, name in named if role in ("checkbox", "radio", "table", "link"))
    figures = "[...document.querySelectorAll('figure')]"
    assert page.run(figures + ".every((figure) => figure.querySelector('table tbody tr td'))")


def test_printed_report_is_light_and_fits_the_paper(page, report_file):
    """The browser draws for paper before the rules of print hold."""
    page.open(report_file, 1600, dark=True)
    font = "document.querySelector('.plot').layout.font.color"
    page.run("hpcmarlReport.drawAll()")
    dark = page.run(font)
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("hpcmarlReport.waiting.size") == 0
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.run("getComputedStyle(document.querySelector('.controls')).display") == "none"
    assert page.run(font) == "#000000"
    wide = "[...document.querySelectorAll('.main-svg')].map((drawn) => drawn.getBoundingClientRect().right)"
    assert max(page.run(wide)) <= 700
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run(font) == dark != "#000000"
    assert max(page.run(wide)) > 700
