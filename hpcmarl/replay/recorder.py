"""Recording of episodes while they are played."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hpcmarl.replay.recording import End, Origin, PolicySteps, Recording
from hpcmarl.types import Array, Decision, EnvironmentSpec, Episode, Frame, IntArray, Outcome

COLUMNS = ("obs", "alive", "action", "logp", "reward")


class Recorder:
    """Records the episodes of one slot of a batch.

    Args:
        spec: Specification of the environment.
        origin: Seed of the slot's first episode; later ones follow.
        slot: Slot to record.
        most: Number of episodes after which nothing more is recorded.

    Attributes:
        recordings: Finished episodes.
    """

    def __init__(self, spec: EnvironmentSpec, origin: Origin, slot: int = 0, most: int = 1) -> None:
        self.recordings: list[Recording] = []
        self._spec, self._origin, self._slot, self._most = spec, origin, slot, most
        self._number = origin.episode  # of the present episode in the slot
        self._clear()

    def _clear(self) -> None:
        self._steps: dict[str, dict[str, list[Array]]] = {
            policy.name: {name: [] for name in COLUMNS} for policy in self._spec.policies
        }

    @property
    def done(self) -> bool:
        """Whether all episodes are recorded."""
        return len(self.recordings) >= self._most

    def before(self, frame: Frame, decisions: Mapping[str, Decision], numbers: IntArray) -> None:
        """Record observations and actions, before the environment takes the step.

        Args:
            frame: Observations before the step.
            decisions: Actions of each policy.
            numbers: Number of each slot's episode, [E].
        """
        if self.done:
            return
        self._number = int(numbers[self._slot])
        for name, steps in self._steps.items():
            seen, decided = frame.policies[name], decisions[name]
            steps["obs"].append(np.array(seen.obs[self._slot]))
            steps["alive"].append(np.array(seen.alive[self._slot]))
            steps["action"].append(np.array(decided.action[self._slot]))
            if decided.logp is not None:
                steps["logp"].append(np.array(decided.logp[self._slot]))

    def after(self, outcome: Outcome) -> None:
        """Record rewards after the step, and finish the episode if it has ended."""
        if self.done:
            return
        for name, steps in self._steps.items():
            steps["reward"].append(np.array(outcome.policies[name].reward[self._slot]))
        if outcome.episode_end[self._slot]:
            record = next((episode for episode in outcome.episodes if episode.slot == self._slot), None)
            self.recordings.append(self._recording(record))
            self._clear()

    def _recording(self, episode: Episode | None) -> Recording:
        """Return the recorded steps; an environment that failed has no `Episode`."""
        policies = []
        for policy in self._spec.policies:
            steps = self._steps[policy.name]
            columns = {name: np.stack(values) for name, values in steps.items() if values}
            policies.append(PolicySteps(policy.name, policy.agents, policy.action.kind, **columns))
        end: End = "failed" if episode is None else "terminated" if episode.terminated else "truncated"
        origin = self._origin
        return Recording(
            environment=self._spec.id,
            policies=tuple(policies),
            end=end,
            won=None if episode is None else episode.outcome.get("win"),
            origin=Origin(origin.environments, origin.policies, origin.seed, origin.slot, self._number),
        )
