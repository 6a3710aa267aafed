"""Torch modules of the user: what they get, and which are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hpcmarl import plugins
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
    RESConfig,
    SparseConfig,
    WQMIXConfig,
)
from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError, HpcmarlError
from hpcmarl.nets.module_shapes import ArraySpace, ModuleSpaces
from hpcmarl.nets.modules import describe_module, trial_inputs
from hpcmarl.types import ObservationPart, PolicySpec, Rollout
from tests.support.rollouts import CONTINUOUS, DISCRETE, act_out, make_spec, random_rollout

PLACE = "tests.support.user_modules"
PARTS = (ObservationPart("image", (4, 3, 2), "uint8"), ObservationPart("place", (3,), "float32"))
SPEC = make_spec(PolicySpec("mixed", ("m0", "m1", "m2"), (), DISCRETE, True, observation_parts=PARTS))
TWO = make_spec(
    PolicySpec("seer", ("s0", "s1"), (4, 3), DISCRETE, observation_type="uint8"),
    PolicySpec("walker", ("w0",), (5,), DISCRETE),
)


def network(name: str, kind: Any = NetworkConfig, **arguments: Any) -> Any:
    return kind(module=f"{PLACE}:{name}", arguments=arguments)


def agents(name: str) -> Any:
    return network(name, AgentNetworkConfig)


TRAINED: dict[str, AlgoConfig] = {
    "joint": MATraceConfig(network=network("FeedForward", width=7), rho_max=100.0, ratios="agent"),
    "state": MATraceConfig(network=network("actor_remembers"), critic="state", rho_max=100.0, ratios="agent"),
    "agent": MATraceConfig(
        network=network("Recurrent"), critic_input="agent", agent_id=True, rho_max=100.0, ratios="agent"
    ),
    "independent": PPOConfig(
        network=network("Recurrent"), critic="independent", agent_id=True, normalise_values=True
    ),
    "own critic": PPOConfig(network=NetworkConfig(hidden=(4,)), critic_network=network("Recurrent")),
    "coma": COMAConfig(network=network("actor_remembers"), rho_max=100.0),
    "iql": IQLConfig(network=agents("Recurrent")),
    "qmix": QMIXConfig(network=agents("FeedForward"), mixer_module=f"{PLACE}:Mixer", obs_last_action=True),
    "wqmix": WQMIXConfig(network=agents("FeedForward"), central_width=5),
    "res": RESConfig(network=agents("Recurrent"), mixer_module=f"{PLACE}:Mixer"),
}


def own_rollouts(algorithm: Algorithm, **more: Any) -> list[Rollout]:
    rollouts = [
        random_rollout(algorithm.spec, 5, 3, np.random.default_rng(seed), deaths=True, **more)
        for seed in range(2)
    ]
    for seed, rollout in enumerate(rollouts):
        act_out(algorithm, rollout, seed)
    return rollouts


@pytest.mark.parametrize("spec", [SPEC, TWO], ids=["record", "two policies"])
@pytest.mark.parametrize("name", TRAINED)
def test_module_trains_with_every_algorithm(name: str, spec: Any) -> None:
    algorithm = make_algorithm(spec, TRAINED[name], 3)
    value_based = TRAINED[name].trajectory_unit == "episode"
    vector, statistics = algorithm.gradient(own_rollouts(algorithm, whole_episode=value_based))
    assert np.isfinite(vector).all()
    if not value_based:
        assert statistics["mean_rho"] == pytest.approx(1.0, abs=1e-3)
    for parameter, place in algorithm.layout.places.items():
        if ".module." in parameter and parameter.endswith("weight"):
            assert np.any(vector[place]), f"{parameter} has no gradient"


def test_module_acts_with_continuous_actions() -> None:
    spec = make_spec(PolicySpec("walker", ("w0", "w1"), (4,), CONTINUOUS))
    algorithm = make_algorithm(spec, PPOConfig(network=network("FeedForward"), critic="independent"), 0)
    _, statistics = algorithm.gradient(own_rollouts(algorithm))
    assert statistics["mean_rho"] == pytest.approx(1.0, abs=1e-3)


def test_initial_parameters_are_those_of_the_module_and_the_seed() -> None:
    config = TRAINED["joint"]
    state = torch.random.get_rng_state()
    first, second, other = (make_model(SPEC, config, seed).parameters for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert np.mean(first != other) > 0.9
    assert torch.equal(torch.random.get_rng_state(), state)
    weight = make_model(SPEC, config, 1).named_parameters()["mixed.actor.module.enter.weight"]
    assert 0.5 < np.abs(weight).max() * weight.shape[1] ** 0.5 <= 1.0  # nn.Linear's own bound


def test_tied_weights_are_one_parameter() -> None:
    names = make_model(SPEC, TRAINED["joint"], 0).layout.places
    assert "mixed.actor.module.middle.weight" in names
    assert not any("again" in name or "scale" in name for name in names)


def test_spaces_describe_what_a_module_gets() -> None:
    seen: list[ModuleSpaces] = []
    config = MATraceConfig(
        network=NetworkConfig(module=f"{__name__}:noting"), critic_input="agent", agent_id=True
    )
    noting.seen = seen  # type: ignore[attr-defined]
    make_model(TWO, config, None)
    policy, critic = (
        next(each for each in seen if (each.role, each.policy) == (role, "seer"))
        for role in ("policy", "critic")
    )
    assert policy == ModuleSpaces("policy", "seer", ArraySpace((4, 3), "uint8"), 2, 5, 14)
    assert critic == ModuleSpaces(
        "critic",
        "seer",
        {
            "seer": ArraySpace((2, 4, 3), "uint8"),
            "walker": ArraySpace((1, 5), "float32"),
            "(own)": ArraySpace((4, 3), "uint8"),
        },
        2,
        1,
        24 + 5 + 12 + 2,
    )


def noting(spaces: ModuleSpaces) -> Any:
    from tests.support.user_modules import FeedForward

    noting.seen.append(spaces)  # type: ignore[attr-defined]
    return FeedForward(spaces)


REFUSED = {
    "Normalised": r"again\.1 is a BatchNorm1d, whose running statistics are hidden state",
    "Coupled": "outputs of a row depend on the other rows",
    "Noisy": "two calls with the same inputs differ",
    "Counting": "a call changes the buffer scale",
    "Double": r"parameter enter\.weight is torch\.float64; allowed: torch\.float32",
    "Narrow": r"for 3 rows it returned \[3, 0\] torch\.float32; the critic needs \[3, 1\]",
    "Forgetful": r"it returned \[3, 1\] torch\.float32; the critic needs \[3, 1\] and \[3, 5\]",
    "Empty": "has no parameters",
    "no_module": r"returned list; it must return a torch\.nn\.Module",
    "failing": r"the factory failed: RuntimeError: two lines \(.*user_modules\.py, line \d+\)",
    "Mixer": r"the factory failed: AssertionError",
    "NOT_CALLABLE": "is of type int; allowed: a function or class",
    "Missing": "has no class Missing",
}


@pytest.mark.parametrize("name", REFUSED)
def test_module_that_cannot_work_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(HpcmarlError, match=REFUSED[name]) as caught:
        make_model(SPEC, MATraceConfig(network=network(name)), None)
    assert "\n" not in str(caught.value)
    assert f"{PLACE}:{name}" in str(caught.value)


def test_wrong_argument_names_the_factory() -> None:
    with pytest.raises(
        ConfigError, match=r"algo\.network\.module: .*FeedForward: the factory failed: TypeError"
    ):
        make_model(SPEC, MATraceConfig(network=network("FeedForward", depth=3)), None)


def test_module_that_is_not_installed_names_the_package() -> None:
    with pytest.raises(HpcmarlError, match="needs the package no_such_package"):
        make_model(SPEC, MATraceConfig(network=NetworkConfig(module="no_such_package:Net")), None)


def test_call_that_fails_shows_the_inputs() -> None:
    spaces = ModuleSpaces("policy", "p", ArraySpace((2,), "float32"), 0, 5, 3)  # size does not fit
    with pytest.raises(ConfigError, match=r"a call with \[3, 2\] torch\.float32 and \[3, 0\] .* failed"):
        describe_module(f"{PLACE}:FeedForward", {}, spaces, "algo.network.module")


def test_critic_of_coma_must_not_remember() -> None:
    with pytest.raises(ConfigError, match=r"is recurrent, but critics of algo\.name: coma"):
        make_model(SPEC, COMAConfig(network=network("Recurrent")), None)


def test_modules_exclude_sparse_and_normalised_training() -> None:
    with pytest.raises(ConfigError, match=r"algo\.sparse needs agents of flat inputs"):
        make_model(SPEC, IQLConfig(network=agents("FeedForward"), sparse=SparseConfig()), None)
    with pytest.raises(ConfigError, match=r"algo\.normalise_observations: true needs flat inputs"):
        make_model(SPEC, MATraceConfig(network=network("FeedForward"), normalise_observations=True), None)


def test_stored_configuration_imports_no_unknown_module() -> None:
    text = "env: {id: mpe2.simple_spread_v3}\nstop: {updates: 1}\n"
    text += f"algo: {{network: {{module: '{PLACE}:FeedForward'}}}}\n"
    with plugins.only_known("state.h5", []), pytest.raises(ConfigError, match=r"state\.h5 names the class"):
        load_config(text, [])
    with plugins.only_known("state.h5", [f"{PLACE}:FeedForward"]):
        assert load_config(text, []).algo.network.module == f"{PLACE}:FeedForward"


def test_trial_inputs_have_the_types_of_the_spaces() -> None:
    spaces = ModuleSpaces(
        "policy", "p", {"a": ArraySpace((2, 2), "uint8"), "b": ArraySpace((), "bool")}, 3, 1, 8
    )
    observation, numbers = trial_inputs(spaces, 4)
    assert (observation["a"].shape, observation["a"].dtype) == ((4, 2, 2), torch.uint8)
    assert (observation["b"].shape, observation["b"].dtype) == ((4,), torch.bool)
    assert numbers.shape == (4, 3)
