"""Comparisons of gradients: with literal implementations, exact enumeration and torchrl."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np
import torch

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.actor_critic import Columns
from hpcmarl.config import (
    AgentNetworkConfig,
    COMAConfig,
    IQLConfig,
    MATraceConfig,
    NetworkConfig,
    PPOConfig,
    ReinforceConfig,
)
from hpcmarl.nets.mixers import SumMixer
from hpcmarl.types import Array, EnvironmentSpec, Rollout
from tests.reference import action_critic, coma, enumeration, ma_trace, ppo, q_learning, reinforce
from tests.reference import torchrl as theirs
from tests.support import action_critics
from tests.support.algorithms import TEAM_AND_PREY, TURNS, TWO_TEAMS, rollouts_of
from tests.support.comparisons.base import compared
from tests.support.rollouts import MULTI_DISCRETE, make_spec, random_rollout
from tests.support.value_based import SETTINGS, episodes, make

TEAM = make_spec()
NETWORK = NetworkConfig(hidden=(5,))
ROUNDING = 1e-5  # bound for single precision, relative to the largest entry
Pair = tuple[Any, Any]


def _random(spec: EnvironmentSpec, config: Any, seed: int) -> Any:
    """Make an algorithm with random parameters and other random parameters in its target networks."""
    algorithm = make_algorithm(spec, config, 0)
    generator = np.random.default_rng(seed)
    for version in range(2):
        algorithm.load_parameters(generator.standard_normal(algorithm.size).astype(np.float32) * 0.6)
        algorithm.on_version(version)
    return algorithm


# ---- literal implementations


@compared(
    "algorithm",
    "reinforce",
    "gradient of whole episodes",
    "double sum of the paper, `tests/reference/reinforce.py`",
    bound=ROUNDING,
    cases=24,
    few=4,
)
def reinforce_literal(seed: int) -> Pair:
    """Compare the gradient of REINFORCE with its double sum."""
    spec = (TEAM, make_spec(action=MULTI_DISCRETE, has_mask=True), TEAM_AND_PREY, TURNS)[seed % 4]
    algorithm = _random(spec, ReinforceConfig(discount=0.9, network=NETWORK), seed)
    generator = np.random.default_rng(seed)
    rollouts = [
        random_rollout(spec, length, 1, generator, deaths=True, whole_episode=True) for length in (3, 8, 1, 5)
    ]
    return algorithm.gradient(rollouts)[0], reinforce.literal_gradient(algorithm, rollouts, 0.9)


def _actor_critic(
    settings: list[tuple[EnvironmentSpec, dict[str, Any]]], config: Any, reference: ModuleType, seed: int
) -> Pair:
    spec, keys = settings[seed % len(settings)]
    algorithm = _random(
        spec,
        config(**{"network": NETWORK, "discount": 0.9, "trace_lambda": 0.8, "entropy_cost": 0.1, **keys}),
        seed,
    )
    rollouts = rollouts_of(spec, seed=seed, count=1)
    return algorithm.gradient(rollouts)[0], reference.literal_gradient(algorithm, rollouts)


MA_TRACE: list[tuple[EnvironmentSpec, dict[str, Any]]] = [
    (TEAM, {"critic": "joint_observation"}),
    (TEAM_AND_PREY, {"critic": "state"}),
    (TEAM_AND_PREY, {"critic": "joint_observation", "ratios": "agent"}),
    (TURNS, {"critic": "independent"}),
    (TEAM, {"critic": "state", "agent_id": True}),
    (TEAM_AND_PREY, {"critic": "independent", "agent_id": True}),
    (TEAM, {"critic": "state", "importance_sampling": False}),
    (TEAM_AND_PREY, {"critic": "state", "teams": (("team", "prey"),)}),
]
PPO: list[tuple[EnvironmentSpec, dict[str, Any]]] = [
    (TEAM, {"critic": "joint_observation", "agent_id": True}),
    (TEAM_AND_PREY, {"critic": "state"}),
    (TURNS, {"critic": "independent"}),
    (TEAM_AND_PREY, {"critic": "independent", "agent_id": True}),
]
COMA: list[tuple[EnvironmentSpec, dict[str, Any]]] = [
    (TEAM, {"critic": "joint_observation"}),
    (TWO_TEAMS, {"critic": "state"}),
    (TEAM, {"critic": "state", "agent_id": True}),
    (TWO_TEAMS, {"critic": "joint_observation"}),
]


@compared(
    "algorithm",
    "ma_trace",
    "gradient, with deaths and ends",
    "`tests/reference/ma_trace.py`",
    bound=ROUNDING,
    cases=24,
    few=8,
)
def ma_trace_literal(seed: int) -> Pair:
    """Compare the gradient of MA-Trace with its literal implementation."""
    clips = [(spec, {"rho_max": 1.5, "c_max": 1.2, **keys}) for spec, keys in MA_TRACE]
    return _actor_critic(clips, MATraceConfig, ma_trace, seed)


@compared(
    "algorithm",
    "ppo",
    "gradient, with deaths and ends",
    "`tests/reference/ppo.py`",
    bound=ROUNDING,
    cases=20,
    few=4,
)
def ppo_literal(seed: int) -> Pair:
    """Compare the gradient of PPO with its literal implementation."""
    plain = [(spec, {"normalise_advantages": False, **keys}) for spec, keys in PPO]
    return _actor_critic(plain, PPOConfig, ppo, seed)


@compared(
    "algorithm",
    "coma",
    "gradient, with deaths and ends",
    "`tests/reference/coma.py`",
    bound=ROUNDING,
    cases=20,
    few=4,
)
def coma_literal(seed: int) -> Pair:
    """Compare the gradient of COMA with its literal implementation."""
    return _actor_critic([(spec, {"rho_max": 1.2, **keys}) for spec, keys in COMA], COMAConfig, coma, seed)


def _value_based(name: str) -> None:
    """Add a value-based algorithm with each of its settings in tests/support/value_based.py in turn."""
    settings = [keys for each, keys in SETTINGS if each == name]

    def literal(seed: int) -> Pair:
        algorithm = make(name, seed=seed + 1, **settings[seed % len(settings)])
        rollouts = episodes(algorithm.spec, seed=seed)
        return algorithm.gradient(rollouts)[0], q_learning.literal_gradient(algorithm, rollouts)

    few = len(settings)
    compared(
        "algorithm",
        name,
        "gradient, with deaths and ends",
        "`tests/reference/q_learning.py`",
        bound=ROUNDING,
        cases=12,
        few=few,
    )(literal)


for _name in dict.fromkeys(name for name, _ in SETTINGS):
    _value_based(_name)


def _action_critic(name: str) -> None:
    """Add MADDPG or MASAC with each of its cases in tests/support/action_critics.py in turn."""
    cases = [(spec, keys) for each, spec, keys in action_critics.CASES if each == name]

    def literal(seed: int) -> Pair:
        spec, keys = cases[seed % len(cases)]
        algorithm = action_critics.make(name, spec, seed=seed + 1, target_rate=0.5, **keys)
        rollouts = episodes(spec, seed=seed, lengths=(3, 5, 1))
        wanted = action_critic.literal_gradient(algorithm, rollouts)
        return algorithm.gradient(rollouts)[0], wanted

    compared(
        "algorithm",
        name,
        "gradient of actors, critics and costs, with deaths and ends",
        "`tests/reference/action_critic.py`",
        bound=ROUNDING,
        cases=2 * len(cases),
        few=3,
    )(literal)


for _name in action_critics.CONFIGS:
    _action_critic(_name)


# ---- the exact gradient


def _enumerated(config: Any, seed: int, scale: float, discount: float) -> Pair:
    return _actor_gradients(
        _random(enumeration.GAME, config, seed), enumeration.all_trajectories(seed), scale, discount
    )


def _actor_gradients(algorithm: Any, rollout: Rollout, scale: float, discount: float) -> Pair:
    """Return the expected gradient of the actor and the exact one."""
    actor = np.concatenate(
        [np.arange(part.place.start, part.place.stop) for part in algorithm.parts if part.kind == "actor"]
    )
    found = scale * enumeration.expected_gradient(algorithm, rollout)
    return found[actor], enumeration.exact_gradient(algorithm, rollout, discount)[actor]


EXACT = "exact gradient: all 16 trajectories of a game of two agents and two steps"


@compared("algorithm", "reinforce", "expected gradient", EXACT, bound=1e-5, cases=20)
def reinforce_enumerated(seed: int) -> Pair:
    """Compare the expected gradient of REINFORCE with the exact one."""
    return _enumerated(ReinforceConfig(network=NETWORK, discount=0.9), seed, 1.0, 0.9)


def _undiscounted(config: Any, **keys: Any) -> Any:
    """Return settings without bias: whole episodes, no discount and whole returns.

    The critic is random and must not matter.
    """
    return config(network=NETWORK, discount=1.0, trace_lambda=1.0, entropy_cost=0.0, critic="state", **keys)


@compared("algorithm", "ma_trace", "expected gradient of the actor, on-policy", EXACT, bound=1e-5, cases=20)
def ma_trace_enumerated(seed: int) -> Pair:
    """Compare the expected actor gradient of MA-Trace with the exact one."""
    return _enumerated(_undiscounted(MATraceConfig), seed, enumeration.STEPS, 1.0)


@compared("algorithm", "ppo", "expected gradient of the actor, on-policy", EXACT, bound=1e-5, cases=20)
def ppo_enumerated(seed: int) -> Pair:
    """Compare the expected actor gradient of PPO with the exact one."""
    return _enumerated(_undiscounted(PPOConfig, normalise_advantages=False), seed, enumeration.STEPS, 1.0)


@compared(
    "algorithm",
    "coma",
    "expected gradient of the actor, exact critic",
    "exact gradient: all 4 joint actions of a game of one step",
    bound=1e-5,
    cases=20,
)
def coma_enumerated(seed: int) -> Pair:
    """Compare the expected actor gradient of COMA with the exact one, in a game of one step.

    With one step, a linear critic of the other agent's action can represent the true values of all own
    actions.
    """
    rollout = enumeration.all_trajectories(seed, 1)
    config = COMAConfig(network=NetworkConfig(hidden=()), discount=1.0, entropy_cost=0.0, critic="state")
    algorithm = _random(enumeration.GAME, config, seed)
    part = rollout.policies["agent"]
    worth = {
        tuple(actions): float(reward)
        for actions, reward in zip(part.action[0].tolist(), part.reward[0].mean(-1), strict=True)
    }
    critic = dict(algorithm._critics["agent"].named_parameters())
    weight = next(parameter for parameter in critic.values() if parameter.ndim == 2)
    with torch.no_grad():
        for parameter in critic.values():
            parameter.zero_()
        first = enumeration.GAME.state_size
        for own, other in itertools.product(range(enumeration.ACTIONS), repeat=2):
            # values for the second agent, then for the first
            weight[own, first + other] = worth[other, own]
            weight[own, first + enumeration.ACTIONS + other] = worth[own, other]
    return _actor_gradients(algorithm, rollout, 1.0, 1.0)


# ---- torchrl


@compared(
    "algorithm",
    "qmix",
    "mixer: joint value and all gradients",
    "torchrl `QMixer`",
    bound=1e-5,
    cases=30,
    needs="torchrl",
)
def qmix_mixer(seed: int) -> Pair:
    """Compare the mixer of QMIX with torchrl's."""
    agents, state, width, hyper = ((3, 7, 8, 12), (1, 4, 3, 5), (10, 60, 32, 64))[seed % 3]
    return theirs.mixed(agents, state, width, hyper, seed)


@compared(
    "algorithm", "vdn", "mixer: joint value", "torchrl `VDNMixer`", bound=1e-6, cases=30, needs="torchrl"
)
def vdn_mixer(seed: int) -> Pair:
    """Compare the mixer of VDN with torchrl's."""
    utilities = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    twin = theirs.mixers().VDNMixer(n_agents=4, device="cpu")
    return SumMixer()(utilities, None), twin(utilities.unsqueeze(-1)).squeeze(-1)


@compared(
    "algorithm",
    "iql",
    "TD(λ) targets of agents that die",
    "torchrl `td_lambda_return_estimate`",
    bound=1e-5,
    cases=50,
    few=5,
    needs="torchrl",
)
def iql_targets(seed: int) -> Pair:
    """Compare the TD(lambda) targets of IQL with torchrl's."""
    generator = np.random.default_rng(seed)
    discount, trace_lambda, steps = (
        generator.uniform(0.5, 1.0),
        generator.uniform(),
        int(generator.integers(2, 15)),
    )
    config = IQLConfig(discount=discount, trace_lambda=trace_lambda, network=AgentNetworkConfig(body="mlp"))
    algorithm: Any = make_algorithm(TEAM, config, 0)
    part = random_rollout(TEAM, steps, 1, generator, deaths=True, whole_episode=True).policies["agent"]
    future = generator.standard_normal((steps + 1, 1, 3)).astype(np.float32)
    last = np.zeros((1, 3), np.float32)
    columns = Columns(
        future[:-1], last, future[1:], part.reward, part.alive[:-1], part.terminated, part.truncated
    )
    found: Array = algorithm._targets(columns, torch.from_numpy(future)).numpy()
    return found, theirs.lambda_returns(columns, discount, trace_lambda)


@compared(
    "algorithm",
    "ppo",
    "advantages and targets (GAE)",
    "torchrl `generalized_advantage_estimate`",
    bound=1e-5,
    cases=50,
    few=5,
    needs="torchrl",
)
def ppo_advantages(seed: int) -> Pair:
    """Compare the advantages and targets of PPO with torchrl's."""
    generator = np.random.default_rng(seed)
    discount, trace_lambda = generator.uniform(0.5, 1.0), generator.uniform()
    data, _ = theirs.random_columns(seed, int(generator.integers(1, 41)), 3, (1.0, 0.6)[seed % 2])
    algorithm: Any = make_algorithm(TEAM, PPOConfig(discount=discount, trace_lambda=trace_lambda), 0)
    found = algorithm._trace(algorithm.spec.policies[0], data, None, {})
    return (found.advantages, found.targets), theirs.generalised_advantages(data, discount, trace_lambda)
