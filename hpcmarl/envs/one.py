"""A single environment of a caller: forms of its observations and actions for a policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import BATCHED_ONLY
from hpcmarl.envs.slot import Place
from hpcmarl.errors import UsageError
from hpcmarl.types import Array, EnvironmentSpec


@dataclass(frozen=True)
class AgentForm:
    """Position of an agent in the arrays of its policy, and the form of its observations and actions.

    Attributes:
        agent: Name of the agent.
        policy: Name of its policy.
        column: Column of the agent in the arrays of the policy.
        shape: Shape of its observation.
        mask_size: Length of its action mask.
        prepare: Function from actions of the policy [E, N, *shape] to the environment's form, [E][N].
        place: How the environment gives observations; None: as arrays of that shape.
    """

    agent: str
    policy: str
    column: int
    shape: tuple[int, ...]
    mask_size: int
    prepare: Callable[[Array], list[list[Any]]]
    place: Place | None

    def read(self, observation: Any) -> Array:
        """Return an observation as an array of the agent's shape.

        Raises:
            UsageError: If it has another form.
        """
        convert = None if self.place is None else self.place.convert
        given = observation
        if isinstance(observation, np.ndarray) and observation.shape == self.shape:
            convert = None  # an array that is in the form of the policy already
        if convert is None and isinstance(observation, Mapping) and "observation" in observation:
            given = observation["observation"]
        try:
            array = np.asarray(given if convert is None else convert(given), np.float32)
        except (TypeError, ValueError, KeyError, IndexError, AssertionError) as error:
            raise UsageError(
                f"agent {self.agent}: its observation does not fit the observation space of the run "
                f"({type(error).__name__}: {error})"
            ) from error
        if array.shape != self.shape:
            raise UsageError(
                f"agent {self.agent}: the observation has the shape {list(array.shape)}; allowed: "
                f"{list(self.shape)}, as in the run"
            )
        return array

    def mask_in(self, observation: Any) -> Any:
        """Return the action mask that an observation contains; None if it contains none."""
        return observation.get("action_mask") if isinstance(observation, Mapping) else None


def agent_forms(
    config: EnvConfig, policies: Mapping[str, PolicyConfig], spec: EnvironmentSpec
) -> dict[str, AgentForm]:
    """Return the form of each agent of a specification, by name.

    The environment is built once to read its spaces, unless it exists in a batched form only.

    Args:
        config: The environment.
        policies: Agents of each policy.
        spec: Specification with the agents that are wanted.

    Raises:
        MissingPackageError: If a package that the environment needs is not installed.
        ConfigError: If `config` or `policies` does not fit the environment.
        EnvironmentFailure: If the environment raises.
    """
    places, prepare = dict[str, Place](), dict[str, Callable[[Array], list[list[Any]]]]()
    if config.id.partition(":")[0] not in BATCHED_ONLY:
        from hpcmarl.envs.probe import probe

        layout = probe(config, policies)[1]
        places = {str(place.agent): place for place in layout.places}
        prepare = dict(zip(layout.names, layout.prepare, strict=True))
    return {
        agent: AgentForm(
            agent,
            policy.name,
            column,
            policy.observation_shape,
            policy.action.mask_size,
            prepare.get(policy.name, _plain),
            places.get(agent),
        )
        for policy in spec.policies
        for column, agent in enumerate(policy.agents)
    }


def _plain(actions: Array) -> list[list[Any]]:
    """Return actions as they are: whole numbers if discrete, else arrays."""
    return [[action.item() if np.ndim(action) == 0 else action for action in row] for row in actions]
