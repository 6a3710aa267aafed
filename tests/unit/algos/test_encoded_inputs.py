"""All algorithms on images, records and entities, with every body of a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm, make_model
from hpcmarl.algos.base import Algorithm
from hpcmarl.config import (
    AgentNetworkConfig,
    AlgoConfig,
    COMAConfig,
    IQLConfig,
    MATraceConfig,
    NetworkConfig,
    PPOConfig,
    QMIXConfig,
    ReinforceConfig,
    VDNConfig,
    WQMIXConfig,
)
from hpcmarl.errors import ConfigError
from hpcmarl.types import EnvironmentSpec, ObservationPart, PolicySpec, Rollout
from tests.support.rollouts import CONTINUOUS, DISCRETE, act_out, make_spec, random_rollout

RECORD = (ObservationPart("image", (9, 8, 2), "uint8"), ObservationPart("place", (3,), "float32"))
# an image, a record and a set of entities in one environment
SPEC = make_spec(
    PolicySpec("seer", ("s0", "s1"), (9, 8, 2), DISCRETE, True, "uint8"),
    PolicySpec("mixed", ("m0", "m1", "m2"), (), DISCRETE, observation_parts=RECORD),
)
WALKERS = make_spec(PolicySpec("walker", ("w0", "w1"), (4, 3), CONTINUOUS))
IMPALA = {"architecture": "impala", "features": 6}
ENCODED: dict[str, Any] = {
    "encoder": "auto",
    "cnn": IMPALA,
    "keys": {"image": {"encoder": "cnn", "cnn": IMPALA}},
    "hidden": (5,),
    "memory": 4,
}
ENTITIES = {"encoder": "entities", "entities": {"width": 8, "heads": 2}, "hidden": (5,), "memory": 4}
ONE = make_spec(PolicySpec("mixed", ("m0", "m1", "m2"), (), DISCRETE, True, observation_parts=RECORD))


def network(body: str, kind: Any = NetworkConfig, **more: Any) -> Any:
    return kind.model_validate({**ENCODED, "body": body, **more})


ACTOR_CRITICS: dict[str, AlgoConfig] = {
    "joint": MATraceConfig(network=network("mlp"), rho_max=100.0, ratios="agent"),
    "state": MATraceConfig(network=network("gru"), critic="state", rho_max=100.0, ratios="agent"),
    "agent": MATraceConfig(
        network=network("lstm"), critic_input="agent", agent_id=True, rho_max=100.0, ratios="agent"
    ),
    "independent": PPOConfig(network=network("lstm", layer_norm=True), critic="independent", agent_id=True),
    "remembering": PPOConfig(network=network("gru"), critic_network=network("lstm")),
    "coma": COMAConfig(network=network("gru"), rho_max=100.0),
    "coma state": COMAConfig(network=network("mlp"), critic="state", rho_max=100.0),
}
VALUE_BASED: dict[str, AlgoConfig] = {
    "iql": IQLConfig(network=network("gru", AgentNetworkConfig)),
    "vdn lstm": VDNConfig(network=network("lstm", AgentNetworkConfig, dueling=True), obs_last_action=True),
    "qmix": QMIXConfig(network=network("mlp", AgentNetworkConfig), mixer_state="joint_observation"),
    "wqmix": WQMIXConfig(network=network("gru", AgentNetworkConfig), central_width=5),
}


def make(config: AlgoConfig, spec: EnvironmentSpec = ONE) -> Algorithm:
    return make_algorithm(spec, config, 3)


def own_rollouts(algorithm: Algorithm, count: int = 2, **more: Any) -> list[Rollout]:
    rollouts = [
        random_rollout(algorithm.spec, 6, 3, np.random.default_rng(seed), deaths=True, **more)
        for seed in range(count)
    ]
    for seed, rollout in enumerate(rollouts):
        act_out(algorithm, rollout, seed)
    return rollouts


@pytest.mark.parametrize("name", ACTOR_CRITICS)
def test_encoded_actor_critics_evaluate_their_own_actions(name: str) -> None:
    algorithm = make(ACTOR_CRITICS[name])
    vector, statistics = algorithm.gradient(own_rollouts(algorithm))
    assert np.isfinite(vector).all()
    assert statistics["mean_rho"] == pytest.approx(1.0, abs=1e-4)
    for parameter, place in algorithm.layout.places.items():
        if "encoder" in parameter and parameter.endswith("weight"):
            assert np.any(vector[place]), f"{parameter} has no gradient"


@pytest.mark.parametrize("name", ["joint", "coma", "remembering"])
def test_gradient_of_encoded_inputs_is_additive(name: str) -> None:
    algorithm = make(ACTOR_CRITICS[name].model_copy(update={"normalise_advantages": False}))
    rollouts = own_rollouts(algorithm)
    together, _ = algorithm.gradient(rollouts)
    apart = sum(algorithm.gradient([rollout])[0] for rollout in rollouts)
    np.testing.assert_allclose(together, apart, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", VALUE_BASED)
def test_encoded_agents_learn_from_replayed_episodes(name: str) -> None:
    algorithm = make(VALUE_BASED[name])
    episodes = own_rollouts(algorithm, 3, whole_episode=True)
    vector, statistics = algorithm.gradient(episodes)
    assert np.isfinite(vector).all()
    assert statistics["gradient_norm"] > 0
    before = statistics["loss"]
    for _ in range(30):
        step, statistics = algorithm.gradient(episodes)
        algorithm.load_parameters(algorithm.parameters + 0.02 * step / max(1.0, statistics["gradient_norm"]))
    assert statistics["loss"] < before


def test_policies_of_one_game_have_their_own_encoders() -> None:
    algorithm = make(MATraceConfig(network=network("gru", keys={}, encoder="auto")), SPEC)
    # neither image is large enough for `auto`, so that both policies are flat
    assert all(shape.in_numpy for shape in algorithm.design.policies.values())
    vector, _ = algorithm.gradient(own_rollouts(algorithm))
    assert np.isfinite(vector).all()


def test_flat_network_sees_the_numbers_of_all_types() -> None:
    flat = make_model(ONE, MATraceConfig(network=NetworkConfig(hidden=(5,))), 0)
    rollout = random_rollout(ONE, 2, 2, np.random.default_rng(0))
    numbers = make_spec(PolicySpec("mixed", ("m0", "m1", "m2"), (147,), DISCRETE, True))
    plain = make_model(numbers, MATraceConfig(network=NetworkConfig(hidden=(5,))), 0)
    part = rollout.policies["mixed"]
    joined = np.concatenate([part.obs["image"].reshape(3, 2, 3, -1), part.obs["place"]], -1, dtype=np.float32)
    np.testing.assert_array_equal(flat.parameters, plain.parameters)
    np.testing.assert_array_equal(
        flat.action_probs("mixed", part.obs[0, :, 1], None),
        plain.action_probs("mixed", joined[0, :, 1], None),
    )


@pytest.mark.parametrize("body", ["mlp", "gru", "lstm"])
def test_entities_act_and_learn_with_continuous_actions(body: str) -> None:
    config = PPOConfig(network=NetworkConfig.model_validate({**ENTITIES, "body": body}), critic="independent")
    algorithm = make_algorithm(WALKERS, config, 0)
    vector, statistics = algorithm.gradient(own_rollouts(algorithm))
    assert np.isfinite(vector).all()
    assert statistics["mean_rho"] == pytest.approx(1.0, abs=1e-3)


def test_whole_episodes_of_images_train_reinforce() -> None:
    algorithm = make(ReinforceConfig(network=network("lstm")))
    episodes = own_rollouts(algorithm, 2, whole_episode=True)
    assert np.isfinite(algorithm.gradient(episodes)[0]).all()


def test_normalised_observations_and_encoders_exclude_each_other() -> None:
    for config in (
        MATraceConfig(network=network("mlp"), normalise_observations=True),
        QMIXConfig(network=network("mlp", AgentNetworkConfig), normalise_observations=True),
    ):
        with pytest.raises(ConfigError, match=r"algo\.normalise_observations: true needs flat inputs"):
            make(config)
    critics = MATraceConfig(
        network=NetworkConfig(), critic_network=network("mlp"), normalise_observations=True
    )
    with pytest.raises(ConfigError, match=r"the critic of policy mixed .* has algo\.critic_network\.encoder"):
        make(critics)


def test_acting_without_learning_draws_the_same_parameters() -> None:
    config = ACTOR_CRITICS["agent"]
    np.testing.assert_array_equal(make_model(ONE, config, 3).parameters, make(config).parameters)
