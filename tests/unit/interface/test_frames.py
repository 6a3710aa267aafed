"""Frames of pandas and polars, and errors where they are not installed."""

import sys

import numpy as np
import pytest

from hpcmarl.errors import MissingPackageError, UsageError
from hpcmarl.interface.episodes import Episodes
from hpcmarl.interface.frames import make_frame

COLUMNS = {"version": np.array([1.0, 2.0]), "ended": np.array([True, False])}


@pytest.fixture
def without_libraries(monkeypatch):
    """Make pandas and polars impossible to import."""
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_keep_names_values_and_types(library):
    """polars comes with no extra of hpcmarl: pip install polars."""
    pytest.importorskip(library, reason=f"{library} is not installed")
    frame = make_frame(COLUMNS, library)
    assert type(frame).__module__.partition(".")[0] == library
    assert list(frame.columns) == ["version", "ended"]
    np.testing.assert_array_equal(frame["version"].to_numpy(), COLUMNS["version"])
    assert frame["ended"].to_numpy().tolist() == [True, False]


@pytest.mark.usefixtures("without_libraries")
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_missing_frame_library_is_one_line(library):
    with pytest.raises(MissingPackageError) as raised:
        make_frame(COLUMNS, library)
    assert str(raised.value) == f"{library} is not installed; pip install {library}"


@pytest.mark.usefixtures("without_libraries")
def test_the_table_of_episodes_names_the_missing_pandas(tmp_path):
    """The error comes before the shards are read."""
    with pytest.raises(MissingPackageError, match="pandas is not installed; pip install pandas"):
        _ = Episodes(tmp_path).table


def test_frames_of_unknown_libraries_are_refused():
    with pytest.raises(UsageError, match="library='numpy': unknown; allowed: pandas, polars"):
        make_frame(COLUMNS, "numpy")
