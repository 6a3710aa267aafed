"""Reads an environment's agents and spaces into its specification and the layout of its slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs.grouping import AgentView, group_agents, teams_of
from hpcmarl.envs.known import CONSTANT_SUM
from hpcmarl.envs.resolve import Source, resolve
from hpcmarl.envs.slot import INFO_MASK, NO_MASK, OBSERVATION_MASK, Layout, Place
from hpcmarl.envs.spaces import view_action, view_observation
from hpcmarl.errors import EnvironmentFailure, HpcmarlError
from hpcmarl.types import EnvironmentSpec


def probe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> tuple[Source, Layout]:
    """Build one environment, reset it, read its agents and spaces, and close it.

    Args:
        config: The environment.
        policies: Agents of each policy.

    Returns:
        The factory of environments, and the layout that all slots share.

    Raises:
        MissingPackageError: If a package that the environment needs is not installed.
        ConfigError: If `env` or `policies` does not fit the environment.
        EnvironmentFailure: If the environment raises or has no agents.
    """
    source, environment = resolve(config)
    try:
        return source, _layout(source, environment, policies, config.common_reward)
    except HpcmarlError:
        raise
    except Exception as error:
        raise EnvironmentFailure(
            f"environment {source.id} failed at its first reset: {type(error).__name__}: {error}"
        ) from error
    finally:
        environment.close()


def _layout(
    source: Source, environment: Any, policies: Mapping[str, PolicyConfig], common_reward: bool | None
) -> Layout:
    infos = _reset(source.kind, environment)
    agents = list(getattr(environment, "possible_agents", None) or environment.agents)
    if not agents:
        raise EnvironmentFailure(f"environment {source.id} has no agents after a reset")
    views = _view_agents(environment, agents, infos)
    specs = group_agents(views, policies)
    place_of = {
        name: (number, index) for number, spec in enumerate(specs) for index, name in enumerate(spec.agents)
    }
    places = []
    for agent, view in zip(agents, views, strict=True):
        mask = NO_MASK if not view.has_mask else OBSERVATION_MASK if view.observation.has_mask else INFO_MASK
        places.append(
            Place(
                agent,
                *place_of[view.name],
                view.observation,
                specs[place_of[view.name][0]].observation_dtype,
                mask,
            )
        )
    view_of = {view.name: view for view in views}
    turn_based = source.kind == "aec"
    metadata: Mapping[str, Any] = getattr(environment, "metadata", None) or {}
    constant_sum = source.id in CONSTANT_SUM or bool(metadata.get("constant_sum"))
    if common_reward is None:
        common_reward = not turn_based and _says_common_reward(environment)
    spec = EnvironmentSpec(
        source.id, specs, _state_size(environment), turn_based, constant_sum, teams_of(specs, common_reward)
    )
    return Layout(
        spec,
        tuple(places),
        tuple(view_of[policy.agents[0]].action.prepare for policy in specs),
        common_reward,
    )


def _reset(kind: str, environment: Any) -> Mapping[Any, Any]:
    """Reset the environment and return its infos by agent."""
    if kind == "aec":
        environment.reset(seed=0)
        return environment.infos  # type: ignore[no-any-return]
    _, infos = environment.reset(seed=0)
    return infos  # type: ignore[no-any-return]


def _view_agents(environment: Any, agents: list[Any], infos: Mapping[Any, Any]) -> list[AgentView]:
    found = []
    for agent in agents:
        name = str(agent)
        seen, acted = (
            _space(environment, "observation_space", agent),
            _space(environment, "action_space", agent),
        )
        observation, action = view_observation(seen, name), view_action(acted, name)
        in_info = isinstance(infos.get(agent), Mapping) and "action_mask" in infos[agent]
        found.append(
            (
                name,
                seen,
                acted,
                observation,
                action,
                action.space.mask_size > 0 and (observation.has_mask or in_info),
            )
        )
    # An agent that joins later has a mask if a present agent with the same spaces has one.
    masked = [(row[1], row[2]) for row in found if row[5]]
    present = set(environment.agents)
    return [
        AgentView(*row[:5], has_mask=row[5] or (agent not in present and (row[1], row[2]) in masked))
        for agent, row in zip(agents, found, strict=True)
    ]


def _space(environment: Any, which: str, agent: Any) -> Any:
    """Return a space of an agent.

    PettingZoo's method `which` has it. Some environments have only a dictionary, named `which` + "s".
    """
    method = getattr(environment, which, None)
    return method(agent) if callable(method) else getattr(environment, which + "s")[agent]


def _says_common_reward(environment: Any) -> bool:
    """Return whether `metadata["common_reward"]` is True."""
    metadata = getattr(environment, "metadata", None)
    return isinstance(metadata, Mapping) and metadata.get("common_reward") is True


def _state_size(environment: Any) -> int | None:
    """Return the number of elements of `env.state()`.

    Returns:
        The number; None if the environment has no state. Such an environment may raise any exception.
    """
    method = getattr(environment, "state", None)
    if not callable(method):
        return None
    try:
        return int(np.asarray(method(), np.float32).size) or None
    except Exception:
        return None
