"""Tables of metrics: one row per version, a bounded number of rows, even thinning."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.io import table as module
from hpcmarl.io.table import Table, row_limit


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=40))
def test_versions_increase_after_any_sequence(steps):
    table, expected = Table(), {}
    for number, (version, cut) in enumerate(steps):
        if cut:
            table.cut(version)
            expected = {key: row for key, row in expected.items() if key <= version}
            continue
        row = {"x": number} if number % 3 else {"y": number}
        table.append(version, row)
        expected = {key: old for key, old in expected.items() if key <= version}
        expected[version] = {**expected.get(version, {}), **row}
    assert table.versions.tolist() == sorted(expected)
    for index, version in enumerate(table.versions):
        for column, name in enumerate(table.names):
            value = expected[version].get(name, math.nan)
            np.testing.assert_equal(table.values[index, column, 0], value)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 400)
    monkeypatch.setattr(module, "FEWEST_ROWS", 4)


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_table_stays_bounded_and_covers_the_whole_run(small, step):
    table = Table()
    for number in range(30_000):
        table.append(step * number, {"x": number})
        assert len(table) < 400
    versions = table.versions / step
    assert versions[0] == 0
    assert versions[-200:].tolist() == list(range(29_800, 30_000))
    older = np.diff(versions[:-200])
    assert older.max() <= 30_000 / 25  # at least 25 evenly spaced older rows
    assert older[1:-60].max() <= 2 * np.median(older[1:-60])
    np.testing.assert_array_equal(table.values[:, 0, 0], versions)


def test_wide_tables_have_fewer_rows(small, monkeypatch):
    monkeypatch.setattr(module, "TABLE_BYTES", 80_000)
    assert row_limit(8) == 400
    assert row_limit(8000) == 10
    assert row_limit(1 << 30) == 4
    table = Table(width=1000)
    for number in range(50):
        table.append(number, {"x": np.full(1000, number)})
        assert len(table) < 10
    assert table.versions[0] == 0
    assert table.versions[-5:].tolist() == [45, 46, 47, 48, 49]
    assert table.values[-1].shape == (1, 1000)


def test_changed_from_names_the_first_row_to_write():
    table = Table()
    table.append(1, {"x": 1})
    assert table.changed_from == -1  # a new column
    table.saved()
    table.append(2, {"x": 2})
    assert table.changed_from == 1
    table.saved()
    table.append(2, {"x": 3})
    assert (table.changed_from, table.values[:, 0, 0].tolist()) == (1, [1, 3])
    table.saved()
    table.cut(0)
    assert (table.changed_from, len(table)) == (0, 0)
