"""Slices of the parameter vector that are optimised separately.

Neither critics nor learned entropy costs reduce the step of actors.
"""

from __future__ import annotations

import numpy as np
import pytest

from hpcmarl.algos import ALGORITHMS, make_algorithm
from hpcmarl.algos.base import Algorithm
from hpcmarl.config import (
    AdamConfig,
    AlgoConfig,
    COMAConfig,
    IQLConfig,
    MADDPGConfig,
    MASACConfig,
    MATraceConfig,
    NigtConfig,
    PPOConfig,
    QMIXConfig,
    ReinforceConfig,
    RESConfig,
    RmspropConfig,
    SgdConfig,
    VDNConfig,
    WQMIXConfig,
)
from hpcmarl.config.rounds import ClippingConfig
from hpcmarl.optim import make_optimizer
from hpcmarl.types import Array, PolicySpec
from tests.support.rollouts import DISCRETE, make_spec, random_rollout

TEAM_AND_PREY = make_spec(
    PolicySpec("team", ("a", "b"), (4,), DISCRETE), PolicySpec("prey", ("c",), (3,), DISCRETE)
)
ACTOR_CRITICS = [MATraceConfig, PPOConfig, COMAConfig]
ACTION_CRITICS = [MADDPGConfig, MASACConfig]
CLIP = 0.5
CLIPPED: list[ClippingConfig] = [
    SgdConfig(step_size=1.0, max_gradient_norm=CLIP),
    AdamConfig(step_size=1.0, max_gradient_norm=CLIP, epsilon=1.0),
    RmspropConfig(step_size=1.0, max_gradient_norm=CLIP, epsilon=1.0),
]


def step_of(
    optimizer_config: ClippingConfig | NigtConfig, algorithm: Algorithm, seed: int = 0
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return gradient and change of each kind of part after one step, both [size of the part].

    The step uses a random rollout of 16 slots.
    """
    rollout = random_rollout(algorithm.spec, 25, 16, np.random.default_rng(seed))
    direction = algorithm.gradient([rollout])[0] / rollout.count
    optimizer = make_optimizer(optimizer_config, algorithm.parameters, algorithm.parts)
    before = optimizer.parameters.copy()
    optimizer.step(direction)
    moved = optimizer.parameters - before
    return {part.kind: direction[part.place] for part in algorithm.parts}, {
        part.kind: moved[part.place] for part in algorithm.parts
    }


@pytest.mark.parametrize("config", ACTOR_CRITICS)
@pytest.mark.parametrize("target_entropy", [None, 0.3])
@pytest.mark.parametrize("normalised", [False, True])
def test_actor_critics_split_into_actor_critic_and_cost(
    config: type[AlgoConfig], target_entropy: float | None, normalised: bool
) -> None:
    keys = {
        "target_entropy": target_entropy,
        "normalise_observations": normalised,
        "normalise_values": normalised,
    }
    algorithm = make_algorithm(TEAM_AND_PREY, config.model_validate(keys), 0)
    kinds = ["actor", "critic", "cost"] if target_entropy is not None else ["actor", "critic"]
    assert [(part.policy, part.kind) for part in algorithm.parts] == [
        (name, kind) for name in ("team", "prey") for kind in kinds
    ]
    places = [part.place for part in algorithm.parts]
    assert [place.start for place in places] == [0, *[place.stop for place in places[:-1]]]
    assert places[-1].stop == algorithm.averages.start
    start = 0
    acting = {name for policy in ("team", "prey") for name in algorithm.acting_parameters(policy)}
    for name, parameter in algorithm.named_parameters().items():
        owner = next((part for part in algorithm.parts if part.place.start <= start < part.place.stop), None)
        assert (owner is not None) == (start < algorithm.averages.start)
        if owner is not None:
            assert (owner.kind == "actor") == (name in acting)
            assert name.startswith(f"{owner.policy}.")
        start += parameter.size


@pytest.mark.parametrize(
    "config", [ReinforceConfig, IQLConfig, VDNConfig, QMIXConfig, WQMIXConfig, RESConfig]
)
def test_one_loss_makes_one_part(config: type[AlgoConfig]) -> None:
    algorithm = make_algorithm(TEAM_AND_PREY, config(), 0)
    alone = issubclass(config, ReinforceConfig | IQLConfig)
    assert [(part.policy, part.kind) for part in algorithm.parts] == (
        [("team", "actor"), ("prey", "actor")] if alone else [("team", "actor")]
    )
    assert algorithm.parts[0].place.start == 0
    assert algorithm.parts[-1].place.stop == algorithm.averages.start


@pytest.mark.parametrize("config", ACTION_CRITICS)
def test_action_critics_split_into_actor_critics_and_cost(config: type[AlgoConfig]) -> None:
    algorithm = make_algorithm(TEAM_AND_PREY, config(), 0)
    kinds = ["actor", "critic", "cost"] if config is MASACConfig else ["actor", "critic"]
    assert [(part.policy, part.kind) for part in algorithm.parts] == [
        (name, kind) for name in ("team", "prey") for kind in kinds
    ]
    places = [part.place for part in algorithm.parts]
    assert [place.start for place in places] == [0, *[place.stop for place in places[:-1]]]
    assert places[-1].stop == algorithm.size


def test_every_algorithm_has_its_parts_tested() -> None:
    tested = [*ACTOR_CRITICS, *ACTION_CRITICS]
    tested += [ReinforceConfig, IQLConfig, VDNConfig, QMIXConfig, WQMIXConfig, RESConfig]
    assert {config().name for config in tested} == set(ALGORITHMS)


@pytest.mark.parametrize("optimizer", CLIPPED, ids=["sgd", "adam", "rmsprop"])
def test_learned_entropy_cost_takes_no_share_of_the_clip(optimizer: ClippingConfig) -> None:
    spec = make_spec(agents=27)
    learned = make_algorithm(spec, MATraceConfig(target_entropy=0.3, normalise_advantages=True), 0)
    fixed = make_algorithm(spec, MATraceConfig(normalise_advantages=True), 0)
    gradient, moved = step_of(optimizer, learned)
    # The cost's gradient would dominate a common norm.
    assert abs(gradient["cost"][0]) > 2 * np.linalg.norm(gradient["actor"])
    # The actor's own gradient is clipped as well.
    assert np.linalg.norm(gradient["actor"]) > 2 * CLIP
    np.testing.assert_array_equal(moved["actor"], step_of(optimizer, fixed)[1]["actor"])
    if isinstance(optimizer, SgdConfig):
        assert np.linalg.norm(moved["actor"]) == pytest.approx(CLIP, rel=1e-5)
        assert moved["cost"][0] == pytest.approx(-CLIP, rel=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [*CLIPPED, NigtConfig(), NigtConfig(normalise="policy")],
    ids=["sgd", "adam", "rmsprop", "nigt", "nigt-policy"],
)
@pytest.mark.parametrize("config", [MATraceConfig, PPOConfig])
def test_reward_scale_leaves_the_actor_its_step(
    optimizer: ClippingConfig | NigtConfig, config: type[MATraceConfig | PPOConfig]
) -> None:
    """Normalised advantages do not depend on the scale of rewards if the critic's output is 0.

    The critic's own gradient does depend on it.
    """
    found = []
    # A power of two does not change the rounding.
    for scale in (1.0, 128.0):
        algorithm = make_algorithm(
            make_spec(), config(reward_scale=scale, normalise_advantages=True, critic="joint_observation"), 0
        )
        vector = algorithm.initial_parameters()
        vector[algorithm.parts[1].place] = 0.0
        algorithm.load_parameters(vector)
        found.append(step_of(optimizer, algorithm))
    (plain, moved), (scaled, moved_by_scaled) = found
    assert np.linalg.norm(scaled["critic"]) == pytest.approx(128 * np.linalg.norm(plain["critic"]), rel=1e-4)
    assert np.linalg.norm(scaled["critic"]) > 10 * CLIP
    np.testing.assert_allclose(moved_by_scaled["actor"], moved["actor"], rtol=1e-4, atol=1e-6)
    assert np.linalg.norm(moved["actor"]) > 0.01
