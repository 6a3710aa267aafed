"""The HTML of a report: escaping, and what a run's files can put into it."""

import json

import numpy as np
import pytest

from hpcmarl.report.blocks import Plot, Section, Table, Text, number, numbers, percent
from hpcmarl.report.curves import MOST_POINTS, bins_of, thinned
from hpcmarl.report.page import json_for_script, page
from hpcmarl.report.runs import short_names

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
DATA = {"runs": [], "groups": [], "axis_titles": {"steps": "environment steps"}}


def test_texts_of_runs_cannot_become_markup():
    parts = [Text(HOSTILE), Table(["a", HOSTILE], [[HOSTILE, HOSTILE]], HOSTILE)]
    parts.append(Plot(HOSTILE, {"kind": "curves", "name": HOSTILE}, HOSTILE))
    html = page(HOSTILE, HOSTILE, [Section(HOSTILE, "one", parts)], {**DATA, "runs": [{"label": HOSTILE}]})
    assert HOSTILE not in html
    assert "onerror=alert(1)>" not in html
    assert html.count("<script") == html.count("</script>") == 3


def test_json_in_a_script_is_read_back():
    value = {"text": HOSTILE + "&\u2028\u2029", "number": 1.5}
    text = json_for_script(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_page_refreshes_itself_only_if_asked():
    assert 'http-equiv="refresh"' not in page("t", "f", [], DATA)
    assert '<meta http-equiv="refresh" content="30">' in page("t", "f", [], DATA, refresh=30.0)


def test_thinned_curves_keep_means_and_gaps():
    values = np.arange(10.0 * MOST_POINTS)
    values[:10] = np.nan
    values[15] = np.inf
    points = thinned(values)
    assert len(points) == len(bins_of(len(values))) == MOST_POINTS
    assert np.isnan(points[0])
    assert points[1] == pytest.approx(np.mean([10, 11, 12, 13, 14, 16, 17, 18, 19]))
    assert points[2] == 24.5
    assert np.array_equal(thinned(np.arange(7.0)), np.arange(7.0))


def test_numbers_of_cells_and_plots():
    assert numbers([1 / 3, np.nan, np.inf, 123456789.0]) == [0.333333, None, None, 123457000.0]
    assert [number(each) for each in (None, float("nan"), 0.0, 1234567.0, 12.3456, 1e-5)] == [
        "–",
        "–",
        "0",
        "1,234,567",
        "12.35",
        "1.00e-05",
    ]
    assert [percent(each) for each in (0.1234, None)] == ["12.3 %", "–"]


def test_short_names_of_runs_differ(tmp_path):
    assert short_names([tmp_path / "a" / "seed-0", tmp_path / "a" / "seed-1"]) == ["seed-0", "seed-1"]
    assert short_names([tmp_path / "a" / "seed-0", tmp_path / "b" / "seed-0"]) == ["a/seed-0", "b/seed-0"]
