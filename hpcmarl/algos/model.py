"""The networks of an algorithm on arrays alone: parameters in one vector, actions for a frame. No torch.

Actors, evaluators, matches and the server have a Model; a learner's Algorithm (base.py) is one that learns as
well. Make one with `hpcmarl.algos.make_model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from hpcmarl.algos.design import OTHERS, Design
from hpcmarl.algos.target import Target
from hpcmarl.config import InferenceForm
from hpcmarl.maths.sparsity import Operations, dense_flops, growing_flops
from hpcmarl.nets.numpy_policy import NumpyPolicy
from hpcmarl.nets.parameters import ParameterLayout, aligned_zeros
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import BoolArray, Decision, FloatArray, Frame, Part

PASSES_OF_LEARNING = 4  # target network, present network, backward (twice as much)


class Model:
    """Policies of one environment, and how they act.

    unit: what a round's batch counts: unrolls of `unroll` steps, or whole episodes (`unroll` is None).
    on_policy: work sampled under older parameters is worthless.   needs_state: rollouts must carry the
        environment's state.
    epochs: how often a batch of rollouts is gone through, in so many `minibatches` each, before the next is
    sampled; 0: each makes one gradient.
    size: P.   segments: policy -> its slice of the parameter vector.   parts: slices that are optimised apart
        (default: one a policy).
    averages: the vector's end, which is averaged (nets/moments.py) by `averaging_rate` an update and not
    trained; empty where nothing is. layers: the matrices of weights in the vector. known_critic_inputs:
    whether critics see all observations, one, or the state alone, so that they can be widened (transfer.py).
    parameters: [P], the living vector itself (do not keep it).
    """

    def __init__(self, design: Design, seed: int | None) -> None:
        """seed: of the initial parameters; None: zeros, for who gets parameters before it acts."""
        config = design.config
        self.design, self.spec = design, design.spec
        self.layout = ParameterLayout(design.modules)
        self.parameters = aligned_zeros(self.layout.size)
        self._seed = seed
        if seed is not None:
            self.layout.draw(self.parameters, seed)
        self.choosers = dict(design.choosers)
        self._prefixes = {name: self.layout.prefix_of(shape) for name, shape in design.policies.items()}
        named = self.layout.named(self.parameters)
        self._actors: dict[str, NumpyPolicy] = {}
        for name, shape in design.policies.items():
            own = self._prefixes[name]
            arrays = {full.removeprefix(own): array for full, array in named.items() if full.startswith(own)}
            self._actors[name] = NumpyPolicy(shape, self.choosers[name], arrays)
        self.size, self.segments, self.averages = (
            self.layout.size,
            dict(self.layout.segments),
            self.layout.averages,
        )
        self.layers = self.layout.layers
        parts = design.parts or tuple((name, "actor", f"{name}.") for name in self.segments)
        self.parts = tuple(Part(name, kind, self.layout.extent(prefix)) for name, kind, prefix in parts)
        self.unit, self.on_policy = config.trajectory_unit, config.is_on_policy
        self.unroll = config.unroll_steps
        self.minibatch_passes = config.minibatch_passes
        self.needs_state, self.known_critic_inputs = design.needs_state, design.known_critic_inputs
        self.averaging_rate = design.averaging_rate

    def initial_parameters(self) -> FloatArray:
        """Draw the parameters [P] that this object was made with: a function of specification, configuration
        and seed."""
        assert self._seed is not None, "this model was made without a seed"
        initial = np.empty(self.size, np.float32)
        self.layout.draw(initial, self._seed)
        return initial

    def load_parameters(self, vector: FloatArray) -> None:
        """Copy a vector [P] into the networks. Raises ValueError where the length differs."""
        if vector.shape != self.parameters.shape:
            raise ValueError(f"parameters have shape {vector.shape}; these networks need ({self.size},)")
        np.copyto(self.parameters, vector)
        for actor in self._actors.values():
            actor.refresh()

    # ---- acting

    def set_weight_format(self, form: InferenceForm) -> None:
        """Which form of the weights `act` multiplies by: dense as long as this is not called, the non-zeros
        (sparse), or what is quicker (auto).

        Call it once at most; results differ by rounding. With auto the time decides. Products by non-zeros
        are torch's."""
        if form != "dense":
            for actor in self._actors.values():
                actor.become_sparse(measured=form == "auto")

    def initial_memory(self, slots: int) -> dict[str, FloatArray]:
        """Zero memory [E, N, H] for each policy that is recurrent or sees its last action
        (nets/numpy_policy.py); others have none."""
        return {
            name: np.zeros((slots, shape.agents, shape.memory_size), np.float32)
            for name, shape in self.design.policies.items()
            if shape.memory_size
        }

    def act(
        self,
        frame: Frame,
        memory: Mapping[str, FloatArray],
        generator: np.random.Generator,
        greedy: bool = False,
        with_logp: bool = True,
    ) -> dict[str, Decision]:
        """One batched forward pass for every policy. memory: policy -> [E, N, H] before this step (policies
        that have one only); the memory after it comes back in each Decision. Agents that are not alive get
        action 0, logp 0 and keep their memory. with_logp: whether log-probabilities are wanted; who only
        plays does without them.
        """
        starts = frame.episode_start
        return {
            name: self._actors[name].act(seen, starts, memory.get(name), generator, greedy, with_logp)
            for name, seen in frame.policies.items()
        }

    def action_probs(
        self, policy: str, obs: FloatArray, mask: BoolArray | None, agent: int = 0
    ) -> FloatArray:
        """How likely `act`, when it is not greedy, chooses each action: [n, A] for observations [n, *shape]
        of one policy's agents and masks [n, A]. agent: which of them sees all that, for policies that know
        who acts.

        Raises TypeError where the policy is recurrent or its actions are not discrete."""
        return self._actors[policy].action_probs(obs, mask, agent)

    def raw_outputs(self, policy: str, inputs: FloatArray) -> FloatArray:
        """What a policy's network gives [n, K] for inputs [n, D], with an empty memory where it is recurrent,
        and where all actions are allowed."""
        return self._actors[policy].raw(inputs)[0]

    def on_progress(self, env_steps: int) -> None:
        """The run has made so many environment steps, resumptions included. Called on learners and actors
        whenever new parameters come."""
        for chooser in self.choosers.values():
            chooser.on_progress(env_steps)

    # ---- what the networks are

    def acting_inputs(self, policy: str) -> int:
        """D, how many numbers a policy's network sees: its observation, then `acting_extras`."""
        return self.design.policies[policy].inputs

    def acting_extras(self, policy: str) -> dict[str, int]:
        """What a policy's network sees behind the observation, in this order: the last action, one number an
        action, and who acts, one an agent."""
        own = self.design.policies[policy]
        return {"last action": own.actions, "number of the agent": own.agents if own.agent_id else 0}

    def acting_parameters(self, policy: str) -> list[str]:
        """Which of `named_parameters` acting depends on."""
        return [name for name in self.layout.places if name.startswith(self._prefixes[policy])]

    def named_parameters(self) -> dict[str, FloatArray]:
        """The parameters by policy, module and layer, in the order of the vector: views that stay valid.
        Acting does not notice what is written into them until `load_parameters`."""
        return self.layout.named(self.parameters)

    def meanings(self) -> dict[str, str]:
        """Policy -> what its raw outputs are (nets/choosers.py)."""
        return {name: chooser.meaning for name, chooser in self.choosers.items()}

    def networks(self) -> dict[str, list[dict[str, str | None]]]:
        """Policy -> what `act` computes, stage by stage (nets/shapes.py), with the names that
        `named_parameters` has."""
        return {name: shape.stages(self._prefixes[name]) for name, shape in self.design.policies.items()}

    def operations(self, densities: Sequence[float]) -> Operations | None:
        """Count the floating-point operations of one environment step where `layers` have these densities;
        None: this algorithm does not.

        Matrices only, as arXiv 2409.19391 counts: a forward pass acts; learning is one of the target network,
        one of the present one, and a backward pass that takes twice as much. Every agent is a row of its
        network, every step one of a mixer."""
        if not self.design.counts_operations:
            return None
        rows: list[tuple[int, bool]] = []  # of each layer: rows, and whether it acts
        inner = [
            found for module, shape in self.layout.modules.items() for found in shape.inner(f"{module}.")
        ]
        agents = {prefix: shape.agents for prefix, shape in inner if isinstance(shape, PolicyShape)}
        for name in self.layout.layer_names:
            count = next((count for prefix, count in agents.items() if name.startswith(prefix)), 1)
            rows.append((count, not name.startswith(f"{OTHERS}.")))
        dense = [
            count * dense_flops(layer.shape[1], layer.shape[0])
            for (count, _), layer in zip(rows, self.layers, strict=True)
        ]
        costs = [density * cost for density, cost in zip(densities, dense, strict=True)]
        acting = sum(cost for (_, active), cost in zip(rows, costs, strict=True) if active)
        return Operations(
            acting, PASSES_OF_LEARNING * sum(costs), growing_flops(sum(costs), sum(dense), PASSES_OF_LEARNING)
        )

    # ---- what a checkpoint keeps beside the parameters

    @cached_property
    def target(self) -> Target:
        """The target network's parameters, where the algorithm has one; made when they are asked for."""
        assert self.design.target is not None
        return Target(self.layout, self.design.target.every, self.design.target.rate)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep beside the parameters: arrays and plain values."""
        return {} if self.design.target is None else self.target.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of state_dict. Raises ValueError for entries that this algorithm does not have, or as
        Target.load_state_dict does."""
        if self.design.target is not None:
            self.target.load_state_dict(state)
        elif state:
            raise ValueError(
                f"algorithm state has entries {sorted(state)}; {type(self).__name__} keeps none beside its "
                "parameters"
            )
