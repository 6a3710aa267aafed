"""Options of value-based algorithms on small problems that need them and have known solutions."""

import pytest

from hpcmarl.evaluation import evaluate_checkpoint
from tests.support.worlds import ECHO, run_world, summary

pytestmark = pytest.mark.slow("trains until something is learned")
SWITCHING = (
    "env={id: 'tests.support.environments:Switching'}",
    "eval={episodes: 8, environments: 4}",
    "algo.discount=0.1",
)


@pytest.mark.parametrize("name", ["iql", "qmix"])
def test_agents_that_see_their_last_action_switch_every_step(tmp_path, name):
    """Agents reach the best return, 1, only if they see their last action.

    Other feed-forward agents get the same input in each step. Greedy ones then repeat one action forever,
    with a return of 1/8.
    """
    for sees, wanted in ((True, 1.0), (False, 0.125)):
        run = tmp_path / str(sees)
        run_world(
            3,
            run,
            *SWITCHING,
            f"algo.name={name}",
            f"algo.obs_last_action={str(sees).lower()}",
            "stop.updates=150",
            text=ECHO,
        )
        assert summary(run)["eval_return_mean"] == pytest.approx(wanted)
        assert evaluate_checkpoint(str(run), episodes=4)["return_mean"] == pytest.approx(wanted)


DELAYED = (
    "env={id: 'tests.support.environments:ShortOrLong'}",
    "eval={episodes: 8, environments: 4}",
    "algo.discount=1.0",
    "algo.target_every=100000",
)


@pytest.mark.parametrize("name", ["iql", "qmix"])
def test_n_steps_reach_a_delayed_reward_without_the_target(tmp_path, name):
    """The long way earns 2 after ten more steps; the short way earns 1 at once.

    The target network is never copied, so it knows no reward.
    """
    for n, wanted in ((11, 2.0), (1, 1.0)):
        run_world(
            3,
            tmp_path / str(n),
            *DELAYED,
            f"algo.name={name}",
            f"algo.n_step={n}",
            "stop.updates=100",
            text=ECHO,
        )
        assert summary(tmp_path / str(n))["eval_return_mean"] == pytest.approx(wanted)
