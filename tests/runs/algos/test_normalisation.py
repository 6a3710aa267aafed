"""Running moments of returns and observations in whole runs."""

import numpy as np
import pytest

from tests.support.worlds import final_parameters, run_world, summary


@pytest.mark.parametrize(
    "keys",
    [
        ("algo.name=ma_trace",),
        ("algo.name=ppo", "algo.epochs=2"),
        ("algo.name=ma_trace", "rounds.reduce=mpi"),
    ],
    ids=str,
)
def test_actor_critic_run_learns_return_moments(keys, tmp_path):
    both = ("algo.normalise_values=true", "algo.normalise_observations=true", "algo.normalisation_rate=0.5")
    run_world(3, tmp_path / "run", *keys, *both, "stop.updates=4")
    assert summary(tmp_path / "run")["updates"] == 4
    targets = final_parameters(tmp_path / "run")[-3:]
    assert targets[0] > 0
    assert targets[1] / targets[0] < -0.5  # returns of simple_spread are far below zero


@pytest.mark.parametrize("keys", [(), ("rounds.reduce=mpi", "topology.groups=2")], ids=str)
@pytest.mark.parametrize("name", ["iql", "vdn", "qmix", "wqmix", "res"])
def test_value_based_run_learns_observation_moments(name, keys, tmp_path):
    algo = (
        f"algo={{name: {name}, normalise_observations: true, normalisation_rate: 0.5, network: {{hidden: "
        f"[8], memory: 4}}, replay: {{learning_starts: 4}}}}"
    )
    run_world(4, tmp_path / "run", algo, *keys, "rounds.batch=8", "stop.updates=4")
    assert summary(tmp_path / "run")["updates"] == 4
    rows = 1.0 - 0.5**4  # weight of averages that start at zero
    moments = {"iql": 0, "vdn": 0, "qmix": 1, "res": 1, "wqmix": 1}[name]
    sees = 18 + 3  # the observation and the agent's index
    ends = [1 + 2 * sees] + [1 + 2 * 54] * moments + [1 + 2 * sees] * (name == "wqmix")
    end = final_parameters(tmp_path / "run")[-sum(ends) :]
    for part in np.split(end, np.cumsum(ends)[:-1]):
        size = len(part) // 2
        assert part[0] == pytest.approx(rows, rel=1e-5)
        deviation = np.sqrt(part[1 + size :] / part[0] - np.square(part[1 : 1 + size] / part[0]))
        assert (deviation > 0.01).sum() > size // 2
