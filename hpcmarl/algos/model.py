"""The networks of an algorithm as numpy arrays: one parameter vector, and actions for a frame. No torch.

Actors, evaluators, matches and the server use a Model. The Algorithm of a learner (base.py) is a Model that
also learns. Use `hpcmarl.algos.make_model` to create one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcmarl.algos.design import OTHERS, Design
from hpcmarl.algos.target import Target
from hpcmarl.config import InferenceForm
from hpcmarl.maths.sparsity import Operations, dense_flops, growing_flops
from hpcmarl.nets.acting import ActingPolicy
from hpcmarl.nets.inference import Inference
from hpcmarl.nets.numpy_policy import NumpyPolicy
from hpcmarl.nets.parameters import ParameterLayout, aligned_zeros
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import Array, BoolArray, Decision, FloatArray, Frame, Part

if TYPE_CHECKING:
    import torch

# Forward pass of the target network, forward pass of the online network, and a backward pass that costs two.
PASSES_OF_LEARNING = 4


class Model:
    """Policies of one environment, with their parameters and their way of acting.

    Attributes:
        design: Description of the networks.
        spec: The environment.
        layout: Layout of the parameter vector.
        parameters: The parameter vector in use, shape [P]. It changes in place, so copy it to keep its
            values.
        choosers: Chooser of each policy's agents.
        size: Number of parameters, P.
        segments: Slice of the parameter vector for each policy.
        parts: Slices that are optimised separately; by default one per policy.
        averages: Slice at the end of the vector that is averaged (nets/moments.py), not trained; it may be
            empty.
        averaging_rate: Weight of each update in these averages.
        layers: Weight matrices in the vector.
        unit: Trajectory that a round's batch counts: "unroll" (`unroll` steps) or "episode" (`unroll` is
            None).
        unroll: Steps of one unroll, T, or None.
        on_policy: Whether rollouts sampled under older parameters are unusable.
        minibatch_passes: Number of passes over a batch of rollouts before the next is sampled, and of parts
            in each pass; None: each rollout is used when it arrives.
        needs_state: Whether rollouts must carry the environment's state.
        known_critic_inputs: Whether critics see all observations, one observation, or the state alone. Such
            critics can be widened (transfer.py).
    """

    def __init__(self, design: Design, seed: int | None) -> None:
        """Create the networks.

        Args:
            design: Description of the networks.
            seed: Seed of the initial parameters; None: zeros, for ranks that receive parameters before they
                act.
        """
        config = design.config
        self.design, self.spec = design, design.spec
        self.layout = ParameterLayout(design.modules)
        self.parameters = aligned_zeros(self.layout.size)
        self._inference, self._open_device = Inference(), open_no_device
        self._seed = seed
        if seed is not None:
            self.layout.draw(self.parameters, seed)
        self.choosers = dict(design.choosers)
        self._prefixes = {name: self.layout.prefix_of(shape) for name, shape in design.policies.items()}
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
        """Return the initial parameters of this model, shape [P].

        They depend only on the specification, the configuration and the seed.
        """
        assert self._seed is not None, "this model was made without a seed"
        initial = np.empty(self.size, np.float32)
        self.layout.draw(initial, self._seed)
        return initial

    def load_parameters(self, vector: FloatArray) -> None:
        """Copy a vector [P] into the networks.

        Raises:
            ValueError: If the length differs.
        """
        if vector.shape != self.parameters.shape:
            raise ValueError(f"parameters have shape {vector.shape}; these networks need ({self.size},)")
        np.copyto(self.parameters, vector)
        if "_actors" in self.__dict__:
            for actor in self._actors.values():
                actor.refresh()

    # ---- acting

    @cached_property
    def _actors(self) -> dict[str, ActingPolicy]:
        """The acting network of each policy; created at the first use, since it may need torch."""
        named = self.layout.named(self.parameters)
        actors: dict[str, ActingPolicy] = {}
        for name, shape in self.design.policies.items():
            own = self._prefixes[name]
            arrays = {full.removeprefix(own): array for full, array in named.items() if full.startswith(own)}
            library = self._inference.library(shape)
            if library == "numpy":
                actors[name] = NumpyPolicy(shape, self.choosers[name], arrays)
                continue
            from hpcmarl.nets.torch_policy import TorchPolicy

            device = self._open_device() if library == "device" else None
            actors[name] = TorchPolicy(shape, self.choosers[name], arrays, device)
        return actors

    def infer_by(self, inference: Inference, open_device: Callable[[], torch.device]) -> None:
        """Choose what computes the networks of `act`. Call it before the first action.

        Results differ by rounding.

        Args:
            inference: The choice. Without a call: numpy where it can be, else torch on the CPU.
            open_device: Returns the device; called if a network is computed on it.
        """
        self._inference, self._open_device = inference, open_device

    def set_weight_format(self, form: InferenceForm) -> None:
        """Choose the form of the weights that `act` multiplies by. Call it at most once.

        Results differ between the forms by rounding. With "auto" the form depends on measured times. Products
        by non-zeros use torch.

        Args:
            form: "dense" (the default without a call), "sparse" (non-zeros only) or "auto" (the faster of
                both).
        """
        if form != "dense":
            for actor in self._actors.values():
                actor.become_sparse(measured=form == "auto")

    def initial_memory(self, slots: int) -> dict[str, FloatArray]:
        """Return zero memory [E, N, H] for each policy that has one.

        These are policies that are recurrent or see their last action (nets/acting.py).
        """
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
        random_shares: FloatArray | None = None,
    ) -> dict[str, Decision]:
        """Choose actions with one batched forward pass per policy.

        Agents that are not alive get action 0 and log-probability 0, and keep their memory.

        Args:
            frame: Observations of E slots.
            memory: Memory before this step, shape [E, N, H], for each policy that has one.
            generator: Source of the random numbers.
            greedy: Whether to choose the most probable actions.
            with_logp: Whether to compute log-probabilities; acting without learning does not need them.
            random_shares: Share of random actions in each slot, shape [E], for value-based algorithms; NaN:
                the schedule's. None: the schedule's in all slots.

        Returns:
            A decision for each policy, with the memory after this step.
        """
        starts = frame.episode_start
        return {
            name: self._actors[name].act(
                seen, starts, memory.get(name), generator, greedy, with_logp, random_shares
            )
            for name, seen in frame.policies.items()
        }

    def action_probs(self, policy: str, obs: Array, mask: BoolArray | None, agent: int = 0) -> FloatArray:
        """Return the probability with which a non-greedy `act` chooses each action.

        Args:
            policy: Name of the policy.
            obs: Observations of one agent, shape [n, *shape].
            mask: Allowed actions, shape [n, A]; None: all actions are allowed.
            agent: Number of the agent in the policy, for policies that see it.

        Returns:
            Probabilities, shape [n, A].

        Raises:
            TypeError: If the policy is recurrent or sees its last action, or if its actions are not discrete.
        """
        return self._actors[policy].action_probs(obs, mask, agent)

    def raw_outputs(self, policy: str, inputs: FloatArray) -> FloatArray:
        """Return the raw outputs [n, K] of a policy's network for inputs [n, D].

        Recurrent policies start from zero memory. All actions are allowed.
        """
        return self._actors[policy].raw(inputs)[0]

    def on_progress(self, env_steps: int) -> None:
        """Update schedules to the environment steps of the run, including those before a resumption.

        Learners and actors call this whenever they receive new parameters.
        """
        for chooser in self.choosers.values():
            chooser.on_progress(env_steps)

    # ---- description of the networks

    def acting_inputs(self, policy: str) -> int:
        """Return the number of inputs of a policy's network, D: its observation, then `acting_extras`."""
        return self.design.policies[policy].inputs

    def acting_extras(self, policy: str) -> dict[str, int]:
        """Return the sizes of a policy's inputs after the observation, in order.

        They are the one-hot last action (one number per action) and the one-hot number of the agent (one per
        agent).
        """
        own = self.design.policies[policy]
        return {"last action": own.actions, "number of the agent": own.agents if own.agent_id else 0}

    def acting_parameters(self, policy: str) -> list[str]:
        """Return the names in `named_parameters` that acting depends on."""
        return [name for name in self.layout.places if name.startswith(self._prefixes[policy])]

    def named_parameters(self) -> dict[str, FloatArray]:
        """Return the parameters by policy, module and layer, in the order of the vector.

        The arrays are views that stay valid. After writing into them, call `load_parameters`; acting does not
        notice the change before.
        """
        return self.layout.named(self.parameters)

    def meanings(self) -> dict[str, str]:
        """Return a short description of each policy's raw outputs (nets/choosers.py)."""
        return {name: chooser.meaning for name, chooser in self.choosers.items()}

    def networks(self) -> dict[str, list[dict[str, str | None]]]:
        """Return the stages of each policy's forward pass (nets/shapes.py).

        The stages name their parameters as `named_parameters` does.
        """
        return {name: shape.stages(self._prefixes[name]) for name, shape in self.design.policies.items()}

    def operations(self, densities: Sequence[float]) -> Operations | None:
        """Count the floating-point operations of one environment step.

        The count covers matrices only, as in arXiv 2409.19391. Acting takes one forward pass. Learning takes
        one forward pass of the target network, one of the online network, and a backward pass that costs two.
        Every agent is a row of its network, and every step is a row of a mixer.

        Args:
            densities: Density of each matrix in `layers`.

        Returns:
            The operations, or None if the algorithm does not count them.
        """
        if not self.design.counts_operations:
            return None
        # for each layer: number of rows, and whether it acts
        rows: list[tuple[int, bool]] = []
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

    # ---- state for checkpoints beside the parameters

    @cached_property
    def target(self) -> Target:
        """The parameters of the target network, for algorithms that have one; created at the first use."""
        assert self.design.target is not None
        return Target(self.layout, self.design.target.every, self.design.target.rate)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint must hold beside the parameters, as arrays and plain values."""
        return {} if self.design.target is None else self.target.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`.

        Raises:
            ValueError: If the algorithm does not have such entries, or as in Target.load_state_dict.
        """
        if self.design.target is not None:
            self.target.load_state_dict(state)
        elif state:
            raise ValueError(
                f"algorithm state has entries {sorted(state)}; {type(self).__name__} keeps none beside its "
                "parameters"
            )


def open_no_device() -> torch.device:
    """Refuse a device; `Model.infer_by` replaces this function."""
    raise RuntimeError("this model was given no device")
