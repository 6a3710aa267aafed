"""Export as Parquet: metrics of a run, and flat trajectories of one policy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hpcmarl.export.flat import blocks, facts_of, origin_of
from hpcmarl.export.trajectories import RecordedRun
from hpcmarl.io.atomic import write_atomically
from hpcmarl.io.metric_reference import unit_of
from hpcmarl.io.metrics import read_metrics
from hpcmarl.types import Array, PolicySpec

METADATA = b"hpcmarl"


def write_metrics_parquet(run: Path, path: Path) -> dict[str, Any]:
    """Write the metrics of a run, a column of float64 for each figure; `version` is int64.

    A value that a row does not have is null. Each field has its unit as metadata.

    Args:
        run: The run directory.
        path: File to create.

    Returns:
        path, rows, columns and bytes (their numbers).

    Raises:
        FormatError: The directory holds no metrics, or they are damaged.
        StorageError: If the file cannot be written.
    """
    columns = read_metrics(run)
    fields, arrays = [], []
    for name, values in columns.items():
        array = values.astype(np.int64) if name == "version" else values
        arrays.append(pa.array(array, from_pandas=True))
        fields.append(pa.field(name, arrays[-1].type, metadata={"units": unit_of(name)}))
    table = pa.table(arrays, schema=pa.schema(fields))
    write_atomically(path, lambda partial: pq.write_table(table, partial))
    return {
        "path": str(path),
        "rows": table.num_rows,
        "columns": table.num_columns,
        "bytes": path.stat().st_size,
    }


def write_flat_parquet(run: RecordedRun, path: Path, policy: PolicySpec) -> dict[str, Any]:
    """Write the flat rows of one policy; arrays are lists of a fixed length, in C order.

    Args:
        run: The episodes.
        path: File to create.
        policy: The policy.

    Returns:
        path, episodes, rows and bytes (their numbers).

    Raises:
        FormatError: If a shard is damaged.
        StorageError: If the file cannot be written.
    """
    facts = {**origin_of(run), **facts_of(run, policy)}
    counts = {"rows": 0}

    def write(partial: Path) -> None:
        counts["rows"] = _write_blocks(partial, blocks(run, policy), facts)

    write_atomically(path, write)
    return {"path": str(path), "episodes": len(run), **counts, "bytes": path.stat().st_size}


def _write_blocks(path: Path, parts: Iterable[Mapping[str, Array]], facts: Mapping[str, Any]) -> int:
    """Write blocks as row groups and return the number of rows."""
    writer, rows = None, 0
    try:
        for block in parts:
            batch = pa.table({name: _arrow(values) for name, values in block.items()})
            if writer is None:
                schema = batch.schema.with_metadata({METADATA: json.dumps(facts)})
                writer = pq.ParquetWriter(path, schema)
            writer.write_table(batch)
            rows += batch.num_rows
    finally:
        if writer is not None:
            writer.close()
    return rows


def _arrow(values: Array) -> Any:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values[0].size)
