"""The evaluator: plays episodes with given parameters, without learning, on environments of its own.

It lives on the server's rank and plays one step of all its environments at a time, so that the server is never away for long.
Groups with environments of their own are judged on each of them; the mean weighs every group the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.comm.transport import Message
from hpcmarl.config import EnvConfig, EvalConfig, PolicyConfig
from hpcmarl.envs import BatchedEnvironment, Seeds, make_environment, new_frame, new_outcome, prepare_environment
from hpcmarl.errors import ConfigError, EnvironmentFailure
from hpcmarl.roles.base import Context, Role, generator_for
from hpcmarl.types import ActionSpace, Array, BoolArray, EnvironmentSpec, Episode, Frame, Outcome

Result = dict[str, Any]
BAD_EPISODES = 10  # cut off for each one that is wanted, until an evaluation gives up


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
        if (wanted := context.config.eval).episodes:  # here, and not when the server is waited for
            for _, config in self.environments:
                prepare_environment(config, min(wanted.environments, wanted.episodes))

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
            batch = evaluation_environment(
                environment, config.policies, settings, self.algorithm.needs_state, skip_bad_numbers=config.faults.on_nan == "skip"
            )
            self.match = Match(self.algorithm, batch, settings.episodes, settings.greedy, settings.seed)
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


def evaluation_environment(
    environment: EnvConfig, policies: Mapping[str, PolicyConfig], settings: EvalConfig, with_state: bool, *, skip_bad_numbers: bool = False
) -> BatchedEnvironment:
    """Slots for `settings.episodes` episodes at most. None may be given up: all episodes are wanted."""
    slots = min(settings.environments, settings.episodes)
    stopping = environment.model_copy(update={"past_restarts": "stop"})
    return make_environment(stopping, policies, slots, Seeds(settings.seed), with_state=with_state, skip_bad_numbers=skip_bad_numbers)


class Match:
    """So many episodes of one environment with fixed policies; every slot plays its share, so that short episodes weigh no more.

    `random_agents` (names) draw uniformly among their allowed actions instead: an opponent to measure against.
    agent_returns: agent -> the sum of its rewards in each counted episode."""

    def __init__(
        self, algorithm: Any, environment: BatchedEnvironment, episodes: int, greedy: bool, seed: int, random_agents: Sequence[str] = ()
    ) -> None:
        self.algorithm, self.environment = algorithm, environment
        self.greedy = greedy
        slots = environment.slots
        self.left = [episodes // slots + (slot < episodes % slots) for slot in range(slots)]
        self.patience = BAD_EPISODES * episodes
        self.generator = generator_for(seed, "evaluator", 0)
        self.random_columns = _columns(self.environment.spec, random_agents)
        self.earned = {policy.name: np.zeros((slots, len(policy.agents))) for policy in self.environment.spec.policies}
        self.agent_returns: dict[str, list[float]] = {agent: [] for policy in self.environment.spec.policies for agent in policy.agents}
        self.frames: list[Frame] = [new_frame(self.environment.spec, slots, algorithm.needs_state) for _ in range(2)]
        self.outcome: Outcome = new_outcome(self.environment.spec, slots)
        self.memory = algorithm.initial_memory(slots)
        self.environment.reset(self.frames[0])
        self.episodes: list[Episode] = []

    @property
    def done(self) -> bool:
        return not any(self.left)

    def step(self) -> None:
        """One step of every slot. Raises EnvironmentFailure where hardly any episode comes to an end for bad numbers."""
        if (bad := self.environment.counts["bad_numbers"]) > self.patience:
            raise EnvironmentFailure(f"{bad} evaluation episodes of {self.environment.spec.id} were cut off because of numbers that are not finite")
        decisions = self.algorithm.act(self.frames[0], self.memory, self.generator, greedy=self.greedy)
        for policy, decision in decisions.items():
            if decision.memory is not None:
                self.memory[policy] = decision.memory
        for policy, column in self.random_columns:
            decisions[policy].action[:, column] = self._random_actions(policy, column)
        self.environment.step({policy: decision.action for policy, decision in decisions.items()}, self.outcome, self.frames[1])
        self.frames.reverse()
        for policy, earned in self.earned.items():
            earned += self.outcome.policies[policy].reward
        played = []
        for episode in self.outcome.episodes:
            if self.left[episode.slot] > 0:
                self.left[episode.slot] -= 1
                if not self.left[episode.slot]:
                    played.append(episode.slot)
                self.episodes.append(episode)
                for spec in self.environment.spec.policies:
                    for agent, total in zip(spec.agents, self.earned[spec.name][episode.slot], strict=True):
                        self.agent_returns[agent].append(float(total))
        for earned in self.earned.values():
            earned[self.outcome.episode_end != 0] = 0.0
        if played:
            self.environment.rest_slots(played)  # they would only cost time

    def _random_actions(self, policy: str, column: int) -> Array:
        """One uniformly drawn, allowed action of one agent in every slot."""
        mask = self.frames[0].policies[policy].action_mask
        space = self.environment.spec.policy(policy).action
        return random_actions(space, (self.environment.slots,), None if mask is None else mask[:, column], self.generator)

    def close(self) -> None:
        self.environment.close()


def random_actions(space: ActionSpace, shape: tuple[int, ...], mask: BoolArray | None, generator: np.random.Generator) -> Array:
    """[*shape, *action.shape], each uniform over what mask [*shape, A] allows."""
    if space.kind == "continuous":
        return generator.uniform(space.low, space.high, (*shape, space.sizes[0])).astype(np.float32)
    chosen, start = [], 0
    for size in space.sizes:
        allowed = np.ones((*shape, size), bool) if mask is None else mask[..., start : start + size]
        chosen.append(np.where(allowed, generator.random((*shape, size)), -1.0).argmax(axis=-1))
        start += size
    return chosen[0] if space.kind == "discrete" else np.stack(chosen, axis=-1)


def _columns(spec: EnvironmentSpec, agents: Sequence[str]) -> list[tuple[str, int]]:
    """(policy, index in it) of each named agent. Raises ConfigError for a name that the environment does not have."""
    places = {agent: (policy.name, index) for policy in spec.policies for index, agent in enumerate(policy.agents)}
    for agent in agents:
        if agent not in places:
            raise ConfigError(f"{agent!r} is no agent of {spec.id}; allowed: {', '.join(places)}")
    return [places[agent] for agent in agents]


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
