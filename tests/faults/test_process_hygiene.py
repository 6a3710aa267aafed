"""Traces of a run on the machine: listening sockets, modes of files, and secrets.

A run opens no listening sockets and writes no secrets. The modes of its files follow the user's umask.
"""

import os
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hpcmarl.bench.faults.jobs import Job, Progress, wait_until
from tests.support.worlds import run_world

CONFIG = """
env: {id: mpe2.simple_spread_v3}
algo: {unroll: 5, network: {hidden: [8]}}
topology: {environments_per_actor: 2}
trajectories: {shard_seconds: 0.5}
checkpoint: {every_updates: 2}
eval: {episodes: 1}
stop: {seconds: 600}
logging: {progress: true, level: debug, every_seconds: 0.001}
"""
LISTENING = "0A"


def listening_sockets(process):
    """Return the sockets of a process that wait for connections.

    Each is (family, address), for TCP, UDP and named local sockets.
    """
    own = set()
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith("socket:["):
            own.add(target[8:-1])
    found = []
    for name, state, inode in (("tcp", 3, 9), ("tcp6", 3, 9), ("udp", 3, 9), ("udp6", 3, 9)):
        for line in Path(f"/proc/{process}/net/{name}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[inode] in own and (name.startswith("udp") or cells[state] == LISTENING):
                found.append((name, cells[1]))
    for line in Path(f"/proc/{process}/net/unix").read_text().splitlines()[1:]:
        cells = line.split()
        if cells[6] in own and int(cells[3], 16) & 0x10000:
            found.append(("unix", cells[-1]))
    return found


def test_listening_socket_is_detected():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = struct.pack(">H", server.getsockname()[1]).hex().upper()
        assert any(
            name == "tcp" and address.endswith(port) for name, address in listening_sockets(os.getpid())
        )


def test_running_rank_has_no_listening_sockets(tmp_path):
    """With one rank, all sockets belong to hpcmarl; between ranks an MPI library opens its own."""
    (tmp_path / "c.yaml").write_text(CONFIG)
    job = Job(["train", str(tmp_path / "c.yaml"), "--run-dir", str(tmp_path / "run")], tmp_path / "out")
    try:
        assert wait_until(lambda: Progress(tmp_path / "run").version > 2, 120), job.closing_lines()
        assert [found for process in job.processes() for found in listening_sockets(process)] == []
    finally:
        job.kill()


@pytest.mark.parametrize(
    ("mask", "file_mode", "directory_mode"),
    [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755), (0o002, 0o664, 0o775)],
)
def test_modes_follow_the_umask(tmp_path, mask, file_mode, directory_mode):
    before = os.umask(mask)
    try:
        changes = (
            "trajectories={enabled: true, shard_seconds: 0.2}",
            "checkpoint.every_updates=1",
            "logging.every_seconds=0.001",
        )
        run_world(1, tmp_path / "run", *changes)
        (tmp_path / "run" / "trajectories" / "rank-0000" / "shard-000099.h5.partial").write_bytes(b"")
        leave_partial_files(tmp_path / "run")
    finally:
        os.umask(before)
    names = set()
    for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")]:
        wanted = directory_mode if path.is_dir() else file_mode
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
        names.add(path.name.split("-")[0])
    assert {
        "run",
        "config.yaml",
        "summary.json",
        "metrics.csv",
        "metrics.h5",
        "checkpoint",
        "shard",
        "rank",
        "open.h5",
    } <= names


def leave_partial_files(run):
    """Write a temporary file, as a killed writer leaves it, and a log."""
    import logging

    from hpcmarl.io.hdf5.fault_tolerant_file import FaultTolerantFile
    from hpcmarl.runtime.log_files import LogFile

    FaultTolerantFile(run / "open.h5").close()
    handler = LogFile(run / "logs" / "rank-0000.log")
    handler.emit(logging.LogRecord("x", logging.INFO, "x", 1, "x", (), None))
    handler.close()


@pytest.mark.parametrize("broken", [False, True])
def test_no_secret_of_the_environment_is_written(tmp_path, broken):
    marker = "hunter2-0123456789"
    secrets = {
        name: marker
        for name in (
            "HPCMARL_TEST_SECRET",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "WANDB_API_KEY",
            "GITHUB_TOKEN",
        )
    }
    (tmp_path / "c.yaml").write_text(CONFIG)
    changes = ["faults.raise_in=learner", "faults.after=20"] if broken else ["stop.updates=20"]
    command = [
        sys.executable,
        "-m",
        "hpcmarl",
        "train",
        str(tmp_path / "c.yaml"),
        *changes,
        "--run-dir",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, env={**os.environ, **secrets}, capture_output=True, timeout=200)
    assert done.returncode == (1 if broken else 0), done.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) >= 3
    for text in (done.stdout, done.stderr, *(path.read_bytes() for path in files)):
        assert marker.encode() not in text
