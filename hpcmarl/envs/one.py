"""A single environment of a caller: forms of its observations and actions for a policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import BATCHED_ONLY
from hpcmarl.envs.observations import MisfitError, ObservationView, fitted, view_of_policy
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
        dtype: Type of its observation; structured for records.
        mask_size: Length of its action mask.
        prepare: Function from actions of the policy [E, N, *shape] to the environment's form, [E][N].
        view: How the environment gives observations.
    """

    agent: str
    policy: str
    column: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    mask_size: int
    prepare: Callable[[Array], list[list[Any]]]
    view: ObservationView

    def read(self, observation: Any) -> Array:
        """Return an observation as an array of the agent's shape and type.

        Args:
            observation: The observation as the environment gives it, or an array in the form of the policy.

        Raises:
            UsageError: If it has another form.
        """
        given = observation
        wrapped = isinstance(observation, Mapping) and "observation" in observation
        if self.view.plain and wrapped:
            given = observation["observation"]
        ready = isinstance(given, np.ndarray) and given.shape == self.shape
        try:
            if ready and (not self.view.record or given.dtype == self.dtype):
                array = fitted(given, self.shape, self.dtype)
            else:
                array = self.view.read(given, self.dtype)
        except MisfitError as error:
            raise UsageError(
                f"agent {self.agent} observes {error}; give it observations as in the environment of the run"
            ) from None
        return array.astype(self.dtype, copy=False)

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
    views, prepare = dict[str, ObservationView](), dict[str, Callable[[Array], list[list[Any]]]]()
    if config.id.partition(":")[0] not in BATCHED_ONLY:
        from hpcmarl.envs.probe import probe

        layout = probe(config, policies)[1]
        views = {str(place.agent): place.view for place in layout.places}
        prepare = dict(zip(layout.names, layout.prepare, strict=True))
    return {
        agent: AgentForm(
            agent,
            policy.name,
            column,
            policy.observation_shape,
            policy.observation_dtype,
            policy.action.mask_size,
            prepare.get(policy.name, _plain),
            views.get(agent) or view_of_policy(policy),
        )
        for policy in spec.policies
        for column, agent in enumerate(policy.agents)
    }


def _plain(actions: Array) -> list[list[Any]]:
    """Return actions as they are: whole numbers if discrete, else arrays."""
    return [[action.item() if np.ndim(action) == 0 else action for action in row] for row in actions]
