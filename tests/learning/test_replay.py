"""Value-based algorithms with replay learn to repeat what they see."""

import pytest

from tests.support.worlds import ECHO, run_world, summary

pytestmark = pytest.mark.slow("trains until something is learned")
OTHERS = pytest.mark.long("a learning run; vdn, MAST, priorities and dueling heads learn in the default lane")
DUELING = ("algo.network.dueling=true", "algo.obs_last_action=true")
PRIORITY = ("algo.replay.priority={beta_steps: 2000}", "algo.replay.recent=16", "algo.n_step=2")
MAST = ("algo.operator=mellowmax", "algo.trace_lambda=0.6", "algo.trace_from=300", "algo.replay.recent=16")
RLX2 = (
    "algo.trace_lambda=0.6",
    "algo.trace_from=300",
    "algo.replay.dynamic={every: 20, oldest: 10, distance: 0.3, least: 40}",
)


MORE = [
    pytest.param(name, extra, marks=OTHERS) for name, extra in (("iql", ()), ("qmix", ()), ("qmix", RLX2))
]


@pytest.mark.parametrize(
    ("name", "extra"), [("vdn", ()), ("qmix", MAST), ("vdn", PRIORITY), ("qmix", DUELING), *MORE]
)
def test_replay_algorithms_solve_the_echo_task(tmp_path, name, extra):
    run_world(1, tmp_path, f"algo.name={name}", *extra, "eval.episodes=40", "stop.updates=250", text=ECHO)
    assert summary(tmp_path)["eval_return_mean"] > 0.9  # random play: 1/3
