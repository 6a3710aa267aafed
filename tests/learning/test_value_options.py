"""Options of value-based algorithms on small problems with known solutions that need them."""

import pytest

from hpcmarl.roles.evaluation import evaluate_checkpoint
from tests.support.worlds import ECHO, run_world, summary

pytestmark = pytest.mark.slow("trains until something is learned")
SWITCHING = ("env={id: 'tests.support.environments:Switching'}", "eval={episodes: 8, environments: 4}", "algo.discount=0.1")


@pytest.mark.parametrize("name", ["iql", "qmix"])
def test_agents_that_see_their_last_action_switch_every_step(tmp_path, name):
    """The best return is 1. Feed-forward agents that see the same in each step repeat one action for ever when they act greedily: 1/8."""
    for sees, wanted in ((True, 1.0), (False, 0.125)):
        run = tmp_path / str(sees)
        run_world(3, run, *SWITCHING, f"algo.name={name}", f"algo.obs_last_action={str(sees).lower()}", "stop.updates=150", text=ECHO)
        assert summary(run)["eval_return_mean"] == pytest.approx(wanted)
        assert evaluate_checkpoint(str(run), episodes=4)["return_mean"] == pytest.approx(wanted)
