"""Crafted trajectories, read by every command in a process of its own."""

import json
import subprocess
import sys

import h5py
import pytest

HARM = [value for name, value in sorted(globals().items()) if name.startswith("harm_")]
COMMANDS = """
import json, os, resource, sys
from pathlib import Path
from hpcmarl.cli_data import data_app
from hpcmarl.errors import HpcmarlError
from typer.testing import CliRunner
path, out = sys.argv[1:3]
import hpcmarl.io.describe, hpcmarl.analysis.export
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
told = {}
commands = {"inspect": [], "verify": ["--json"], "merge": ["--out", out + "/m.h5"], "export": ["--out", out + "/x.csv", "--table", "agent"]}
for command, more in commands.items():
    result = CliRunner().invoke(data_app, [command, path, *more])
    error = result.exception
    told[command] = [result.exit_code, str(error) if isinstance(error, HpcmarlError) else repr(error), result.stdout]
Path(path).rename(path + ".partial")
result = CliRunner().invoke(data_app, ["salvage", path + ".partial", "--json"])
told["salvage"] = [result.exit_code, repr(result.exception), result.stdout]
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"told": told, "grown": grown, "left": sorted(os.listdir(out))}))
"""


@pytest.mark.parametrize("harm", HARM)
def test_crafted_trajectories_are_rejected_by_all_commands(shard, tmp_path, harm):
    with h5py.File(shard, "r+") as file:
        harm(file)
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run([sys.executable, "-c", COMMANDS, str(shard), str(out)], capture_output=True, text=True, timeout=100)
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
