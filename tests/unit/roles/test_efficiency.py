"""How well a run uses its cores, and the advice of its last lines."""

from dataclasses import replace

import pytest

from hpcmarl.comm.topology import assign_roles
from hpcmarl.config import TopologyConfig
from hpcmarl.config.file import load_config
from hpcmarl.envs import describe
from hpcmarl.roles import efficiency
from hpcmarl.roles.efficiency import Efficiency, bare_processes, closing_lines, measure_bare
from tests.support.contexts import make_context
from tests.support.worlds import ECHO, SPREAD

SUMMARY = {
    "share_of_bare": 0.8,
    "bare_env_steps_per_second": 5000.0,
    "bare_processes": 2,
    "time_shares": {"actors": {"acting": 0.3}},
    "unused_share": 0.0,
    "unused_env_steps": 0,
    "replay_shortfall": None,
}


@pytest.fixture
def usage(monkeypatch):
    """Return the figures of two groups of one actor each and a server, on two hosts of two cores."""
    monkeypatch.setattr(efficiency, "cores_of_host", lambda ranks: 2)
    groups = TopologyConfig(groups=2, actors_per_learner=1, server="dedicated")
    return Efficiency(load_config(SPREAD), assign_roles(5, ["a", "a", "a", "b", "b"], groups))


@pytest.mark.parametrize(
    ("hosts", "cores", "processes"), [(["a"], 8, 1), (["a"] * 9, 2, 2), (["a", "a", "a", "b"], 2, 3)]
)
def test_bare_processes_are_ranks_up_to_the_cores_of_each_host(hosts, cores, processes):
    assert bare_processes(hosts, cores) == processes


def test_times_are_shares_of_the_training_time_of_a_role(usage):
    actors = {"acting_seconds": 5.0, "environment_seconds": 10.0, "waiting_seconds": 2.0, "held_seconds": 1.0}
    times = usage.times(
        actors, {"learning_seconds": 4.0, "waiting_seconds": 16.0, "late": 3.0}, serving=1.0, seconds=10.0
    )
    assert times == {
        "actors": {"acting": 0.25, "environment": 0.5, "waiting": 0.1},
        "learners": {"learning": 0.2, "waiting": 0.8},
        "server": {"serving": 0.1},
    }


def test_speed_is_compared_with_bare_stepping_in_all_processes(usage):
    assert usage.figures(3000.0, 0, 100, None, {})["share_of_bare"] is None
    usage.bare = 2000.0
    told = usage.figures(6000.0, 25, 100, None, {})
    assert (told["bare_processes"], told["share_of_bare"], told["unused_share"]) == (4, 0.75, 0.25)


def test_bare_stepping_is_measured_by_the_first_actor_alone(monkeypatch):
    monkeypatch.setattr(efficiency, "BARE_SECONDS", 0.01)

    shown = load_config(ECHO, ["logging.progress=true"])
    spec = describe(shown.env, shown.policies)

    def context(config, game=None):
        return replace(make_context(config, spec=spec), game=game)

    assert measure_bare(context(shown), 0, 0) > 0
    assert measure_bare(context(shown), 1, 0) is None
    assert measure_bare(context(shown, game=lambda environment: environment), 0, 0) is None
    assert measure_bare(context(load_config(ECHO)), 0, 0) is None
    broken = load_config(ECHO, ["logging.progress=true", "env.id=tests.support.environments:Missing"])
    assert measure_bare(context(broken), 0, 0) is None


def test_time_in_the_run_queue_does_not_count_as_bare_stepping(monkeypatch):
    queued = iter([2.0, 5.0])
    monkeypatch.setattr(efficiency, "queued_seconds", lambda: next(queued))
    monkeypatch.setattr(efficiency, "step_bare", lambda bare, seconds: (1000, 8.0))
    config = load_config(ECHO, ["logging.progress=true"])
    assert measure_bare(make_context(config, spec=describe(config.env, config.policies)), 0, 0) == 200.0


def test_last_words_name_bare_stepping_and_times():
    assert closing_lines(SUMMARY, load_config(SPREAD)) == [
        "80 % of bare stepping, which takes 5,000 environment steps/s in each of 2 processes",
        "time: actors acting 30 %",
    ]


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ((), "set rounds.backpressure: true (actors wait), use more learners (topology.groups)"),
        (
            ("algo.name=ppo", "algo.epochs=4"),
            "use more learners (topology.groups) or lower algo.epochs (now 4)",
        ),
        (
            ("algo.reuse=2", "rounds.backpressure=true"),
            "unused (300): use more learners (topology.groups) or lower algo.reuse (now 2)",
        ),
    ],
)
def test_unused_work_is_reported_with_its_remedy(changes, remedy):
    line = closing_lines(
        SUMMARY | {"unused_share": 0.3, "unused_env_steps": 300}, load_config(SPREAD, changes)
    )[-1]
    assert "30 % of the environment steps unused (300)" in line
    assert remedy in line


def test_replay_that_falls_behind_is_reported_with_its_remedy():
    line = closing_lines(SUMMARY | {"replay_shortfall": 0.4}, load_config(ECHO))[-1]
    assert "used episodes 40 % less often than algo.replay.samples_per_insert requires" in line
    assert line.endswith("lower algo.replay.samples_per_insert")
