"""Gradients on a second device are those on the CPU, bit for bit, with few waits for the device."""

import numpy as np
import pytest
import torch

from hpcmarl.algos import make_algorithm
from hpcmarl.config import COMAConfig, MATraceConfig, NetworkConfig, PPOConfig, ReinforceConfig
from hpcmarl.config.value_based import AgentNetworkConfig, QMIXConfig
from hpcmarl.nets.device import array
from hpcmarl.types import ObservationPart, PolicySpec
from tests.support import value_based
from tests.support.algorithms import TEAM_AND_PREY, TURNS, TWO_TEAMS, rollouts_of
from tests.support.fake_device import CROSSINGS, fake_device
from tests.support.rollouts import DISCRETE, make_spec, random_rollout

DEVICE = fake_device()
IMPALA = {"architecture": "impala", "features": 6}
RECORD = (ObservationPart("image", (9, 8, 2), "uint8"), ObservationPart("place", (3,), "float32"))
RECURRENT = {
    "network": NetworkConfig(hidden=(6,), body="gru", memory=5),
    "critic_network": NetworkConfig(hidden=(6,), body="gru", memory=4),
}
NORMALISED = {"normalise_observations": True, "normalise_values": True, "normalise_advantages": True}
ACTOR_CRITICS = {
    "ppo": (PPOConfig, {}, make_spec()),
    "ppo, recurrent": (PPOConfig, RECURRENT | {"value_clip": 0.2, "advantages": "once"}, TWO_TEAMS),
    "ma_trace": (MATraceConfig, NORMALISED, TWO_TEAMS),
    "ma_trace, recurrent": (MATraceConfig, RECURRENT | NORMALISED | {"critic": "independent"}, make_spec()),
    "ma_trace, turns": (MATraceConfig, {"critic": "independent", "target_entropy": 0.3}, TURNS),
    "ma_trace, lstm": (MATraceConfig, {"network": NetworkConfig(body="lstm", memory=5)}, make_spec()),
    "ppo, layer norm": (PPOConfig, {"network": NetworkConfig(layer_norm=True)}, make_spec()),
    "coma": (COMAConfig, {"normalise_values": True}, TWO_TEAMS),
    "coma, recurrent": (COMAConfig, {"network": RECURRENT["network"]}, make_spec()),
}
FEED_FORWARD = {"network": AgentNetworkConfig(hidden=(5,), body="mlp")}


def pair(make):
    """Return an algorithm on the CPU and an equal one on the second device."""
    host, other = make(), make()
    other.move(DEVICE)
    return host, other


def check_equal(host, other, rollouts, waits=8, exact=True):
    """Compare gradients and statistics before and after new parameters; count the waits of the last one."""
    for version in range(2, 4):
        vectors = []
        for algorithm in (host, other):
            CROSSINGS.clear()
            before = algorithm.begin_batch(rollouts) if algorithm.minibatch_passes else rollouts
            vectors.append(algorithm.gradient(before))
        largest = np.abs(vectors[0][0]).max()
        assert largest > 0
        np.testing.assert_allclose(vectors[0][0], vectors[1][0], rtol=0, atol=0 if exact else 1e-6 * largest)
        assert vectors[0][1] == pytest.approx(vectors[1][1], rel=1e-5, abs=1e-6, nan_ok=True)
        step = host.parameters + 0.1 * vectors[0][0] / np.abs(vectors[0][0]).max()
        for algorithm in (host, other):
            algorithm.load_parameters(step.astype(np.float32))
            algorithm.on_version(version)
    assert CROSSINGS["wait"] + CROSSINGS["to host"] <= waits * len(host.spec.policies), CROSSINGS


@pytest.mark.parametrize("name", ACTOR_CRITICS)
def test_actor_critics_are_equal_on_a_second_device(name):
    config, keys, spec = ACTOR_CRITICS[name]
    settings = config(**{"network": NetworkConfig(hidden=(6,)), **keys})
    memory = (10 if settings.network.body == "lstm" else 5) if settings.network.body != "mlp" else None
    host, other = pair(lambda: make_algorithm(spec, settings, 0))
    rollouts = rollouts_of(spec, memory=memory)
    memories = [algorithm.critic_memory(rollouts[0]) for algorithm in (host, other)]
    assert memories[0].keys() == memories[1].keys()
    for name_ in memories[0]:
        np.testing.assert_array_equal(memories[0][name_], memories[1][name_])
    # A GRU cell on single rows, which values after an unroll need, rounds otherwise on devices.
    check_equal(host, other, rollouts, waits=18, exact="critic_network" not in keys)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        *value_based.SETTINGS,
        *((name, FEED_FORWARD) for name in ("iql", "vdn", "qmix", "wqmix", "res")),
        ("qmix", {"normalise_observations": True}),
    ],
)
def test_value_based_are_equal_on_a_second_device(name, keys):
    host, other = pair(lambda: value_based.make(name, **keys))
    rollouts = value_based.episodes(host.spec)
    check_equal(host, other, rollouts)
    assert host.distance(rollouts) == other.distance(rollouts)
    weights = np.linspace(0.5, 1.0, sum(rollout.count for rollout in rollouts)).astype(np.float32)
    weighed = [algorithm.staged_gradient(algorithm.stage(rollouts), weights) for algorithm in (host, other)]
    np.testing.assert_array_equal(weighed[0][0], weighed[1][0])
    largest = [errors.of_episodes().largest for _, _, errors in weighed]
    np.testing.assert_array_equal(*largest)


def test_batches_wait_on_the_device_for_their_gradient():
    """The batch is staged before another gradient and new parameters, without a wait."""
    host, other = pair(lambda: value_based.make("vdn", **FEED_FORWARD))
    first, second = (value_based.episodes(host.spec, seed=seed) for seed in (1, 2))
    CROSSINGS.clear()
    ahead = other.stage(second)
    assert CROSSINGS["wait"] + CROSSINGS["to host"] == 0
    step = (host.parameters + 0.1 * host.gradient(first)[0]).astype(np.float32)
    other.gradient(first)
    for algorithm in (host, other):
        algorithm.load_parameters(step)
    np.testing.assert_array_equal(other.staged_gradient(ahead, None)[0], host.gradient(second)[0])


def test_continuous_actions_are_equal_on_a_second_device():
    settings = ReinforceConfig(network=NetworkConfig(hidden=(6,)))
    host, other = pair(lambda: make_algorithm(TEAM_AND_PREY, settings, 0))
    generator = np.random.default_rng(0)
    rollouts = [random_rollout(TEAM_AND_PREY, 7, 3, generator, whole_episode=True)]
    (vector, _), (same, _) = host.gradient(rollouts), other.gradient(rollouts)
    # torch's atanh and numpy's differ in the last digit
    np.testing.assert_allclose(vector, same, rtol=1e-4, atol=1e-5)


def test_a_target_network_follows_on_a_second_device():
    host, other = pair(lambda: value_based.make("qmix", target_every=3))
    rollouts = value_based.episodes(host.spec)
    vector = host.parameters * np.float32(1.5)
    for algorithm in (host, other):
        algorithm.load_parameters(vector)
        algorithm.on_version(7)
        algorithm.load_parameters(vector * np.float32(0.5))
    np.testing.assert_array_equal(host.gradient(rollouts)[0], other.gradient(rollouts)[0])
    resumed = value_based.make("qmix", target_every=3)
    resumed.move(DEVICE)
    resumed.load_parameters(vector * np.float32(0.5))
    resumed.load_state_dict(host.state_dict())
    np.testing.assert_array_equal(host.gradient(rollouts)[0], resumed.gradient(rollouts)[0])


ENCODED = {
    "images and records": PPOConfig(
        critic="independent",
        network={
            "keys": {"image": {"encoder": "cnn", "cnn": IMPALA}},
            "hidden": (5,),
            "body": "lstm",
            "memory": 4,
        },
    ),
    "shared": PPOConfig(
        shared_encoder=True,
        network={
            "keys": {"image": {"encoder": "cnn", "cnn": IMPALA}},
            "hidden": (5,),
            "body": "lstm",
            "memory": 4,
        },
    ),
    "entities": QMIXConfig(
        network={"encoder": "entities", "entities": {"width": 8, "heads": 2}, "hidden": (5,), "memory": 4},
        mixer_state="joint_observation",
    ),
}

MODULES = "tests.support.user_modules"


@pytest.mark.parametrize("name", ENCODED)
def test_encoders_are_equal_on_a_second_device(name):
    spec = make_spec(
        PolicySpec("one", ("a", "b"), (), DISCRETE, observation_parts=RECORD)
        if name != "entities"
        else PolicySpec("one", ("a", "b"), (4, 3), DISCRETE)
    )
    host, other = pair(lambda: make_algorithm(spec, ENCODED[name], 0))
    keys = {"whole_episode": True} if name == "entities" else {"memory": 8}
    generators = (np.random.default_rng(seed) for seed in (0, 1))
    rollouts = [random_rollout(spec, 6, 3, own, deaths=True, **keys) for own in generators]
    # torch chooses another implementation of attention for devices
    check_equal(host, other, rollouts, exact=name != "entities")


@pytest.mark.parametrize("name", ["FeedForward", "Recurrent"])
def test_modules_of_the_user_are_equal_on_a_second_device(name):
    module = {"module": f"{MODULES}:{name}"}
    exact = name == "FeedForward"  # a GRU cell rounds otherwise on devices
    settings = PPOConfig(critic="independent", network=module, normalise_values=True)
    host, other = pair(lambda: make_algorithm(TWO_TEAMS, settings, 0))
    memory = None if exact else host.initial_memory(1)["team"].shape[-1]
    check_equal(host, other, rollouts_of(TWO_TEAMS, memory=memory), exact=exact, waits=20)
    settings = QMIXConfig(network=module, mixer_module=f"{MODULES}:Mixer")
    host, other = pair(lambda: make_algorithm(make_spec(*value_based.TWO), settings, 0))
    check_equal(host, other, value_based.episodes(host.spec), exact=exact)


def test_a_kept_gradient_stays_on_its_device():
    host, other = pair(lambda: make_algorithm(TWO_TEAMS, PPOConfig(), 0))
    rollouts = rollouts_of(TWO_TEAMS)
    wanted, statistics = host.gradient(rollouts)
    for algorithm in (host, other):
        algorithm.keeps_gradient = True
        vector, found = algorithm.gradient(rollouts)
        np.testing.assert_array_equal(array(algorithm.slopes), wanted)
        assert found == pytest.approx(statistics, rel=1e-5, abs=1e-6)
        assert len(vector) == (len(wanted) if algorithm is host else 0)
    rollouts[0].policies["team"].reward[:] = np.nan
    assert not np.isfinite(other.gradient(rollouts)[0]).all()


def test_the_second_device_refuses_mixed_operations():
    values = torch.arange(3.0).to(DEVICE)
    for mistake in (
        lambda: values + torch.ones(3),
        lambda: values[torch.tensor([0])],
        lambda: values.numpy(),
        lambda: torch.cat([values, torch.ones(1)]),
        lambda: torch.ones(3).add_(values),
        lambda: np.asarray(values),
    ):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            mistake()
