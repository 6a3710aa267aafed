"""A run that stops before the end of its Slurm job."""

import time

import pytest

from hpcmarl.comm.local import LocalWorld
from hpcmarl.config.file import load_config
from hpcmarl.training import prepare
from tests.support.worlds import SPREAD, summary


@pytest.mark.parametrize(("left", "margin"), [(1000.0, 60.0), (40.0, 10.0)])
def test_run_stops_a_margin_before_the_job_end(left, margin, tmp_path):
    from hpcmarl.runtime.rank import Rank

    context = prepare(
        LocalWorld(1).transports[0], load_config(SPREAD), str(tmp_path), None, time.time() + left
    )
    rank = Rank(context)
    server = rank.roles["server"]
    assert server.stop_at == pytest.approx(context.job_end - margin, abs=1.0)
    server.stop_at = time.time()
    while rank.exit_code is None:
        rank.step()
    rank.close()
    assert rank.exit_code == 75
    assert summary(tmp_path)["status"] == "interrupted"
