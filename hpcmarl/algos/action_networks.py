"""Networks of MADDPG and MASAC, without torch: actors, critics of actions, and a learned entropy cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from hpcmarl.algos.network_design import (
    ACTIONS,
    AGENT,
    OWN,
    actor_shapes,
    central_fields,
    critic_shape,
)
from hpcmarl.config import ActionCriticConfig, MADDPGConfig, MASACConfig
from hpcmarl.errors import ConfigError
from hpcmarl.maths.schedules import falling
from hpcmarl.nets.choosers import Chooser, make_chooser
from hpcmarl.nets.exploring_choosers import NoisyTanhChooser, RandomAtFirst
from hpcmarl.nets.input_form import Field
from hpcmarl.nets.layer_shapes import ConstantShape, GroupShape, Shape
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import EnvironmentSpec, PartKind, PolicySpec


@dataclass(frozen=True)
class ActionNetworks:
    """Networks and choosers of an algorithm, as in design.Design.

    Attributes:
        policies: Actor of each policy.
        choosers: Chooser of each policy's agents.
        modules: Actor, critics and learned cost of each policy.
        parts: Name of the policy, kind, and prefix of the names of parameters of each part.
    """

    policies: Mapping[str, PolicyShape]
    choosers: Mapping[str, Chooser]
    modules: Mapping[str, Shape]
    parts: tuple[tuple[str, PartKind, str], ...]


def action_networks(spec: EnvironmentSpec, config: ActionCriticConfig) -> ActionNetworks:
    """Describe the networks of MADDPG or MASAC.

    Raises:
        ConfigError: If the environment does not fit the configuration.
        UsageError: If actions are unbounded.
    """
    check_action_critic(spec, config)
    choosers = {policy.name: _chooser(policy, config) for policy in spec.policies}
    policies = actor_shapes(spec, config, choosers)
    for policy in policies.values():
        if config.draws_steps and policy.module is not None and policy.module.memory:
            raise ConfigError(
                f"algo.network.module: {config.network.module} is recurrent and needs whole episodes, but "
                "the replay draws single steps; use algo.replay.draw: episodes"
            )
    cost: dict[str, Shape] = {}
    if isinstance(config, MASACConfig) and config.target_entropy is not None:
        cost["cost"] = ConstantShape("logarithm", math.log(config.entropy_cost))
    modules = {
        policy.name: GroupShape(
            {"actor": policies[policy.name], "critic": _critics(spec, policy, config), **cost}
        )
        for policy in spec.policies
    }
    kinds: tuple[PartKind, ...] = ("actor", "critic", "cost") if cost else ("actor", "critic")
    parts = tuple((name, kind, f"{name}.{kind}.") for name in policies for kind in kinds)
    return ActionNetworks(policies, choosers, modules, parts)


def _chooser(policy: PolicySpec, config: ActionCriticConfig) -> Chooser:
    space = policy.action
    if space.kind == "continuous" and isinstance(config, MADDPGConfig):
        schedule = partial(falling, config.noise_start, config.noise_final, config.noise_steps)
        chooser: Chooser = NoisyTanhChooser(space, config.noise_final, schedule)
    else:
        chooser = make_chooser(space)
    return RandomAtFirst(chooser, space, config.random_steps) if config.random_steps else chooser


def _critics(spec: EnvironmentSpec, policy: PolicySpec, config: ActionCriticConfig) -> GroupShape:
    """Describe the critics of a policy."""
    if config.critic == "independent":
        fields = [Field.observation(OWN, policy)]
        if config.agent_id:
            fields.append(Field(AGENT, len(policy.agents)))
        fields.append(Field(ACTIONS, sum(policy.action.sizes)))
    else:
        joint = sum(len(each.agents) * sum(each.action.sizes) for each in spec.policies)
        fields = [*central_fields(spec, config), Field(ACTIONS, joint)]
    shape = critic_shape(spec, policy, config, fields)
    return GroupShape({"first": shape, "second": shape} if config.twin_critics else {"first": shape})


def check_action_critic(spec: EnvironmentSpec, config: ActionCriticConfig) -> None:
    """Check that the environment fits the configuration.

    Raises:
        ConfigError: One line that names the key, the value and the remedy.
    """
    if config.critic == "state" and spec.state_size is None:
        raise ConfigError(
            f"algo.critic: state needs the environment's state, and {spec.id} has none; use algo.critic: "
            "joint_observation or independent"
        )
    if spec.turn_based and config.critic != "independent":
        raise ConfigError(
            f"algo.critic: {config.critic} of {config.name} judges simultaneous actions, but in {spec.id} "
            "agents take turns; use algo.critic: independent"
        )
    for policy in spec.policies:
        if policy.action.kind == "multi_discrete" and isinstance(config, MASACConfig):
            raise ConfigError(
                f"algo.name: masac needs discrete or continuous actions, but policy {policy.name} of "
                f"{spec.id} has multi_discrete ones; use maddpg, ma_trace or ppo"
            )
