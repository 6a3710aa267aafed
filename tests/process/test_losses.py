"""Killing a frozen process that is identified by its number and start time."""

import subprocess

from hpcmarl.launch.processes import kill_process, started_at


def test_kill_process_checks_the_start_time():
    process = subprocess.Popen(["sleep", "60"])
    start = started_at(process.pid)
    assert start > 0
    assert not kill_process(process.pid, start + 1)
    assert process.poll() is None
    assert kill_process(process.pid, start)
    assert process.wait(10) == -9
    assert not kill_process(process.pid, start)
