"""Descriptions of algorithms without torch: networks, choosers, and facts that other roles need.

`make_design` checks an environment against a configuration and describes the algorithm's networks. Every rank
builds a Model from the description (model.py). Learners also build torch modules (base.py). Each algorithm
has a function in this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from hpcmarl import plugins
from hpcmarl.algos.action_networks import action_networks
from hpcmarl.algos.common_reward import check_common_reward
from hpcmarl.algos.network_design import (
    ACTIONS,
    AGENT,
    OWN,
    actor_shapes,
    central_fields,
    critic_shape,
    mixer_module,
    policy_shape,
    value_fields,
)
from hpcmarl.config import (
    ActionCriticConfig,
    ActorCriticConfig,
    AlgoConfig,
    COMAConfig,
    MATraceConfig,
    MixingConfig,
    QLearningConfig,
    ReinforceConfig,
    ValueCriticConfig,
    WQMIXConfig,
)
from hpcmarl.errors import ConfigError
from hpcmarl.maths.schedules import falling
from hpcmarl.nets.choosers import Chooser, EpsilonGreedy, make_chooser
from hpcmarl.nets.input_form import Field
from hpcmarl.nets.layer_shapes import FIRST_VALUE_GAIN, ConstantShape, GroupShape, MomentsShape, Shape
from hpcmarl.nets.shapes import (
    CriticShape,
    MonotonicMixerShape,
    PolicyShape,
    SumMixerShape,
    UnrestrictedMixerShape,
)
from hpcmarl.types import EnvironmentSpec, PartKind, PolicySpec

# Name of the module of all networks besides the policies. No policy can have this name.
OTHERS = "(team)"
# Name of the moments that normalise the mixers' inputs.
MOMENTS = "moments of the state"


@dataclass(frozen=True)
class TargetSchedule:
    """Schedule by which a target network follows the trained one.

    Attributes:
        every: Versions between two copies.
        rate: Share of the distance that the target network moves at each version, instead of copies; None:
            copies.
    """

    every: int
    rate: float | None = None


@dataclass(frozen=True)
class Design:
    """The networks of an algorithm.

    Attributes:
        spec: The environment.
        config: Configuration of the algorithm.
        policies: Network of each policy.
        choosers: Chooser of each policy's agents. Choosers belong to one model, since they have state.
        modules: All trained networks by policy, including the policies' own networks.
        parts: Parts that are optimised separately: name, kind, and prefix of the parameters' names. Empty:
            each module is one part.
        needs_state: Whether rollouts must carry the environment's state.
        known_critic_inputs: Whether critics see all observations, one observation, or the state alone. Such
            critics can be widened (transfer.py).
        averaging_rate: Weight of each update in the running averages (nets/moments.py).
        target: Schedule of a target network for everything trained; None: no target network.
        counts_operations: Whether the floating-point operations of a step are counted.
    """

    spec: EnvironmentSpec
    config: AlgoConfig
    policies: Mapping[str, PolicyShape]
    choosers: Mapping[str, Chooser]
    modules: Mapping[str, Shape]
    parts: tuple[tuple[str, PartKind, str], ...] = ()
    needs_state: bool = False
    known_critic_inputs: bool = True
    averaging_rate: float = 0.0
    target: TargetSchedule | None = None
    counts_operations: bool = False


def make_design(spec: EnvironmentSpec, config: AlgoConfig) -> Design:
    """Describe the networks of the algorithm `algo.name`.

    Args:
        spec: The environment.
        config: Configuration of the algorithm.

    Raises:
        ConfigError: If the name is unknown, or if the environment does not fit the configuration.
        UsageError: If actions are unbounded.
    """
    design = DESIGNS.get(config.name) or plugins.need("algorithms", config.name, DESIGNS).design
    check_common_reward(spec, config)
    described: Design = design(spec, config)
    return described


# ---- REINFORCE


def reinforce_design(spec: EnvironmentSpec, config: ReinforceConfig) -> Design:
    """Describe policies without critics."""
    choosers = {policy.name: make_chooser(policy.action) for policy in spec.policies}
    policies = {
        policy.name: policy_shape(spec, policy, config.network, choosers[policy.name].raw_size)
        for policy in spec.policies
    }
    return Design(spec, config, policies, choosers, policies)


# ---- actor-critics


def value_critic_design(spec: EnvironmentSpec, config: ValueCriticConfig) -> Design:
    """Describe policies with critics of observations or states (value_critic.py)."""
    each = config.critic != "independent" and config.critic_input == "agent"
    if isinstance(config, MATraceConfig):
        if config.critic == "independent" and config.ratios == "joint":
            raise ConfigError(
                "algo.ratios: joint does not go with algo.critic: independent, which has one value per "
                "agent; use "
                "algo.ratios: agent"
            )
        teammates(spec, config)
    critics = {
        policy.name: critic_shape(spec, policy, config, value_fields(spec, policy, config))
        for policy in spec.policies
    }
    return replace(_actor_critic_design(spec, config, critics), known_critic_inputs=not each)


def coma_design(spec: EnvironmentSpec, config: COMAConfig) -> Design:
    """Describe policies with critics of joint actions (coma.py)."""
    check_coma(spec, config)
    joint = sum(len(policy.agents) * policy.action.sizes[0] for policy in spec.policies)
    critics = {}
    for policy in spec.policies:
        fields = [*central_fields(spec, config), Field(ACTIONS, joint)]
        if config.critic == "state":
            fields.append(Field.observation(OWN, policy))
        fields.append(Field(AGENT, len(policy.agents)))
        critics[policy.name] = critic_shape(spec, policy, config, fields, policy.action.sizes[0] + 1)
    return replace(_actor_critic_design(spec, config, critics), target=TargetSchedule(config.target_every))


def _actor_critic_design(
    spec: EnvironmentSpec, config: ActorCriticConfig, critics: Mapping[str, CriticShape]
) -> Design:
    check_actor_critic(spec, config)
    choosers = {policy.name: make_chooser(policy.action) for policy in spec.policies}
    policies = actor_shapes(spec, config, choosers)
    cost = (
        {}
        if config.target_entropy is None
        else {"cost": ConstantShape("logarithm", math.log(config.entropy_cost))}
    )
    modules = {
        name: GroupShape({"actor": policies[name], "critic": critics[name], **cost}) for name in policies
    }
    kinds: tuple[PartKind, ...] = ("actor", "critic", "cost") if cost else ("actor", "critic")
    parts = tuple((name, kind, f"{name}.{kind}.") for name in policies for kind in kinds)
    return Design(
        spec,
        config,
        policies,
        choosers,
        modules,
        parts,
        needs_state=config.critic == "state",
        averaging_rate=config.normalisation_rate,
    )


def check_actor_critic(spec: EnvironmentSpec, config: ActorCriticConfig) -> None:
    """Check that the environment fits the configuration.

    Raises:
        ConfigError: One line that names the key, the value and the remedy.
    """
    if config.critic == "state" and spec.state_size is None:
        raise ConfigError(
            f"algo.critic: state needs the environment's state, and {spec.id} has none; use algo.critic: "
            "joint_observation "
            "or independent"
        )
    if (
        spec.turn_based
        and config.critic != "independent"
        and any(len(policy.agents) > 1 for policy in spec.policies)
    ):
        raise ConfigError(
            "algo.critic: independent is needed for turn-based games whose agents share a policy, not "
            f"{config.critic} (env.id: {spec.id})"
        )
    if config.target_entropy is not None:
        if any(policy.action.kind == "continuous" for policy in spec.policies):
            raise ConfigError(
                f"algo.target_entropy: {config.target_entropy} needs discrete actions, {spec.id} has "
                "continuous ones; set it to null"
            )
        if config.entropy_cost == 0:
            raise ConfigError(
                "algo.entropy_cost: 0 cannot start a learned cost; with algo.target_entropy it must be above "
                "0, for instance 0.01"
            )


def check_coma(spec: EnvironmentSpec, config: COMAConfig) -> None:
    """Check that the environment fits COMA.

    Raises:
        ConfigError: One line that names the key, the value and the remedy.
    """
    if spec.turn_based and any(len(policy.agents) > 1 for policy in spec.policies):
        raise ConfigError(
            f"algo.name: coma needs simultaneous actions of a policy's agents, but in {spec.id} they take "
            "turns; use algo.name: ppo or ma_trace with algo.critic: independent"
        )
    for policy in spec.policies:
        if policy.action.kind != "discrete":
            raise ConfigError(
                f"algo.name: coma needs discrete actions, but policy {policy.name} of "
                f"{spec.id} has {policy.action.kind} ones; use algo.name: ppo or ma_trace"
            )


def teammates(spec: EnvironmentSpec, config: MATraceConfig) -> dict[str, tuple[str, ...]]:
    """Return the policies of each policy's team, including itself.

    Raises:
        ConfigError: If algo.teams names an unknown policy, or is set for a turn-based game.
    """
    names = [policy.name for policy in spec.policies]
    given = spec.teams if config.teams == "auto" else config.teams
    if config.teams != "auto":
        if spec.turn_based:
            raise ConfigError(
                f"algo.teams: {spec.id} is turn-based, where a ratio covers a policy's own decision; remove "
                "the key"
            )
        if unknown := [name for team in given for name in team if name not in names]:
            raise ConfigError(
                f"algo.teams: {spec.id} has no policy {unknown[0]}; allowed: {', '.join(names)}"
            )
    mates: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
    return mates if spec.turn_based else mates | {name: team for team in given for name in team}


# ---- value-based algorithms


def iql_design(spec: EnvironmentSpec, config: QLearningConfig) -> Design:
    """Describe agents with individual action values."""
    return _q_learning_design(spec, config, {})


def mixed_design(spec: EnvironmentSpec, config: QLearningConfig) -> Design:
    """Describe agents with a mixer of their values (mixed.py)."""
    if spec.turn_based:
        raise ConfigError(
            f"algo.name: {config.name} needs simultaneous actions, but in {spec.id} agents take turns; "
            "use iql, ma_trace or ppo"
        )
    seen = mixer_state(spec, config)
    size, agents = mixer_state_size(spec, seen), sum(len(policy.agents) for policy in spec.policies)
    others: dict[str, Shape] = {"mixer": SumMixerShape()}
    if isinstance(config, MixingConfig) and config.mixer_module is not None:
        others["mixer"] = mixer_module(config, agents, size)
    elif isinstance(config, MixingConfig):
        others["mixer"] = MonotonicMixerShape(
            agents, size, config.mixing_width, config.hypernetwork_width, config.hypernetwork_activation
        )
    if config.normalise_observations and seen != "none":
        others[MOMENTS] = MomentsShape(size)
    if isinstance(config, WQMIXConfig):
        others["central mixer"] = UnrestrictedMixerShape(agents, size, config.central_width)
        others |= {f"central {policy.name}": _agent_shape(spec, policy, config) for policy in spec.policies}
    design = _q_learning_design(spec, config, others)
    # One loss trains everything, so clipping and normalisation apply to the whole gradient.
    return replace(design, parts=(("team", "actor", ""),), needs_state=seen == "state")


def mixer_state(
    spec: EnvironmentSpec, config: QLearningConfig
) -> Literal["state", "joint_observation", "none"]:
    """Return the kind of input that the mixer has.

    Raises:
        ConfigError: If the environment does not provide it.
    """
    if not isinstance(config, MixingConfig):
        return "none"
    if config.mixer_state == "state" and spec.state_size is None:
        raise ConfigError(
            f"algo.mixer_state: state needs the environment's state, and {spec.id} has none; use "
            "algo.mixer_state: joint_observation"
        )
    if config.mixer_state == "auto":
        return "state" if spec.state_size is not None else "joint_observation"
    return config.mixer_state


def mixer_state_size(spec: EnvironmentSpec, seen: Literal["state", "joint_observation", "none"]) -> int:
    """Return S, the size of the mixer's input."""
    if seen == "state":
        return spec.state_size or 0
    return sum(len(policy.agents) * policy.observation_size for policy in spec.policies)


def _q_learning_design(spec: EnvironmentSpec, config: QLearningConfig, others: Mapping[str, Shape]) -> Design:
    check_q_learning(spec, config)
    schedule = partial(falling, config.epsilon_start, config.epsilon_final, config.epsilon_steps)
    choosers = {
        policy.name: EpsilonGreedy(policy.action, config.epsilon_final, schedule) for policy in spec.policies
    }
    policies = {policy.name: _agent_shape(spec, policy, config) for policy in spec.policies}
    if config.sparse is not None:
        _check_sparse(spec, policies)
    return Design(
        spec,
        config,
        policies,
        choosers,
        {**policies, OTHERS: GroupShape(others)} if others else policies,
        averaging_rate=config.normalisation_rate,
        target=TargetSchedule(config.target_every, config.target_rate),
        counts_operations=True,
    )


def action_critic_design(spec: EnvironmentSpec, config: ActionCriticConfig) -> Design:
    """Describe actors with critics of actions (action_critic.py)."""
    networks = action_networks(spec, config)
    return Design(
        spec,
        config,
        networks.policies,
        networks.choosers,
        networks.modules,
        networks.parts,
        needs_state=config.critic == "state",
        known_critic_inputs=False,
        averaging_rate=config.normalisation_rate,
        target=TargetSchedule(config.target_every, config.target_rate),
    )


def _check_sparse(spec: EnvironmentSpec, policies: Mapping[str, PolicyShape]) -> None:
    """Refuse sparse training of networks that have more than dense layers and a GRU."""
    for name, shape in policies.items():
        if not shape.in_numpy:
            raise ConfigError(
                "algo.sparse needs agents of flat inputs, dense layers and a GRU, but the network of "
                f"policy {name} of {spec.id} has a module, an encoder, an LSTM or layer norm; remove "
                "algo.sparse"
            )


def _agent_shape(spec: EnvironmentSpec, policy: PolicySpec, config: QLearningConfig) -> PolicyShape:
    return policy_shape(
        spec,
        policy,
        config.network,
        policy.action.sizes[0],
        FIRST_VALUE_GAIN,
        normalise=config.normalise_observations,
        agent_id=config.agent_id,
        last_action=config.obs_last_action,
        dueling=config.network.dueling,
    )


def check_q_learning(spec: EnvironmentSpec, config: QLearningConfig) -> None:
    """Check that all actions are discrete.

    Raises:
        ConfigError: One line that names the key, the value and the remedy.
    """
    for policy in spec.policies:
        if policy.action.kind != "discrete":
            raise ConfigError(
                f"algo.name: {config.name} needs discrete actions, but policy {policy.name} of "
                f"{spec.id} has {policy.action.kind} ones; use ma_trace, ppo or reinforce"
            )


DESIGNS: dict[str, Callable[[EnvironmentSpec, Any], Design]] = {
    "reinforce": reinforce_design,
    "ma_trace": value_critic_design,
    "ppo": value_critic_design,
    "coma": coma_design,
    "iql": iql_design,
    "vdn": mixed_design,
    "qmix": mixed_design,
    "wqmix": mixed_design,
    "res": mixed_design,
    "maddpg": action_critic_design,
    "masac": action_critic_design,
}
