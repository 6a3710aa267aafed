"""Figures of a start, and the sources that they are read from."""

import os

from hpcmarl.bench.startup import Usage, summarise, usage_of


def test_figures_are_medians_and_maxima_by_role():
    found = {
        rank: Usage(float(rank), 100.0 + rank, 50.0 + rank, 10 * rank, 1000 * rank, rank == 1)
        for rank in range(5)
    }
    told = summarise({0: "server", 1: "learner", 2: "actor", 3: "actor", 4: "actor"}, found)
    assert told["actor"] == {
        "cpu_seconds_median": 3.0,
        "cpu_seconds_max": 4.0,
        "rss_mb_median": 103.0,
        "uss_mb_median": 53.0,
        "files_opened_median": 30,
        "bytes_read_median": 3000,
        "imports_torch": False,
    }
    assert (told["server"]["imports_torch"], told["learner"]["imports_torch"]) == (False, True)
    assert "server" not in summarise({0: "server", 1: "learner"}, {1: found[1]})


def test_a_process_is_read_from_outside(tmp_path):
    (tmp_path / str(os.getpid())).write_bytes((7).to_bytes(8, "little"))
    own = usage_of(os.getpid(), tmp_path)
    assert own.cpu_seconds > 0
    assert 0 < own.uss_mb < own.rss_mb
    assert own.files_opened > 7
    assert own.bytes_read > 0
