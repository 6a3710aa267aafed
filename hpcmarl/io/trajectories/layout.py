"""The layout of a trajectory file: its groups and datasets, with their dimensions, types and units.

A layout is built from the specification of an environment, or read from a file. docs/files.md shows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np

from hpcmarl.errors import ConfigError, FormatError
from hpcmarl.io.hdf5.schema import LARGEST_CHUNK, read_attribute
from hpcmarl.types import Array, EnvironmentSpec, PolicySpec, fields_of

ENVIRONMENT = "env"
INDEX = "segments"
COMMITTED = "committed"
OBSERVATION = "obs"  # a dataset; for records a group with a dataset for each key
CHUNK_BYTES = 1 << 19
LARGEST_LABELS = 16 << 20  # bytes of the names along a dimension; readers refuse more


@dataclass(frozen=True)
class Column:
    """One dataset [rows, *sizes].

    Attributes:
        dtype: Type of the values.
        dims: Names of the dimensions after the rows.
        sizes: Their sizes.
        attributes: Attributes of the dataset: units, long_name and others.
    """

    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    sizes: tuple[int, ...]
    attributes: dict[str, Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.sizes, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class GroupLayout:
    """Datasets that grow together along their rows.

    Attributes:
        rows: Name of the row dimension: "step" or "segment".
        columns: Datasets by name; "obs/KEY" is the dataset KEY in the group obs.
        labels: Dimension -> names along it, such as those of the agents.
    """

    rows: str
    columns: dict[str, Column]
    labels: dict[str, tuple[bytes, ...]]

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk.

        It is a power of two. Chunks of the widest dataset have at most CHUNK_BYTES, but at least one row.
        """
        widest = max(1, *(column.row_bytes for column in self.columns.values()), 1)
        return 1 << min(max(CHUNK_BYTES // widest, 1).bit_length() - 1, 12 if self.rows == "step" else 9)


Layout = dict[str, GroupLayout]


def _column(
    dtype: Any,
    long_name: str,
    units: str = "1",
    dims: tuple[str, ...] = (),
    sizes: tuple[int, ...] = (),
    **more: Any,
) -> Column:
    return Column(np.dtype(dtype), dims, sizes, {"units": units, "long_name": long_name, **more})


INDEX_COLUMNS = {
    "slot": _column("i4", "environment slot in its rank", "index"),
    "worker": _column("i4", "worker of the actor that stepped the slot; -1: the actor itself", "index"),
    "episode": _column("i8", "episode of the slot", "index"),
    "first_step": _column("i8", "step of the episode at the segment's first row", "index"),
    "start": _column("i8", "first row in the groups under /steps", "index"),
    "length": _column("i8", "number of rows", "steps"),
    "terminated": _column("?", "the episode terminated at the last row"),
    "truncated": _column("?", "the episode was truncated at the last row"),
    "version": _column("i8", "version of the parameters that acted", "updates"),
    "return_mean": _column(
        "f8",
        "return of the episode that ended, sum over steps of the mean over agents; NaN if none ended",
        "reward",
    ),
    "actor": _column("i4", "number of the actor among the actors of its run", "index"),
    "rank": _column("i4", "rank that recorded the segment", "index"),
    "run": _column("i4", "run that recorded the segment, its place in the root attribute runs", "index"),
    "start_number": _column("i4", "start of the run that recorded the segment", "index"),
    "rollout": _column(
        "i8", "rollout that the segment was cut from, counted on its rank in its start", "index"
    ),
}
# Columns that identify the run, start, rank and rollout of a segment. Files of earlier versions of hpcmarl
# have these values only in their root attributes, or not at all.
ORIGIN = ("rank", "run", "start_number", "rollout")


def _feature_dims(shape: tuple[int, ...]) -> tuple[str, ...]:
    return ("feature",) if len(shape) == 1 else tuple(f"feature_{place}" for place in range(len(shape)))


def _observation(policy: PolicySpec, long_name: str) -> dict[str, Column]:
    """Return the column of observations, or one column for each entry of records."""
    agents = len(policy.agents)
    if not policy.observation_parts:
        shape = policy.observation_shape
        dims = ("agent", *_feature_dims(shape))
        return {OBSERVATION: _column(policy.observation_type, long_name, "1", dims, (agents, *shape))}
    columns, taken = {}, set[str]()
    for place, part in enumerate(policy.observation_parts):
        name = part.key.replace("/", ".")
        while name in taken:
            name += "_"
        taken.add(name)
        dims = ("agent", *(f"{name}_{axis}" for axis in range(len(part.shape))))
        columns[f"{OBSERVATION}/{part.key}"] = _column(
            part.dtype, f"{long_name}: {part.key}", "1", dims, (agents, *part.shape), place=place
        )
    return columns


def observation_columns(columns: Mapping[str, Column]) -> dict[str, Column]:
    """Return the columns of observations; the entries of records are in the order of the record."""
    found = {name: column for name, column in columns.items() if name.partition("/")[0] == OBSERVATION}
    return dict(sorted(found.items(), key=lambda item: int(item[1].attributes.get("place", 0))))


def observations_of(values: Mapping[str, Array], columns: Mapping[str, Column]) -> Array:
    """Return observations from the values of their columns, entries of records put together.

    Args:
        values: Column -> values, shape [..., *shape of an observation].
        columns: Columns of the group.

    Returns:
        Shape [..., *observation_shape] (types.PolicySpec).

    Raises:
        KeyError: If the group has no observations.
    """
    own = observation_columns(columns)
    if OBSERVATION in own or not own:
        return values[OBSERVATION]
    first, column = next((values[name], column) for name, column in own.items())
    shape = first.shape[: first.ndim - len(column.sizes) + 1]
    dtype = [(name[len(OBSERVATION) + 1 :], column.dtype, column.sizes[1:]) for name, column in own.items()]
    records: Array = np.empty(shape, np.dtype(dtype))
    for name in own:
        records[name[len(OBSERVATION) + 1 :]] = values[name]
    return records


def columns_of(obs: Array) -> dict[str, Array]:
    """Return observations by the names of their columns."""
    return {f"{OBSERVATION}/{key}" if key else OBSERVATION: part for key, part in fields_of(obs).items()}


def _policy_columns(policy: PolicySpec) -> dict[str, Column]:
    agents, action = len(policy.agents), policy.action

    def per_agent(dtype: Any, long_name: str, units: str = "1") -> Column:
        return _column(dtype, long_name, units, ("agent",), (agents,))

    bounds = (
        {"action_low": list(action.low), "action_high": list(action.high)}
        if action.kind == "continuous"
        else {}
    )
    columns = {
        **_observation(policy, "observation before the step"),
        "action": _column(
            action.dtype,
            "action taken",
            "1" if action.kind == "continuous" else "index",
            ("agent", *(("component",) if action.shape else ())),
            (agents, *action.shape),
            action_kind=action.kind,
            action_sizes=list(action.sizes),
            **bounds,
        ),
        "reward": per_agent("f4", "reward of the step", "reward"),
        "alive": per_agent("?", "the agent acts at this step"),
        "logp": per_agent("f4", "log probability of the action under the acting policy", "nat"),
        "terminated": per_agent("?", "the agent's episode terminated at this step"),
        "truncated": per_agent("?", "the agent's episode was truncated at this step"),
    }
    if policy.has_mask:
        columns["action_mask"] = _column(
            "?", "allowed actions", "1", ("agent", "choice"), (agents, action.mask_size)
        )
    return columns


def layout_of_spec(spec: EnvironmentSpec) -> Layout:
    """Return the layout for the shards of an environment.

    Raises:
        ConfigError: If a policy has a name that the layout reserves.
    """
    layout: Layout = {}
    environment = {
        "episode_start": _column("?", "first step of an episode"),
        "episode_end": _column("u1", "0 goes on, 1 terminated, 2 truncated"),
    }
    final_environment: dict[str, Column] = {}
    if spec.state_size is not None:
        environment["state"] = _column(
            "f4", "state of the environment before the step", "1", ("state_feature",), (spec.state_size,)
        )
        final_environment["state"] = _column(
            "f4",
            "state after the last row; zeros once terminated",
            "1",
            ("state_feature",),
            (spec.state_size,),
        )
    for policy in spec.policies:
        if policy.name == ENVIRONMENT:
            raise ConfigError(
                'policies.env: trajectory files use the name "env" for the environment itself; choose '
                "another name"
            )
        labels = {"agent": tuple(agent.encode() for agent in policy.agents)}
        layout[f"steps/{policy.name}"] = GroupLayout("step", _policy_columns(policy), labels)
        final = {
            **_observation(policy, "observation after the last row; zeros once terminated"),
            "episode_return": _column(
                "f8", "this policy's return of the episode that ended; NaN if none ended", "reward"
            ),
        }
        layout[f"final/{policy.name}"] = GroupLayout("segment", final, labels)
    layout[f"steps/{ENVIRONMENT}"] = GroupLayout("step", environment, {})
    if final_environment:
        layout[f"final/{ENVIRONMENT}"] = GroupLayout("segment", final_environment, {})
    layout[INDEX] = GroupLayout("segment", dict(INDEX_COLUMNS), {})
    return layout


def format_version(layout: Layout) -> int:
    """Return the version of the format that a layout needs.

    Readers of version 1 take all observations for arrays of float32.
    """
    seen = [
        column
        for group in layout.values()
        for name, column in group.columns.items()
        if name.partition("/")[0] == OBSERVATION and (name != OBSERVATION or column.dtype != np.float32)
    ]
    return 2 if seen else 1


def layout_of_file(file: h5py.File) -> Layout:
    """Return the layout of an open trajectory file.

    The columns of ORIGIN are included even if the file does not have them.

    Raises:
        FormatError: If a group or dataset is missing or has another form.
    """
    where = file.filename
    paths = [
        f"{top}/{name}"
        for top in ("steps", "final")
        if isinstance(file.get(top), h5py.Group)
        for name in file[top]
    ]
    layout = {}
    for path in [*paths, INDEX]:
        group = file.get(path)
        if not isinstance(group, h5py.Group):
            raise FormatError(f"{where}: the group {path} is missing; the file is damaged or foreign")
        layout[path] = _group_layout(group, "step" if path.startswith("steps/") else "segment")
    columns = {name: INDEX_COLUMNS[name] for name in ORIGIN} | layout[INDEX].columns
    layout[INDEX] = replace(layout[INDEX], columns=columns)
    if f"steps/{ENVIRONMENT}" not in layout or not set(INDEX_COLUMNS) <= set(columns):
        raise FormatError(
            f"{where}: /steps/{ENVIRONMENT} or a column of /{INDEX} is missing; the file is damaged or "
            "foreign"
        )
    for name, column in INDEX_COLUMNS.items():
        stored = layout[INDEX].columns[name]
        if stored.dtype != column.dtype or stored.sizes:
            raise FormatError(
                f"{where}: /{INDEX}/{name} has type {stored.dtype}, not {column.dtype}; the file is damaged "
                "or foreign"
            )
    known = {name: layout[INDEX].columns[name] for name in INDEX_COLUMNS}
    layout[INDEX] = replace(layout[INDEX], columns={**known, **layout[INDEX].columns})
    return layout


def _group_layout(group: h5py.Group, rows: str) -> GroupLayout:
    columns, labels = {}, {}
    for name, item in _datasets(group):
        if item.is_scale:
            if item.dtype.kind == "S" and item.ndim == 1:
                if item.size * item.dtype.itemsize > LARGEST_LABELS:
                    raise FormatError(
                        f"{group.file.filename}: {item.name} declares {item.size} names; the file is damaged "
                        "or crafted"
                    )
                labels[name] = tuple(bytes(label) for label in item[()])
            continue
        if item.ndim == 0:
            continue
        _check_rows(item)
        dims = tuple(
            item.dims[axis][0].name.rsplit("/", 1)[-1] if len(item.dims[axis]) else f"dim_{axis}"
            for axis in range(1, item.ndim)
        )
        attributes = {key: read_attribute(item, key) for key in item.attrs if key != "DIMENSION_LIST"}
        columns[name] = Column(item.dtype, dims, tuple(item.shape[1:]), attributes)
    return GroupLayout(rows, columns, labels)


def _datasets(group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield the datasets of a group by their names in it, with those of its group of observations.

    Raises:
        FormatError: If the group holds another group.
    """
    waiting = [("", group)]
    while waiting:
        prefix, holder = waiting.pop()
        for name, item in holder.items():
            path = prefix + name
            if isinstance(item, h5py.Group) and path.partition("/")[0] == OBSERVATION:
                waiting.append((f"{path}/", item))
            elif isinstance(item, h5py.Dataset):
                yield path, item
            else:
                raise FormatError(
                    f"{group.file.filename}: {item.name} is not a dataset; the file is damaged or foreign"
                )


def _check_rows(dataset: h5py.Dataset) -> None:
    """Check that rows are small enough, and that no chunk splits a row.

    Readers load whole rows into memory. Writers put whole rows into a chunk, whose size check_safe limits.

    Raises:
        FormatError: If the dataset has other rows.
    """
    row = math.prod(max(size, 1) for size in dataset.shape[1:]) * dataset.dtype.itemsize
    if row > LARGEST_CHUNK or (
        dataset.chunks is not None and dataset.chunks[1:] != tuple(max(size, 1) for size in dataset.shape[1:])
    ):
        raise FormatError(
            f"{dataset.file.filename}: {dataset.name} has rows {list(dataset.shape[1:])} that are too large "
            "or split over chunks; the file is damaged or crafted"
        )
