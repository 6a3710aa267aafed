"""`hpcmarl simulate --from-run` with the times of a run."""

import json

from tests.support.worlds import run_world


def test_a_run_is_predicted_by_its_own_times(run, tmp_path):
    """Compare a run with its simulation.

    Virtual ranks share one thread. Sleeping actors do not block the other ranks, so that all times are those
    of the delays.
    """
    delays = "topology.groups=[{delay: {trajectory: 0.05}}, {delay: {trajectory: 0.1}}]"
    changes = (
        "algo.name=reinforce",
        "optimizer.name=nigt",
        "topology.environments_per_actor=1",
        "topology.actors_per_learner=0",
    )
    run_world(
        2,
        tmp_path / "run",
        delays,
        *changes,
        "rounds.batch=2",
        "stop.updates=6",
        "logging.every_seconds=0.05",
    )
    resumed = ("stop.updates=10", "logging.every_seconds=0.05")
    run_world(2, tmp_path / "run", delays, *changes, "rounds.batch=2", *resumed, resume=str(tmp_path / "run"))
    code, out, _ = run("simulate", "--from-run", tmp_path / "run", "--json")
    told = json.loads(out)
    assert code == 0
    fast, slow = told["trajectory_seconds"]
    assert 0.05 <= fast < slow
    assert slow >= 0.1
    assert told["rules"]["sync"]["round_seconds"] >= 0.1
    assert told["rules"]["afedpg"]["trajectories_per_second"] <= 1 / 0.05 + 1 / 0.1
    assert told["measured_rule"] == "sync"
