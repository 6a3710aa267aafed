"""Acting with a policy: one batch of observations in, actions and memory out, in numpy.

Subclasses compute the network (numpy_policy.py, torch_policy.py). An agent that does not act in a row keeps
its memory. The memory is zero at the first row of an episode.

If a policy sees the last action, that action is part of the agent's memory. The memory [E, N, H + A] of a
slot holds the network's memory, then the one-hot of the agent's latest action. Code that keeps the memory of
a slot thus keeps its last actions, too. An episode begins without a last action.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod

import numpy as np

from hpcmarl.nets.choosers import Chooser
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import Array, BoolArray, Decision, FloatArray, IntArray, PolicyFrame


class ActingPolicy(ABC):
    """Policy network that chooses actions with the present parameters.

    Attributes:
        chooser: Rule that selects actions from raw outputs.
        shape: Description of the network.
    """

    def __init__(self, shape: PolicyShape, chooser: Chooser) -> None:
        self.shape, self.chooser = shape, chooser
        self._form = shape.form
        # Most policies see float32 observations alone, which need no conversion.
        self._direct = (
            self._form.flat and len(self._form.fields) == 1 and shape.spec.observation_dtype == np.float32
        )
        self._width, self._actions = shape.width, shape.actions
        self._agents, self._agent_id = shape.agents, shape.agent_id

    @abstractmethod
    def become_sparse(self, *, measured: bool) -> None:
        """Multiply by the non-zero weights only. Call it at most once. Networks in torch ignore it.

        Args:
            measured: Whether each matrix uses this form only if it is measured to be faster than the dense
                one.
        """

    @abstractmethod
    def refresh(self) -> None:
        """Take note that the parameters have changed. Call it after every change."""

    @abstractmethod
    def raw(
        self, inputs: Array, before: FloatArray | None = None, mask: BoolArray | None = None
    ) -> tuple[FloatArray, FloatArray | None]:
        """Compute the network's outputs.

        Args:
            inputs: Inputs of n rows: [n, D] float32, or records [n] (input_form.py).
            before: The network's memory before the rows, shape [n, H]; None: zeros.
            mask: Allowed actions for dueling heads, shape [n, A]; None: all actions are allowed.

        Returns:
            Raw outputs [n, K], and the network's memory [n, H] after the rows (None without one).
        """

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
        if self._direct:
            seen = frame.obs.reshape(rows, -1)
        else:
            seen = self._inputs(frame.obs, last).reshape(rows, *([-1] if self._form.flat else []))
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

    def _inputs(self, obs: Array, last: FloatArray | None) -> Array:
        """Return the network's inputs, [E, N, D] or records [E, N].

        Args:
            obs: Observations, shape [E, N, *observation_shape].
            last: One-hot last actions, shape [E, N, A]; None: they are no input.
        """
        slots, agents = obs.shape[:2]
        numbers = [] if last is None else [last]
        if self._agent_id:
            numbers.append(agent_numbers(agents))
        return self._form.join((slots, agents), [obs, *numbers])

    def _remembered(
        self, memory: FloatArray | None, starts: BoolArray
    ) -> tuple[FloatArray | None, FloatArray | None]:
        """Split the memory before a step into the network's memory [E * N, H] and the last actions [E, N, A].

        Both are zero in slots in which an episode starts. A part that the policy does not have is None.
        """
        if not self._width + self._actions:
            return None, None
        assert memory is not None
        kept = memory * ~starts[:, None, None]
        before = kept[..., : self._width].reshape(-1, self._width) if self._width else None
        return before, (kept[..., self._width :] if self._actions else None)

    def _raw_of(
        self, living: IntArray, inputs: Array, before: FloatArray | None, mask: BoolArray | None
    ) -> tuple[FloatArray, FloatArray | None]:
        """Compute the outputs of some of the rows; as `raw`."""
        before = None if before is None else before.take(living, 0)
        return self.raw(inputs.take(living, 0), before, None if mask is None else mask.take(living, 0))

    def action_probs(self, obs: FloatArray, mask: BoolArray | None, agent: int) -> FloatArray:
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
        if self._width:
            raise TypeError("a recurrent policy acts by its memory, not by one observation")
        if self._actions:
            raise TypeError("a policy that sees its last action does not act by one observation")
        number = [agent_numbers(self._agents)[agent]] if self._agent_id else []
        inputs = self._form.join((len(obs),), [obs, *number])
        return self.chooser.action_probs(self.raw(inputs, mask=mask)[0], mask)


@functools.lru_cache
def agent_numbers(agents: int) -> FloatArray:
    """Return the one-hot numbers [N, N] of a policy's agents. Callers must not write to it."""
    return np.eye(agents, dtype=np.float32)


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
