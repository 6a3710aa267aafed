"""A policy's network in numpy, for acting without torch.

It computes the function of policy.Policy on the same parameter vector. An agent that does not act in a row
keeps its memory. The memory is zero at the first row of an episode.

If a policy sees the last action, that action is part of the agent's memory. The memory [E, N, H + A] of a
slot holds the GRU's memory, then the one-hot of the agent's latest action. Code that keeps the memory of a
slot thus keeps its last actions, too. An episode begins without a last action.
"""

from __future__ import annotations

import functools

import numpy as np

from hpcmarl.nets.choosers import Chooser
from hpcmarl.nets.numpy_layers import Arrays, NumpyDense, NumpyMoments, NumpyRecurrence, numpy_dueling_values
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.nets.sparse import DenseWeight, SparseWeight
from hpcmarl.types import Array, BoolArray, Decision, FloatArray, IntArray, PolicyFrame, flat_observations


class NumpyPolicy:
    """Policy network that chooses actions with the present parameters, in numpy.

    Attributes:
        chooser: Rule that selects actions from raw outputs.
        inputs: Number of inputs, D.
        sparse: The matrices in sparse form; empty before `become_sparse`.
    """

    def __init__(self, shape: PolicyShape, chooser: Chooser, arrays: Arrays) -> None:
        """Create the network.

        Args:
            shape: Description of the policy's network.
            chooser: Chooser of the policy's agents.
            arrays: Views of the parameter vector, by the parameters' names in the network.
        """
        self.chooser = chooser
        self.inputs = shape.inputs
        self._width, self._actions = shape.width, shape.actions
        self._agents, self._agent_id = shape.agents, shape.agent_id
        self._moments = None if shape.moments is None else NumpyMoments(_within("moments", arrays))
        self._body = None if shape.body is None else NumpyDense(shape.body, _within("body", arrays))
        self._recurrence = (
            None if shape.cell is None else NumpyRecurrence(shape.cell, _within("cell", arrays))
        )
        self._outputs = NumpyDense(shape.outputs, _within("outputs", arrays))
        self._value = None if shape.value is None else NumpyDense(shape.value, _within("value", arrays))
        self._layers = [
            part for part in (self._body, self._recurrence, self._outputs, self._value) if part is not None
        ]
        self.sparse: list[SparseWeight] = []

    def become_sparse(self, *, measured: bool) -> None:
        """Multiply by the non-zero weights only. Call it at most once.

        Args:
            measured: Whether each matrix uses this form only if it is measured to be faster than the dense
                one.
        """
        for layers in self._layers:
            sparse = [
                SparseWeight(weight.transposed, measured=measured)
                for weight in layers.weights
                if isinstance(weight, DenseWeight)
            ]
            layers.weights = list(sparse)
            self.sparse += sparse

    def refresh(self) -> None:
        """Take note that the parameters have changed. Call it after every change."""
        for layers in self._layers:
            for weight in layers.weights:
                weight.refresh()

    def act(
        self,
        frame: PolicyFrame,
        starts: BoolArray,
        memory: FloatArray | None,
        generator: np.random.Generator,
        greedy: bool,
        with_logp: bool = True,
        random_shares: FloatArray | None = None,
    ) -> Decision:
        """Choose actions for E slots of N agents in one batch, without changing the arguments.

        Only rows of living agents are computed, which saves half of the work in two-player games with turns.
        Random numbers are drawn for all rows. Agents that are not alive get action 0 and log-probability 0,
        and keep their memory.

        Args:
            frame: Observations, living agents and action masks.
            starts: Slots in which an episode starts, shape [E].
            memory: Memory before this step, shape [E, N, H + A]; None for policies without memory.
            generator: Source of the random numbers.
            greedy: Whether to choose the most probable actions.
            with_logp: Whether to compute log-probabilities.
            random_shares: Share of random actions in each slot, shape [E], for epsilon-greedy policies; NaN:
                the schedule's. None: the schedule's in all slots.

        Returns:
            Actions, log-probabilities and the memory after this step (types.Decision).
        """
        slots, agents = frame.alive.shape
        rows = slots * agents
        noise = None if greedy else self.chooser.draw(rows, generator)
        if noise is not None and random_shares is not None:
            noise = self.chooser.with_shares(noise, np.repeat(random_shares, agents))
        before, last = self._remembered(memory, starts)
        seen = self._inputs(frame.obs, last)
        mask = None if frame.action_mask is None else frame.action_mask.reshape(rows, -1)
        living = frame.alive.reshape(rows).nonzero()[0]
        everyone = len(living) == rows
        if everyone:
            raw, hidden = self.raw(seen, before, mask)
        else:
            raw, hidden = self._raw_of(living, seen, before, mask)
            mask = None if mask is None else mask.take(living, 0)
            noise = None if noise is None else tuple(part.take(living, 0) for part in noise)
        action, logp = self.chooser.choose(raw, mask, noise, with_logp)
        if not everyone:
            action, logp = (
                _spread(action, living, rows),
                None if logp is None else _spread(logp, living, rows),
            )
            if hidden is not None and before is not None:
                before[living] = hidden
                hidden = before
        chosen = action.reshape(slots, agents, *action.shape[1:])
        after = None if hidden is None else hidden.reshape(slots, agents, -1)
        if last is not None:
            now = np.where(frame.alive[..., None], np.eye(self._actions, dtype=np.float32)[chosen], last)
            after = now if after is None else np.concatenate([after, now], -1)
        return Decision(chosen, None if logp is None else logp.reshape(slots, agents), after)

    def _inputs(self, obs: Array, last: FloatArray | None) -> FloatArray:
        """Return the network's inputs [E * N, D].

        They are the observations [E, N, *shape], the last actions [E, N, A] and the one-hot numbers of the
        agents.
        """
        slots, agents = obs.shape[:2]
        flat = flat_observations(obs, 2)
        if last is not None or self._agent_id:
            seen, size = np.empty((slots, agents, self.inputs), np.float32), flat.shape[2]
            seen[..., :size] = flat
            if last is not None:
                seen[..., size : size + self._actions] = last
            if self._agent_id:
                seen[..., -agents:] = _numbers(agents)
            flat = seen
        return flat.reshape(slots * agents, -1)

    def _remembered(
        self, memory: FloatArray | None, starts: BoolArray
    ) -> tuple[FloatArray | None, FloatArray | None]:
        """Split the memory before a step into the GRU's memory [E * N, H] and the last actions [E, N, A].

        Both are zero in slots in which an episode starts. A part that the policy does not have is None.
        """
        if not self._width + self._actions:
            return None, None
        assert memory is not None
        kept = memory * ~starts[:, None, None]
        before = kept[..., : self._width].reshape(-1, self._width) if self._width else None
        return before, (kept[..., self._width :] if self._actions else None)

    def raw(
        self, obs: FloatArray, before: FloatArray | None = None, mask: BoolArray | None = None
    ) -> tuple[FloatArray, FloatArray | None]:
        """Compute the network's outputs.

        Args:
            obs: Inputs, shape [n, D].
            before: The GRU's memory before the rows, shape [n, H]; None: zeros.
            mask: Allowed actions for dueling heads, shape [n, A]; None: all actions are allowed.

        Returns:
            Raw outputs [n, K], and the GRU's memory [n, H] after the rows (None without a GRU).
        """
        seen = self._normalise(obs)
        hidden = seen if self._body is None else self._body(seen)
        if self._recurrence is None:
            return self._heads(hidden, mask), None
        if before is None:
            before = np.zeros((len(obs), self._width), np.float32)
        hidden = self._recurrence(hidden, before)
        return self._heads(hidden, mask), hidden

    def _raw_of(
        self, living: IntArray, obs: FloatArray, before: FloatArray | None, mask: BoolArray | None
    ) -> tuple[FloatArray, FloatArray | None]:
        """Compute the outputs of some of the rows; as `raw`.

        With sparse matrices all rows are computed. A varying number of rows would make these matrices time
        their forms again.
        """
        if self.sparse:
            raw, hidden = self.raw(obs, before, mask)
            return raw.take(living, 0), None if hidden is None else hidden.take(living, 0)
        before = None if before is None else before.take(living, 0)
        return self.raw(obs.take(living, 0), before, None if mask is None else mask.take(living, 0))

    def _heads(self, hidden: FloatArray, mask: BoolArray | None) -> FloatArray:
        raw = self._outputs(hidden)
        return raw if self._value is None else numpy_dueling_values(raw, self._value(hidden), mask)

    def action_probs(self, obs: Array, mask: BoolArray | None, agent: int) -> FloatArray:
        """Return the probability of each action for single observations of one agent.

        Args:
            obs: Observations, shape [n, *shape].
            mask: Allowed actions, shape [n, A]; None: all actions are allowed.
            agent: Number of the agent in the policy.

        Returns:
            Probabilities, shape [n, A].

        Raises:
            TypeError: If the policy is recurrent or sees its last action, so that one observation does not
                determine the probabilities; or if actions are not discrete.
        """
        if self._recurrence is not None:
            raise TypeError("a recurrent policy acts by its memory, not by one observation")
        if self._actions:
            raise TypeError("a policy that sees its last action does not act by one observation")
        inputs = flat_observations(obs, 1)
        if self._agent_id:
            inputs = numbered(np.repeat(inputs[:, None], self._agents, 1))[:, agent]
        return self.chooser.action_probs(self.raw(inputs, mask=mask)[0], mask)

    def _normalise(self, obs: FloatArray) -> FloatArray:
        return obs if self._moments is None else self._moments(obs)


@functools.lru_cache
def _numbers(agents: int) -> FloatArray:
    """Return the one-hot numbers [N, N] of a policy's agents. Callers must not write to it."""
    return np.eye(agents, dtype=np.float32)


def numbered(obs: Array) -> FloatArray:
    """Append the agents' one-hot numbers to observations: [..., N, D] becomes [..., N, D + N]."""
    agents = obs.shape[-2]
    return np.concatenate([obs, np.broadcast_to(_numbers(agents), (*obs.shape[:-1], agents))], -1)


def last_actions(action: Array, active: BoolArray, actions: int) -> FloatArray:
    """Return each agent's last action before each row of an episode.

    Args:
        action: Actions, shape [T, ..., N] int64.
        active: Rows in which an agent takes an action, shape [T, ..., N].
        actions: Number of actions, A.

    Returns:
        One-hot actions, shape [T + 1, ..., N, A]; zero before the agent's first action. In rows in which the
        agent does not act, its last action stays.
    """
    steps = len(action)
    rows = np.arange(steps).reshape(-1, *[1] * (action.ndim - 1))
    # row of the latest action up to each row
    latest = np.maximum.accumulate(np.where(active, rows, -1), 0)
    chosen = np.take_along_axis(action, np.maximum(latest, 0), 0)
    seen = np.zeros((steps + 1, *action.shape[1:], actions), np.float32)
    seen[1:] = np.eye(actions, dtype=np.float32)[chosen] * (latest >= 0)[..., None]
    return seen


def _spread(values: Array, rows: IntArray, count: int) -> Array:
    """Return `count` rows with the given values at `rows` and zeros elsewhere."""
    spread = np.zeros((count, *values.shape[1:]), values.dtype)
    spread[rows] = values
    return spread


def _within(part: str, arrays: Arrays) -> dict[str, FloatArray]:
    """Return the arrays of a part of the network, by their names in that part."""
    return {
        name.removeprefix(f"{part}."): array for name, array in arrays.items() if name.startswith(f"{part}.")
    }
