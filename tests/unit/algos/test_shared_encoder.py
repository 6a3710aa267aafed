"""Encoders that policies and critics share: one pass, the gradient of a bare replica, refused settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.base import Algorithm
from hpcmarl.config import AlgoConfig, COMAConfig, MATraceConfig, NetworkConfig, PPOConfig
from hpcmarl.errors import ConfigError
from hpcmarl.nets.policy import LayeredPolicy
from hpcmarl.types import EnvironmentSpec, ObservationPart, PolicySpec, Rollout
from tests.support.rollouts import DISCRETE, act_out, make_spec, random_rollout

RECORD = (ObservationPart("image", (9, 8, 2), "uint8"), ObservationPart("place", (3,), "float32"))
ONE = make_spec(PolicySpec("mixed", ("m0", "m1", "m2"), (), DISCRETE, True, observation_parts=RECORD))
TWO = make_spec(
    PolicySpec("seer", ("s0", "s1"), (9, 8, 2), DISCRETE, True, "uint8"),
    PolicySpec("other", ("m0", "m1", "m2"), (9, 8, 2), DISCRETE, True, "uint8"),
)
IMAGES = make_spec(PolicySpec("seer", ("s0", "s1"), (9, 8, 2), DISCRETE, observation_type="uint8"))
CNN = {"encoder": "cnn", "cnn": {"architecture": "impala", "features": 6}}
DICT = {"keys": {"image": CNN}}
CRITIC = NetworkConfig(hidden=(5,), body="lstm", memory=3)


def network(encoder: dict[str, Any], body: str = "mlp") -> NetworkConfig:
    return NetworkConfig.model_validate({**encoder, "body": body, "hidden": (5,), "memory": 4})


def ma_trace(encoder: dict[str, Any], body: str = "mlp", **more: Any) -> MATraceConfig:
    section = network(encoder, body)
    return MATraceConfig(network=section, shared_encoder=True, rho_max=100.0, ratios="agent", **more)


def ppo(encoder: dict[str, Any], body: str = "mlp", **more: Any) -> PPOConfig:
    return PPOConfig(network=network(encoder, body), shared_encoder=True, **more)


SHARED: dict[str, tuple[EnvironmentSpec, AlgoConfig]] = {
    "joint": (ONE, ma_trace(DICT)),
    "agent": (ONE, ma_trace(DICT, "lstm", critic_input="agent", agent_id=True)),
    "agent of state": (ONE, ma_trace(DICT, "gru", critic_input="agent", critic="state")),
    "independent": (ONE, ppo(DICT, "gru", critic="independent", agent_id=True)),
    "once": (ONE, ppo(DICT, critic="independent", advantages="once", value_clip=0.2)),
    "remembering": (ONE, ppo(DICT, "gru", critic_network=CRITIC)),
    "two policies": (TWO, ma_trace(CNN)),
    "coma": (TWO, COMAConfig(network=network(CNN, "gru"), shared_encoder=True, rho_max=100.0)),
    "coma state": (
        ONE,
        COMAConfig(network=network(DICT), shared_encoder=True, critic="state", rho_max=100.0),
    ),
}


def made(name: str, **changes: Any) -> Algorithm:
    spec, config = SHARED[name]
    return make_algorithm(spec, config.model_copy(update=changes), 3)


def own_rollouts(algorithm: Algorithm, deaths: bool = True) -> list[Rollout]:
    rollouts = [
        random_rollout(algorithm.spec, 6, 3, np.random.default_rng(seed), deaths=deaths) for seed in range(2)
    ]
    for seed, rollout in enumerate(rollouts):
        act_out(algorithm, rollout, seed)
    return rollouts


def encoder_places(algorithm: Algorithm) -> dict[str, slice]:
    return {name: place for name, place in algorithm.layout.places.items() if ".encoder" in name}


@pytest.mark.parametrize("name", SHARED)
def test_shared_encoders_evaluate_their_own_actions(name: str) -> None:
    algorithm = made(name)
    rollouts = algorithm.begin_batch(own_rollouts(algorithm))
    vector, statistics = algorithm.gradient(rollouts)
    assert np.isfinite(vector).all()
    if name != "once":
        assert statistics["mean_rho"] == pytest.approx(1.0, abs=1e-4)
    places = encoder_places(algorithm)
    assert not any("critic" in place for place in places)
    for parameter, place in places.items():
        if parameter.endswith("weight"):
            assert np.any(vector[place]), f"{parameter} has no gradient"


@pytest.mark.parametrize("name", SHARED)
def test_shared_encoder_runs_once_with_a_gradient(name: str) -> None:
    algorithm = made(name)
    rollouts = algorithm.begin_batch(own_rollouts(algorithm))
    calls: dict[str, list[bool]] = {}
    for policy, module in algorithm._policies.items():
        assert isinstance(module, LayeredPolicy)
        assert module.encoder is not None
        seen = calls.setdefault(policy, [])
        module.encoder.register_forward_hook(
            lambda _module, _inputs, features, seen=seen: seen.append(features.requires_grad)
        )
    algorithm.gradient(rollouts)
    for seen in calls.values():
        # rows after the unrolls are encoded apart, for algorithms that need their values
        assert seen in ([True], [True, False])
        assert (len(seen) == 1) == (name.startswith("coma") or name == "once")


@pytest.mark.parametrize("name", ["joint", "remembering", "two policies", "coma"])
def test_gradient_of_shared_encoders_is_additive(name: str) -> None:
    algorithm = made(name, normalise_advantages=False)
    rollouts = own_rollouts(algorithm)
    together, _ = algorithm.gradient(rollouts)
    apart = sum(algorithm.gradient([rollout])[0] for rollout in rollouts)
    np.testing.assert_allclose(together, apart, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SHARED)
def test_each_loss_trains_the_whole_encoder(name: str) -> None:
    critics = made(name, value_cost=0.0, entropy_cost=0.0)
    rollouts = own_rollouts(critics)
    with_critic = made(name, entropy_cost=0.0)
    actors, _ = critics.gradient(critics.begin_batch(rollouts))
    both, _ = with_critic.gradient(with_critic.begin_batch(rollouts))
    for parameter, place in encoder_places(critics).items():
        if parameter.endswith("weight"):
            assert np.any(actors[place]), f"{parameter} has no gradient of the policy"
            assert np.any(both[place] - actors[place]), f"{parameter} has no gradient of the critic"


class Replica(nn.Module):
    """One convolutional encoder with a policy head and a value head, as written by hand."""

    def __init__(self, arrays: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.names = list(arrays)
        self.values = nn.ParameterList(nn.Parameter(array) for array in arrays.values())

    def forward(self, image: torch.Tensor, together: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits [T, B, N, A] and values [T, B, N], or [T, B] of all agents' features."""
        own = dict(zip(self.names, self.values, strict=True))
        hidden = image.flatten(0, 2).float().permute(0, 3, 1, 2) / 255
        for block in range(3):
            weights = [
                (
                    own[f"seer.actor.encoder.blocks.{block}.convolutions.{index}.weight"],
                    own[f"seer.actor.encoder.blocks.{block}.convolutions.{index}.bias"],
                )
                for index in range(5)
            ]
            hidden = functional.max_pool2d(functional.conv2d(hidden, *weights[0], padding=1), 3, 2, 1)
            for first in (1, 3):
                inner = functional.conv2d(functional.relu(hidden), *weights[first], padding=1)
                hidden = hidden + functional.conv2d(functional.relu(inner), *weights[first + 1], padding=1)
        dense = [own[f"seer.actor.encoder.dense.layers.0.{kind}"] for kind in ("weight", "bias")]
        features = functional.relu(functional.linear(functional.relu(hidden).flatten(1), *dense)).view(
            *image.shape[:3], -1
        )
        seen = features.flatten(2) if together else features
        return self._head(features, "seer.actor.outputs", own), self._head(
            seen, "seer.critic.layers", own
        ).squeeze(-1)

    @staticmethod
    def _head(hidden: torch.Tensor, name: str, own: dict[str, nn.Parameter]) -> torch.Tensor:
        first, second = (
            (own[f"{name}.layers.{index}.weight"], own[f"{name}.layers.{index}.bias"]) for index in (0, 1)
        )
        return functional.linear(torch.tanh(functional.linear(hidden, *first)), *second)


@pytest.mark.parametrize("critic", ["independent", "joint_observation"])
def test_shared_gradient_equals_a_bare_replica(critic: str) -> None:
    together = critic != "independent"
    config = ma_trace(CNN, critic=critic, entropy_cost=0.03, value_cost=0.4, discount=0.9)
    algorithm = make_algorithm(IMAGES, config, 5)
    rollout = own_rollouts(algorithm, deaths=False)[0]
    part, steps = rollout.policies["seer"], rollout.steps
    rollout.episode_end[:] = 0
    part.terminated[:] = part.truncated[:] = False
    vector, _ = algorithm.gradient([rollout])
    named = {name: torch.from_numpy(array.copy()) for name, array in algorithm.named_parameters().items()}
    replica = Replica(named)
    logits, values = replica(torch.from_numpy(part.obs), together)
    reward = torch.from_numpy(part.reward.mean(-1) if together else part.reward)
    # all ratios are 1, so that the targets are discounted sums of rewards that end in the last value
    target, targets = values[steps].detach(), []
    for step in reversed(range(steps)):
        target = reward[step] + 0.9 * target
        targets.insert(0, target)
    wanted = torch.stack(targets)
    error = wanted - values[:steps]
    every = functional.log_softmax(logits[:steps], -1)
    logp = every.gather(-1, torch.from_numpy(part.action).long()[..., None]).squeeze(-1)
    advantage = error.detach()[..., None] if together else error.detach()
    gain = (logp * advantage).sum() - 0.03 * (every.exp() * every).sum()
    squares = error.square().sum() / (1 if together else 2)
    ((gain - 0.4 * squares) / steps).backward()  # type: ignore[no-untyped-call]
    for name, parameter in zip(replica.names, replica.values, strict=True):
        assert parameter.grad is not None
        got = vector[algorithm.layout.places[name]].reshape(parameter.shape)
        scale = float(parameter.grad.abs().max())
        np.testing.assert_allclose(got, parameter.grad.numpy(), rtol=1e-5, atol=1e-5 * max(scale, 1.0))


def test_shared_encoder_belongs_to_the_actor() -> None:
    algorithm = made("independent")
    (actor,) = (part.place for part in algorithm.parts if part.kind == "actor")
    acting = set(algorithm.acting_parameters("mixed"))
    for name, place in encoder_places(algorithm).items():
        assert actor.start <= place.start < place.stop <= actor.stop
        assert name in acting


def test_shared_encoder_needs_an_encoder() -> None:
    flat = PPOConfig(shared_encoder=True, critic="independent")
    with pytest.raises(ConfigError, match=r"algo\.shared_encoder: true needs an encoder.*flat") as caught:
        make_algorithm(make_spec(), flat, 0)
    assert "\n" not in str(caught.value)


def test_batch_without_living_agents_has_no_gradient() -> None:
    algorithm = made("independent")
    rollout = own_rollouts(algorithm)[0]
    rollout.policies["mixed"].alive[:] = False
    vector, _ = algorithm.gradient([rollout])
    assert not vector.any()
