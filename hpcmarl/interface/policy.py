"""Trained policies that play an environment of the caller."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from hpcmarl.envs import new_frame
from hpcmarl.envs.one import AgentForm, agent_forms
from hpcmarl.errors import UsageError
from hpcmarl.evaluation import Trained, load_trained, read_checkpoint
from hpcmarl.roles.base import generator_for
from hpcmarl.types import EnvironmentSpec


class Policy:
    """Trained policies of a run, which choose the actions of their agents in one environment.

    Recurrent networks remember the episode, so that `reset` has to be called before each.

    Args:
        trained: Networks, and the specification of their agents.
        agents: Names of all agents of the environment.
        seed: Seed of sampled actions.

    Attributes:
        checkpoint: File that the parameters come from.
        version: Version of the parameters.
        config: Configuration of the run.
        agents: Agents that act, by name.
        recurrent: Whether a policy has recurrent state.
    """

    def __init__(self, trained: Trained, agents: Collection[str], seed: int) -> None:
        self.checkpoint, self.version, self.config = trained.checkpoint, trained.version, trained.config
        self._spec, self._algorithm = trained.spec, trained.algorithm
        self._forms = agent_forms(trained.config.env, trained.config.policies, trained.spec)
        self._known = frozenset(agents)
        self.agents: tuple[str, ...] = tuple(self._forms)
        self._generator = generator_for(seed, "evaluator", 0)
        self._frame = new_frame(self._spec, 1)
        self.recurrent = bool(self._algorithm.initial_memory(1))
        self.reset()

    def __repr__(self) -> str:
        return f"Policy({str(self.checkpoint)!r}, version={self.version}, agents={list(self.agents)})"

    def reset(self) -> None:
        """Forget the episode so far. Call it before the first step of an episode."""
        self._memory = dict(self._algorithm.initial_memory(1))
        self._frame.episode_start[:] = True

    def act(
        self,
        observations: Mapping[Any, Any],
        masks: Mapping[Any, Any] | None = None,
        *,
        greedy: bool | None = None,
    ) -> dict[Any, Any]:
        """Choose the actions of one step.

        Args:
            observations: Agent -> its observation, as the PettingZoo environment gives it. Agents that are
                left out do not act: dead ones, and in a turn-based game all but the one whose turn it is.
            masks: Agent -> allowed actions, of environments whose observations do not contain them.
            greedy: Whether to take the best action instead of sampling; None: eval.greedy of the run.

        Returns:
            Agent -> action in the form of the environment's action space, for each given agent that these
            policies play.

        Raises:
            UsageError: If an agent is unknown, an observation has another shape, or a mask is missing or has
                another length.
        """
        self._write(observations, masks or {})
        greedily = self.config.eval.greedy if greedy is None else greedy
        decisions = self._algorithm.act(
            self._frame, self._memory, self._generator, greedy=greedily, with_logp=False
        )
        self._frame.episode_start[:] = False
        actions = dict[str, Any]()
        for policy in self._spec.policies:
            decision = decisions[policy.name]
            if decision.memory is not None:
                self._memory[policy.name] = decision.memory
            chosen = self._forms[policy.agents[0]].prepare(decision.action)[0]
            actions.update(zip(policy.agents, chosen, strict=True))
        return {agent: actions[str(agent)] for agent in observations if str(agent) in actions}

    def _write(self, observations: Mapping[Any, Any], masks: Mapping[Any, Any]) -> None:
        """Write the observations and masks of a step into the frame."""
        for policy in self._frame.policies.values():
            policy.obs[...], policy.alive[...] = 0.0, False
            if policy.action_mask is not None:
                policy.action_mask[...] = True
        for agent, observation in observations.items():
            form = self._forms.get(str(agent))
            if form is None:
                if str(agent) not in self._known:
                    raise UsageError(f"{agent!r}: no such agent; allowed: {', '.join(self.agents)}")
                continue  # another side of a league plays it
            part = self._frame.policies[form.policy]
            part.obs[0, form.column] = form.read(observation)
            part.alive[0, form.column] = True
            if part.action_mask is not None:
                part.action_mask[0, form.column] = self._mask(form, observation, masks.get(agent))

    @staticmethod
    def _mask(form: AgentForm, observation: Any, given: Any) -> Any:
        mask = form.mask_in(observation) if given is None else given
        if mask is None:
            raise UsageError(
                f"agent {form.agent} has action masks, and none was given; pass masks={{agent: mask}}, for "
                "example from the infos of the environment"
            )
        parts = mask if isinstance(mask, tuple) else (mask,)
        flat = np.concatenate([np.asarray(part).ravel() for part in parts])
        if flat.size != form.mask_size:
            raise UsageError(
                f"agent {form.agent}: the action mask has {flat.size} elements; allowed: {form.mask_size}"
            )
        return flat


def load_policy(path: str | os.PathLike[str], *, member: str | None = None, seed: int = 0) -> Policy:
    """Load trained policies to play an environment with them.

    Neither MPI nor torch is imported. The environment must be that of the run's config.yaml, or belong to a
    package that depends on PettingZoo or Gymnasium.

    Args:
        path: Run directory or checkpoint file.
        member: Member or snapshot of a league; needed if the run is a league.
        seed: Seed of sampled actions.

    Returns:
        The policies of the newest checkpoint that verifies.

    Raises:
        ConfigError: The path does not exist, or `member` does not fit the run.
        FormatError: No checkpoint verifies, or it does not fit its own configuration.
    """
    return Policy(*trained_policies(path, member), seed)


def trained_policies(path: str | os.PathLike[str], member: str | None) -> tuple[Trained, list[str]]:
    """Load the networks of a run, or of one member or snapshot of a league.

    Args:
        path: Run directory or checkpoint file.
        member: Member or snapshot of a league; None: the run is no league.

    Returns:
        The networks, and the names of all agents of the environment.

    Raises:
        ConfigError: The path does not exist, or `member` does not fit the run.
        FormatError: No checkpoint verifies, or it does not fit its own configuration.
    """
    checkpoint = read_checkpoint(path)
    if "league" in checkpoint[1]:
        return _of_league(path, member)
    if member is not None:
        raise UsageError(f"member {member}: {path} is not a league; leave the member out")
    trained = load_trained(*checkpoint)
    return trained, _agents(trained.spec)


def _agents(spec: EnvironmentSpec) -> list[str]:
    return [agent for policy in spec.policies for agent in policy.agents]


def _of_league(path: str | os.PathLike[str], member: str | None) -> tuple[Trained, list[str]]:
    """Load the snapshot of a league; return it with the agents of all sides."""
    from hpcmarl.league.commands.reader import read_league
    from hpcmarl.league.runtime.opponent_env import side_of

    league = read_league(str(path))
    if member is None:
        raise UsageError(
            f"{path} is a league: name the policies to load, member=NAME or --member NAME; allowed: a "
            f"snapshot, or a member: {', '.join(league.game.members)}"
        )
    snapshot = league.snapshot(member)
    algorithm = league.algorithm(snapshot.side)
    algorithm.load_parameters(league.pool.parameters(snapshot.name, algorithm.size))
    own = side_of(league.spec, league.game.sides[snapshot.side])
    trained = Trained(league.checkpoint, snapshot.updates, league.config, own, algorithm)
    return trained, _agents(league.spec)
