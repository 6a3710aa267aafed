"""A league as a job over two nodes that is stopped by a signal, requeued and resumed.

The pool and the results of its games are kept.
"""

import pytest

from hpcmarl.io.pool import list_snapshots

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.mpi,
    pytest.mark.slow("jobs wait for Slurm: scheduling, requeueing and time limits take seconds"),
]
# One team runs on each node. Two members have four terms each. Each step sleeps, so that there is time to
# send a signal.
LEAGUE = """
name: league
env: {id: "matrix:rps"}
algo: {name: ma_trace, critic: independent, unroll: 1, network: {hidden: [8]}}
topology:
  server: dedicated
  environments_per_actor: 4
  groups: [{delay: {step: 0.02}}, {delay: {step: 0.02}}]
trajectories: {enabled: false}
stop: {updates: 400}
logging: {progress: false, level: debug, every_seconds: 0.01}
league:
  members: {player: {copies: 2}}
  matchmaking: {name: pfsp}
  freeze: {least_updates: 100, most_updates: 100}
  evaluation: {episodes: 8, environments: 4, final_seconds: 2}
"""


def test_two_node_league_is_requeued_and_resumes_its_pool(cluster):
    (cluster.directory / "league.yaml").write_text(LEAGUE)
    run = cluster.submit("league", "--nodes=2", "--ntasks-per-node=2", config="league.yaml")
    pool = run.directory / "pool"
    # at least the two initial snapshots and two terms
    cluster.until(lambda: pool.is_dir() and len(list_snapshots(pool)) >= 4, 60, lambda: run.output)
    cluster.ask("scancel", "--batch", "--signal=USR1", run.job)
    cluster.until(lambda: run.summary, 30, lambda: run.output)
    stopped = run.summary
    assert stopped["status"] == "interrupted"
    before = set(list_snapshots(pool))
    summary = run.finish()
    assert int(cluster.show(run.job, "Restarts")) == 1
    assert len(set(run.hosts().values())) == 2
    assert (
        before
        < set(list_snapshots(pool))
        == {f"player-{member}-{term:06d}" for member in (1, 2) for term in range(5)}
    )
    assert {name: member["updates"] for name, member in summary["members"].items()} == {
        "player-1": 400,
        "player-2": 400,
    }
    assert summary["resumed_from"]
    assert summary["evaluation_games"] > stopped["evaluation_games"]
    assert summary["seconds"] > stopped["seconds"]
    assert not summary["lost_ranks"]
