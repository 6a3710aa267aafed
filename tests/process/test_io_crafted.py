"""Crafted trajectories: each command reads them in a separate process."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from tests.support.chunks import fill

COMMANDS = """
import json, os, resource, sys
from pathlib import Path
from hpcmarl.cli.data import data_app
from hpcmarl.errors import HpcmarlError
from typer.testing import CliRunner
path, out = sys.argv[1:3]
import hpcmarl.io.describe, hpcmarl.analysis.export
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
told = {}
commands = {"inspect": [], "verify": ["--json"], "merge": ["--out", out + "/m.h5"]}
commands["export"] = ["--out", out + "/x.csv", "--table", "agent"]
for command, more in commands.items():
    result = CliRunner().invoke(data_app, [command, path, *more])
    error = result.exception
    words = str(error) if isinstance(error, HpcmarlError) else repr(error)
    told[command] = [result.exit_code, words, result.stdout]
Path(path).rename(path + ".partial")
result = CliRunner().invoke(data_app, ["salvage", path + ".partial", "--json"])
told["salvage"] = [result.exit_code, repr(result.exception), result.stdout]
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"told": told, "grown": grown, "left": sorted(os.listdir(out))}))
"""


def replace(file, name, shape, dtype, **options):
    del file[name]
    return file.create_dataset(name, shape, dtype, **options)


def harm_index(file):
    for name in list(file["segments"]):
        if name not in ("segment", "committed"):
            fill(
                replace(
                    file,
                    f"segments/{name}",
                    (1 << 25,),
                    file[f"segments/{name}"].dtype,
                    chunks=(1 << 22,),
                    compression="gzip",
                )
            )


def harm_row(file):
    fill(
        replace(file, "steps/agent/obs", (80, 3, 1 << 24), "f4", chunks=(80, 3, 1 << 14), compression="gzip")
    )


def harm_row_of_nothing(file):
    replace(file, "steps/agent/obs", (80, 0, 1 << 60), "f4", chunks=(80, 1, 1), maxshape=(None, None, None))


def harm_labels(file):
    replace(file, "steps/agent/agent", (1 << 20,), "S4096", chunks=(1 << 10,)).make_scale("agent")


def harm_lengths(file):
    length, start = file["segments/length"], file["segments/start"]
    count = len(length)
    lengths = np.full(count, (1 << 64) // count, np.uint64)
    lengths[-1] += np.uint64(((1 << 64) - int(lengths.sum(dtype=object)) + 80) % (1 << 64))
    lengths = lengths.astype(np.int64)
    length[...] = lengths
    start[...] = np.concatenate([[0], np.cumsum(lengths)[:-1]])


def harm_dimension(file):
    target = file.create_dataset("target", data=np.zeros(3, "f4"))
    target.make_scale("target")
    file["steps/agent/reward"].dims[1].attach_scale(target)
    file["steps/agent/reward"].dims[1].detach_scale(file["steps/agent/agent"])
    del file["target"]


def harm_committed(file):
    del file["segments/committed"]
    file.create_group("segments/committed")


def harm_index_shape(file):
    replace(file, "segments/length", (), "i8")


def harm_steps(file):
    del file["steps"]
    file["steps"] = np.zeros(3)


HARM = [value for name, value in sorted(globals().items()) if name.startswith("harm_")]


@pytest.mark.parametrize("harm", HARM)
def test_crafted_trajectories_are_rejected_by_all_commands(shard, tmp_path, harm):
    with h5py.File(shard, "r+") as file:
        harm(file)
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(shard), str(out)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for command in ("inspect", "merge", "export"):
        code, error, _ = result["told"][command]
        assert code == 1, (command, result["told"][command])
        assert error.startswith(str(shard)), (command, error)
        assert "\n" not in error
    verified = json.loads(result["told"]["verify"][2])["files"][0]
    assert verified["status"] == "bad"
    salvaged = json.loads(result["told"]["salvage"][2])["files"][0]
    assert salvaged["status"] == "failed", salvaged
    assert str(shard) in salvaged["note"]
    assert result["left"] == []
    assert result["grown"] < 200_000, f"{result['grown']} KiB"
