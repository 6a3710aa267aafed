"""Recorded episodes of a run: a table of all of them, and one xarray dataset for each."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from hpcmarl.errors import MissingPackageError, UsageError
from hpcmarl.interface.frames import make_frame
from hpcmarl.io.trajectories.episodes import EpisodeTable, find_episodes, read_episode
from hpcmarl.io.trajectories.layout import ENVIRONMENT, GroupLayout
from hpcmarl.io.trajectories.shard_reader import list_shards
from hpcmarl.types import Array


class Episodes(Sequence[Any]):
    """Complete episodes in the finished shards of a run, in the order in which they ended.

    `len` and `table` read only the index of the shards; `episodes[i]` reads the steps of one episode.

    Args:
        run_directory: The run directory.
    """

    def __init__(self, run_directory: Path) -> None:
        self._run_directory = run_directory

    @cached_property
    def _table(self) -> EpisodeTable:
        return find_episodes(list_shards(self._run_directory))

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"Episodes({len(self)} of {str(self._run_directory)!r})"

    @property
    def table(self) -> Any:
        """A pandas.DataFrame with a row for each episode: length in steps, return_mean, version and more."""
        return self.frame("pandas")

    def frame(self, library: Literal["pandas", "polars"] = "pandas") -> Any:
        """Return `table` as a frame of a library.

        Args:
            library: Library of the frame.

        Raises:
            MissingPackageError: The library is not installed.
            UsageError: The library is unknown.
        """
        return make_frame(self._table.columns, library)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        """Read episodes.

        Args:
            index: Number of an episode, or a slice.

        Returns:
            An xarray.Dataset with the dimensions step, agent and feature; with several policies the names of
            variables and of their dimensions begin with the policy and a dot. Entries of Dict and Tuple
            observations are variables obs.KEY. A slice gives a list of datasets.

        Raises:
            MissingPackageError: xarray is not installed.
            FormatError: A shard is damaged.
        """
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"episode {number}: the run has {len(self)} recorded episodes")
        return self._dataset(number % len(self))

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def best(self) -> int:
        """Return the number of the episode with the highest return.

        Raises:
            UsageError: No episode is recorded.
        """
        return self._extreme(np.nanargmax)

    def worst(self) -> int:
        """Return the number of the episode with the lowest return.

        Raises:
            UsageError: No episode is recorded.
        """
        return self._extreme(np.nanargmin)

    def _extreme(self, choose: Any) -> int:
        if not len(self):
            raise UsageError(f"{self._run_directory}: no recorded episode in its finished shards")
        return int(choose(self._table.columns["return_mean"]))

    def _dataset(self, number: int) -> Any:
        try:
            import xarray as xr
        except ModuleNotFoundError as error:
            raise MissingPackageError("xarray is not installed; pip install 'hpcmarl[analysis]'") from error
        groups, layout = read_episode(self._table, number)
        alone = len(groups) <= 2  # the steps of the environment, and one policy
        variables, coordinates = dict[str, Any](), dict[str, Any]()
        for group, columns in groups.items():
            prefix = "" if alone or group == ENVIRONMENT else f"{group}."
            own = layout[f"steps/{group}"]
            for name, values in columns.items():
                # xarray writes no files with "/" in the names of variables
                variables[prefix + name.replace("/", ".")] = _variable(own, name, values, prefix)
            for dimension, labels in own.labels.items():
                coordinates[prefix + dimension] = [label.rstrip(b"\0").decode() for label in labels]
        facts = {name: values[number].item() for name, values in self._table.columns.items()}
        return xr.Dataset(variables, coordinates, facts)


def _variable(layout: GroupLayout, name: str, values: Array, prefix: str) -> tuple[Any, ...]:
    column = layout.columns[name]
    return ("step", *(prefix + dimension for dimension in column.dims)), values, column.attributes
