"""`hpcmarl bench sparse`: the command on small networks, and the values in its rows."""

import json

import pytest

from hpcmarl.bench import sparse
from hpcmarl.comm.protocol import HEADER_BYTES, sparse_bytes
from hpcmarl.nets import sparse as forms


def test_bench_sparse_has_a_row_per_width_and_sparsity(run, monkeypatch):
    monkeypatch.setattr(sparse, "WIDTHS", (8, 40))
    monkeypatch.setattr(sparse, "SPARSITIES", (0.0, 0.9))
    # Fixed times, so that the choice of the form does not depend on the load of the machine.
    monkeypatch.setattr(forms, "_best_seconds", lambda calls: [1.0, 0.1])
    code, out, _ = run("bench", "sparse", "--seconds", "0.2", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0
    assert [(row["width"], row["sparsity"]) for row in rows] == [(8, 0.0), (8, 0.9), (40, 0.0), (40, 0.9)]
    for row in rows:
        width = row["width"]
        weights = 128 * width + 6 * width * width + 16 * width
        size = weights + width + 6 * width + 16  # with biases
        assert all(
            row[f"{kind}_us"] > 0
            for kind in (
                "dense",
                "sparse",
                "csr",
                "dense_first",
                "sparse_first",
                "dense_message",
                "sparse_message",
                "dense_learning",
                "sparse_learning",
            )
        )
        assert row["dense_memory_bytes"] == 4 * weights
        assert row["dense_bytes"] == HEADER_BYTES + 4 * size
        if row["sparsity"] == 0:
            assert row["sparse_bytes"] == row["dense_bytes"]
            assert row["sparse_memory_bytes"] == row["dense_memory_bytes"]
            assert set(row["forms"]) == {"dense"}
        else:
            there = size - weights + 0.1 * weights
            assert row["sparse_bytes"] == pytest.approx(
                HEADER_BYTES + sparse_bytes(size, round(there)), rel=0.02
            )
            assert row["forms"].count("csr") >= 3
            assert row["sparse_memory_bytes"] < 0.5 * row["dense_memory_bytes"]
