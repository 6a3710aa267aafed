"""What every algorithm is to the rest of the house: parameters in one vector, actions for a frame, gradients of rollouts.

Actors and evaluators call `act`, learners `gradient`; make one with `hpcmarl.algos.make_algorithm`. An algorithm knows no
rank, message, file or environment. Adding one: subclass, implement `gradient`, add a line to ALGORITHMS.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from hpcmarl.config import ActingForm
from hpcmarl.maths.sparsity import Operations
from hpcmarl.nets.flat import FlatParameters
from hpcmarl.nets.policy import Actor, Policy
from hpcmarl.types import BoolArray, Decision, EnvironmentSpec, FloatArray, Frame, Part, Rollout


class Algorithm(ABC):
    """Policies of one environment, how they act, and the ascent direction that rollouts give.

    unit: what a round's batch counts: unrolls of `unroll` steps, or whole episodes (`unroll` is None).
    on_policy: work sampled under older parameters is worthless.   needs_state: rollouts must carry the environment's state.
    epochs: how often a batch of rollouts is gone through, in so many `minibatches` each, before the next is sampled; 0: each makes one gradient.
    size: P.   segments: policy -> its slice of the parameter vector.   parts: slices that are optimised apart (default: one a policy).
    averages: the vector's end, which is averaged (nets/moments.py) by `averaging_rate` an update and not trained; empty where nothing is.
    layers: the matrices of weights in the vector.
    known_critic_inputs: whether critics see all observations, one, or the state alone, so that they can be widened (surgery.py).
    parameters: [P], the living vector itself (do not keep it).
    """

    summary: ClassVar[str]
    paper: ClassVar[str]
    unit: ClassVar[Literal["unroll", "episode"]]
    on_policy: ClassVar[bool]
    unroll: int | None = None
    needs_state: bool = False
    epochs: int = 0
    minibatches: int = 1
    averaging_rate: float = 0.0
    known_critic_inputs: bool = True

    def __init__(self, spec: EnvironmentSpec, policies: Mapping[str, Policy], modules: Mapping[str, nn.Module]) -> None:
        """policies: one network a policy; modules: all that is trained for each policy (its network among it)."""
        self.spec = spec
        self._policies = dict(policies)
        self._flat = FlatParameters(modules)
        self._initial = self._flat.vector.copy()
        self._actors = {name: Actor(policy) for name, policy in policies.items()}
        self.size = self._flat.size
        self.segments = dict(self._flat.segments)
        self.parts = tuple(Part(name, "actor", place) for name, place in self.segments.items())
        self.averages = self._flat.averages
        self.layers = tuple(self._flat.layers)

    @property
    def parameters(self) -> FloatArray:
        """The present parameters [P], the networks' own memory."""
        return self._flat.vector

    def initial_parameters(self) -> FloatArray:
        """A copy of the parameters [P] that this object was made with: a function of specification, configuration and seed."""
        return self._initial.copy()

    def load_parameters(self, vector: FloatArray) -> None:
        """Copy a vector [P] into the networks. Raises ValueError where the length differs."""
        self._flat.load(vector)
        for actor in self._actors.values():
            actor.refresh()

    def act_by(self, form: ActingForm) -> None:
        """Which form of the weights `act` multiplies by: dense as long as this is not called, the non-zeros (sparse), or what is quicker (auto).

        Call it once at most; results differ by rounding. With auto the time decides."""
        if form != "dense":
            for actor in self._actors.values():
                actor.become_sparse(measured=form == "auto")

    def initial_memory(self, slots: int) -> dict[str, FloatArray]:
        """Zero memory [E, N, H] for each policy that is recurrent or sees its last action (nets/policy.py); others have none."""
        return {
            policy.name: np.zeros((slots, len(policy.agents), self._policies[policy.name].memory_size), np.float32)
            for policy in self.spec.policies
            if self._policies[policy.name].memory_size
        }

    def act(self, frame: Frame, memory: Mapping[str, FloatArray], generator: np.random.Generator, greedy: bool = False) -> dict[str, Decision]:
        """One batched forward pass for every policy. memory: policy -> [E, N, H] before this step (policies that have one only);
        the memory after it comes back in each Decision. Agents that are not alive get action 0, logp 0 and keep their memory.
        """
        return {name: self._actors[name].act(seen, frame.episode_start, memory.get(name), generator, greedy) for name, seen in frame.policies.items()}

    def chances(self, policy: str, obs: FloatArray, mask: BoolArray | None, agent: int = 0) -> FloatArray:
        """How likely `act`, when it is not greedy, chooses each action: [n, A] for observations [n, *shape] of one policy's agents and masks [n, A].
        agent: which of them sees all that, for policies that know who acts.

        Raises TypeError where the policy is recurrent or its actions are not discrete."""
        return self._actors[policy].chances(obs, mask, agent)

    def raw_outputs(self, policy: str, inputs: FloatArray) -> FloatArray:
        """What a policy's network gives [n, K] for inputs [n, D], with an empty memory where it is recurrent, and where all actions are allowed."""
        return self._actors[policy].raw(inputs)[0]

    def acting_inputs(self, policy: str) -> int:
        """D, how many numbers a policy's network sees: its observation, then `acting_extras`."""
        return self._actors[policy].inputs

    def acting_extras(self, policy: str) -> dict[str, int]:
        """What a policy's network sees behind the observation, in this order: the last action, one number an action, and who acts, one an agent."""
        own = self._policies[policy]
        return {"last action": own.actions, "number of the agent": own.agents if own.agent_id else 0}

    def acting_parameters(self, policy: str) -> list[str]:
        """Which of `named_parameters` acting depends on."""
        own = self._flat.name_of(self._policies[policy])
        return [name for name in self.named_parameters() if name.startswith(own)]

    def named_parameters(self) -> dict[str, FloatArray]:
        """The parameters by policy, module and layer, in the order of the vector: views that stay valid."""
        return self._flat.named()

    def meanings(self) -> dict[str, str]:
        """Policy -> what its raw outputs are (nets/heads.py)."""
        return {name: policy.chooser.meaning for name, policy in self._policies.items()}

    def networks(self) -> dict[str, list[dict[str, str | None]]]:
        """Policy -> what `act` computes, stage by stage (nets/policy.py), with the names that `named_parameters` has."""
        return {name: policy.stages(self._flat.name_of(policy)) for name, policy in self._policies.items()}

    def on_version(self, version: int) -> None:  # noqa: B027  most need not know
        """The parameters now loaded are those of `version`. Called on learners, for every version that they adopt; the same one may come twice."""

    def on_progress(self, env_steps: int) -> None:  # noqa: B027
        """The run has made so many environment steps, resumptions included. Called on learners and actors whenever new parameters come."""

    def learn_where(self, mask: BoolArray | None) -> None:  # noqa: B027
        """The coming gradients must be right where mask [P] is true, and no parameter is other than zero elsewhere; None: right everywhere.

        Called on learners before each gradient; an algorithm may use it to compute less."""

    def operations(self, densities: Sequence[float]) -> Operations | None:
        """Floating-point operations of one environment step where `layers` have these densities; None: this algorithm does not count them."""
        return None

    def critic_memory(self, rollout: Rollout) -> dict[str, FloatArray]:
        """Return what recurrent critics remember after an unroll, at the present parameters.

        Returns:
            Policy -> [E, U, H], zero where the next row begins an episode; empty where critics have no memory.
        """
        return {}

    def begin_batch(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Note what the gradients of a batch that is gone through several times need from its beginning.

        Returns:
            The rollouts that parts are to be taken of, in the same order: these, or copies with `records` that share the arrays.
        """
        return list(rollouts)

    def ends_batch(self, statistics: Mapping[str, float]) -> bool:
        """Say by a gradient's statistics whether its batch has been gone through often enough."""
        return False

    @abstractmethod
    def gradient(self, rollouts: Sequence[Rollout]) -> tuple[FloatArray, dict[str, float]]:
        """The ascent direction [P] summed over all trajectories (types.Rollout.count of each rollout), and statistics: averages.

        Additive: calls on parts of the rollouts give parts of the sum. Rollouts are not changed.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep beside the parameters: arrays and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of state_dict. Raises ValueError for entries that this algorithm does not have."""
        if state:
            raise ValueError(f"algorithm state has entries {sorted(state)}; {type(self).__name__} keeps none beside its parameters")

    def _ascent(self, statistics: dict[str, float]) -> tuple[FloatArray, dict[str, float]]:
        """What `gradient` returns once backward passes have filled the flat gradient."""
        vector = self._flat.gradient.copy()
        trained = vector[: self.averages.start]
        return vector, statistics | {"gradient_norm": float(np.sqrt(np.dot(trained, trained)))}


def seeded_generator(seed: int) -> torch.Generator:
    """The generator that initial parameters are drawn from."""
    return torch.Generator().manual_seed(seed)
