"""The evaluator: plays episodes with given parameters, without learning, on environments of its own.

It lives on the server's rank and plays one step of all its environments at a time, so that the server is never away for long.
Groups with environments of their own are judged on each of them; the mean weighs every group the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hpcmarl.comm.transport import Message
from hpcmarl.config import EnvConfig
from hpcmarl.envs import BatchedEnvironment, Seeds, make_environment, new_frame, new_outcome
from hpcmarl.roles.base import Context, Role, generator_for
from hpcmarl.types import Array, Episode, Frame, Outcome

Result = dict[str, Any]


class Evaluator(Role):
    """`request` queues an evaluation; its callback gets the result. `idle`: nothing is queued."""

    name = "evaluator"

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        super().__init__(context, neighbours)
        self.algorithm = context.algorithm()
        self.jobs: deque[tuple[Array, int, Callable[[Result], None]]] = deque()
        self.match: Match | None = None
        self.environments: list[tuple[list[int], EnvConfig]] = []
        for group in context.topology.groups:
            config = context.group_env(group.index)
            same = next((groups for groups, other in self.environments if other == config), None)
            if same is None:
                self.environments.append(([group.index], config))
            else:
                same.append(group.index)
        self.results: list[list[Episode]] = []

    @property
    def idle(self) -> bool:
        return not self.jobs

    def request(self, parameters: Array, version: int, callback: Callable[[Result], None]) -> None:
        """Judge `parameters` [P] (copied); callback gets {version, return_mean, return_std, …} as of `summarise`."""
        self.jobs.append((np.array(parameters, dtype=np.float32), version, callback))

    def on_message(self, message: Message) -> None:
        message.release()

    def work(self) -> bool:
        if not self.jobs:
            return False
        parameters, version, callback = self.jobs[0]
        if self.match is None:
            settings, config = self.context.config.eval, self.context.config
            self.algorithm.load_parameters(parameters)
            environment = self.environments[len(self.results)][1]
            self.match = Match(self.algorithm, environment, config.policies, settings.episodes, settings.environments, settings.greedy, settings.seed)
        self.match.step()
        if self.match.done:
            self.results.append(self.match.episodes)
            self.match.close()
            self.match = None
            if len(self.results) == len(self.environments):
                self.jobs.popleft()
                results, self.results = self.results, []
                weights = [len(groups) for groups, _ in self.environments]
                callback({"version": version, **summarise(results, weights)})
        return True

    def close(self) -> None:
        if self.match is not None:
            self.match.close()


class Match:
    """So many episodes of one environment with fixed policies; every slot plays its share, so that short episodes weigh no more."""

    def __init__(
        self, algorithm: Any, environment: EnvConfig, policies: Any, episodes: int, slots: int, greedy: bool, seed: int
    ) -> None:
        self.algorithm = algorithm
        self.greedy = greedy
        slots = min(slots, episodes)
        self.left = [episodes // slots + (slot < episodes % slots) for slot in range(slots)]
        self.environment: BatchedEnvironment = make_environment(
            environment, policies, slots, Seeds(seed), with_state=algorithm.needs_state
        )
        self.generator = generator_for(seed, "evaluator", 0)
        self.frames: list[Frame] = [new_frame(self.environment.spec, slots, algorithm.needs_state) for _ in range(2)]
        self.outcome: Outcome = new_outcome(self.environment.spec, slots)
        self.memory = algorithm.initial_memory(slots)
        self.environment.reset(self.frames[0])
        self.episodes: list[Episode] = []

    @property
    def done(self) -> bool:
        return not any(self.left)

    def step(self) -> None:
        """One step of every slot."""
        decisions = self.algorithm.act(self.frames[0], self.memory, self.generator, greedy=self.greedy)
        for policy, decision in decisions.items():
            if decision.memory is not None:
                self.memory[policy] = decision.memory
        self.environment.step({policy: decision.action for policy, decision in decisions.items()}, self.outcome, self.frames[1])
        self.frames.reverse()
        for episode in self.outcome.episodes:
            if self.left[episode.slot] > 0:
                self.left[episode.slot] -= 1
                self.episodes.append(episode)

    def close(self) -> None:
        self.environment.close()


def summarise(results: list[list[Episode]], weights: list[int]) -> Result:
    """Figures of an evaluation: one list of episodes for each environment, `weights` groups each.

    return_mean, return_std over episodes, return_sem, episodes, length_mean, returns (by policy), win_rate (None where unknown),
    return_by_environment."""
    share = np.asarray(weights, float) / sum(weights)
    means = [float(np.mean([episode.return_mean for episode in episodes])) for episodes in results]
    every = [episode for episodes in results for episode in episodes]
    returns = np.array([episode.return_mean for episode in every])
    wins = [episode.outcome["win"] for episode in every if "win" in episode.outcome]
    return {
        "return_mean": float(np.dot(share, means)),
        "return_std": float(returns.std()),
        "return_sem": float(returns.std() / np.sqrt(len(returns))),
        "episodes": len(every),
        "length_mean": float(np.mean([episode.length for episode in every])),
        "returns": {name: float(np.mean([episode.returns[name] for episode in every])) for name in every[0].returns},
        "win_rate": float(np.mean(wins)) if wins else None,
        "return_by_environment": means,
    }
