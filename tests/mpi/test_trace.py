"""The trace of real ranks: a run, a run with workers, and a run that is killed."""

import os
import signal

import pytest

from hpcmarl.analysis.timeline import Selection, trace_directory, write_timeline
from tests.support.launch import rank_processes, ranks_take_seconds, run_train
from tests.support.timelines import check_arrows, check_nesting, events_of, names_of

pytestmark = [pytest.mark.mpi, ranks_take_seconds]
TRACE = "logging.trace=true"
FLUSHED_BYTES = 4096  # of a file: its header and a hundred spans


def timeline(run):
    out = run / "timeline.json.gz"
    summary = write_timeline(trace_directory(run, None), out, Selection())
    return summary, events_of(out)


def test_every_rank_has_spans_and_arrows_run_forward(config, tmp_path):
    job = run_train("openmpi", 4, config, "--run-dir", str(tmp_path / "run"), TRACE, "stop.updates=20")
    assert job.code == 0, job.text
    summary, events = timeline(tmp_path / "run")
    assert (summary.ranks, summary.damaged, summary.ignored_bytes) == ({0, 1, 2, 3}, [], 0)
    check_nesting(events)
    assert check_arrows(events) > 40
    assert all("receive EXIT" in names_of(events, rank) for rank in range(4))


def test_workers_have_a_timeline_of_their_own(config, tmp_path):
    changes = (TRACE, "topology.workers_per_actor=1", "topology.environments_per_actor=4", "stop.updates=20")
    job = run_train("openmpi", 3, config, "--run-dir", str(tmp_path / "run"), *changes)
    assert job.code == 0, job.text
    _, events = timeline(tmp_path / "run")
    assert {"environment step", "wait"} <= names_of(events, 2)
    check_nesting(events)
    check_arrows(events)


def test_killed_run_keeps_what_was_flushed(config, tmp_path):
    run = tmp_path / "run"

    def kill(session):
        sizes = [file.stat().st_size for file in run.glob("trace/*/*.trace")]
        if len(sizes) == 3 and min(sizes) > FLUSHED_BYTES:
            for process in rank_processes(str(run)).values():
                os.kill(process, signal.SIGKILL)

    changes = (TRACE, "stop.updates=1000000", "checkpoint.every_updates=10")
    run_train("openmpi", 3, config, "--run-dir", str(run), *changes, meanwhile=kill)
    assert not (run / "summary.json").exists()
    summary, events = timeline(run)
    assert summary.ranks == {0, 1, 2}
    assert summary.spans > 20
    check_nesting(events)
    check_arrows(events, complete=False)
