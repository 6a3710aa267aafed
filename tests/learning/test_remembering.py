"""Recurrent policies learn a task that needs memory.

A number is shown in the first step of an episode and must be named in all steps.
"""

import pytest

from tests.support.worlds import ECHO, SPREAD, run_world, summary

RECALL = (
    "env={id: 'tests.support.environments:Recall'}",
    "algo.network={hidden: [16], body: gru, memory: 16}",
    "eval.episodes=100",
)
VALUES = ("stop.updates=300", "algo.epsilon_steps=3000")
POLICIES = (
    "stop.updates=200",
    "rounds.batch=8",
    "topology.environments_per_actor=8",
    "optimizer={name: adam, step_size: 0.01}",
    "algo.discount=0.5",
)
pytestmark = pytest.mark.slow("trains until something is learned")
OTHERS = pytest.mark.long("a learning run; vdn and ma_trace learn in the default lane")
MEMORYLESS = ("algo.network.body=mlp",)


def earned(directory, text, *changes):
    run_world(1, directory, *RECALL, *changes, text=text)
    return summary(directory)["eval_return_mean"]


@pytest.mark.parametrize(
    "name", ["vdn", *(pytest.param(name, marks=OTHERS) for name in ("iql", "qmix", "wqmix", "res"))]
)
def test_recurrent_value_based_agents_solve_the_memory_task(tmp_path, name):
    assert (
        earned(
            tmp_path, ECHO, *VALUES, f"algo.name={name}", *(("rounds.batch=32",) if name == "wqmix" else ())
        )
        > 0.9
    )


@pytest.mark.parametrize(
    "name", ["ma_trace", *(pytest.param(name, marks=OTHERS) for name in ("reinforce", "coma", "ppo"))]
)
def test_recurrent_policy_gradient_agents_solve_memory_task(tmp_path, name):
    critic = () if name == "reinforce" else ("algo.critic=state", "algo.value_cost=1", "stop.updates=400")
    assert earned(tmp_path, SPREAD, *POLICIES, f"algo.name={name}", *critic) > 0.9


@OTHERS
def test_coma_with_memoryless_critic_fails_the_memory_task(tmp_path):
    """The critic has no memory, and all credit of the agents comes from it.

    It cannot prefer one action to another when the observations are zeros.
    """
    assert earned(tmp_path, SPREAD, *POLICIES, "algo.name=coma", "algo.critic=joint_observation") < 0.7


@pytest.mark.parametrize(("text", "changes"), [(ECHO, VALUES), (SPREAD, POLICIES)], ids=["vdn", "ma_trace"])
def test_memoryless_agents_fail_the_memory_task(tmp_path, text, changes):
    assert 0.4 < earned(tmp_path, text, *changes, *MEMORYLESS) < 0.7
