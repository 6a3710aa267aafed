"""The evaluator: plays episodes with given parameters, without learning, on environments of its own.

It lives on the server's rank and plays one step of all its environments at a time, so that the server is
never away for long. Groups with environments of their own are judged on each of them; all figures weigh every
group the same (`summarise`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.comm.transport import Message
from hpcmarl.config import EnvConfig, EvalConfig, PolicyConfig
from hpcmarl.envs import (
    BatchedEnvironment,
    Seeds,
    make_environment,
    new_frame,
    new_outcome,
    prepare_environment,
)
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
        self.algorithm = context.acting_model(drawn=True)
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
        """Judge `parameters` [P] (copied); callback gets {version, return_mean, return_std, …} as of
        `summarise`.
        """
        self.jobs.append((np.array(parameters, dtype=np.float32), version, callback))

    def cancel(self) -> None:
        """Give up what is being judged and what waits; no callback follows."""
        self.jobs.clear()
        self.results = []
        if self.match is not None:
            self.match.close()
            self.match = None

    def on_message(self, message: Message) -> None:
        message.release()

    def work(self) -> bool:
        if not self.jobs:
            return False
        parameters, version, callback = self.jobs[0]
        if self.match is None:
            settings, config = self.context.config.eval, self.context.config
            self.algorithm.load_parameters(parameters)
            index = len(self.results)
            batch = evaluation_environment(
                self.environments[index][1],
                config.policies,
                settings,
                self.algorithm.needs_state,
                index,
                spec=self.context.environment_spec,
                skip_bad_numbers=config.faults.on_nan == "skip",
            )
            self.match = Match(
                self.algorithm, batch, settings.episodes, settings.greedy, settings.seed, index=index
            )
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
    environment: EnvConfig,
    policies: Mapping[str, PolicyConfig],
    settings: EvalConfig,
    with_state: bool,
    index: int = 0,
    *,
    spec: EnvironmentSpec | None = None,
    skip_bad_numbers: bool = False,
) -> BatchedEnvironment:
    """Make slots for `settings.episodes` episodes at most. None may be given up: all episodes are wanted.

    Args:
        environment, policies, with_state, spec, skip_bad_numbers: As make_environment() has them.
        settings: Of the evaluation.
        index: Of this environment among those of the evaluation; each has seeds of its own, since equal ones
            would correlate their returns.
    """
    slots = min(settings.environments, settings.episodes)
    stopping, seeds = (
        environment.model_copy(update={"on_restart_limit": "stop"}),
        Seeds(settings.seed, index * slots),
    )
    return make_environment(
        stopping, policies, slots, seeds, spec=spec, with_state=with_state, skip_bad_numbers=skip_bad_numbers
    )


class Match:
    """So many episodes of one environment with fixed policies; every slot plays its share, so that short
    episodes weigh no more.

    `random_agents` (names) draw uniformly among their allowed actions instead: an opponent to measure
    against. `index`: as of `evaluation_environment`, for actions that are drawn. agent_returns: agent -> the
    sum of its rewards in each counted episode; filled where `by_agent` asks for it.
    """

    def __init__(
        self,
        algorithm: Any,
        environment: BatchedEnvironment,
        episodes: int,
        greedy: bool,
        seed: int,
        random_agents: Sequence[str] = (),
        index: int = 0,
        by_agent: bool = False,
    ) -> None:
        self.algorithm, self.environment = algorithm, environment
        self.greedy = greedy
        slots = environment.slots
        self.left = [episodes // slots + (slot < episodes % slots) for slot in range(slots)]
        self.patience = BAD_EPISODES * episodes
        self.generator = generator_for(seed, "evaluator", index)
        self.random_columns = _columns(self.environment.spec, random_agents)
        wanted = self.environment.spec.policies if by_agent else ()
        self.earned = {policy.name: np.zeros((slots, len(policy.agents))) for policy in wanted}
        self.agent_returns: dict[str, list[float]] = {
            agent: [] for policy in self.environment.spec.policies for agent in policy.agents
        }
        self.frames: list[Frame] = [
            new_frame(self.environment.spec, slots, algorithm.needs_state) for _ in range(2)
        ]
        self.outcome: Outcome = new_outcome(self.environment.spec, slots)
        self.memory = algorithm.initial_memory(slots)
        self.environment.reset(self.frames[0])
        self.episodes: list[Episode] = []

    @property
    def done(self) -> bool:
        return not any(self.left)

    def step(self) -> None:
        """One step of every slot. Raises EnvironmentFailure where hardly any episode comes to an end for bad
        numbers.
        """
        if (bad := self.environment.counts["bad_numbers"]) > self.patience:
            raise EnvironmentFailure(
                f"{bad} evaluation episodes of {self.environment.spec.id} were cut off because of numbers "
                "that are not finite"
            )
        decisions = self.algorithm.act(
            self.frames[0], self.memory, self.generator, greedy=self.greedy, with_logp=False
        )
        for policy, decision in decisions.items():
            if decision.memory is not None:
                self.memory[policy] = decision.memory
        for policy, column in self.random_columns:
            decisions[policy].action[:, column] = self._random_actions(policy, column)
        self.environment.step(
            {policy: decision.action for policy, decision in decisions.items()}, self.outcome, self.frames[1]
        )
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
                for name, earned in self.earned.items():
                    for agent, total in zip(
                        self.environment.spec.policy(name).agents, earned[episode.slot].tolist(), strict=True
                    ):
                        self.agent_returns[agent].append(total)
        for earned in self.earned.values():
            earned[self.outcome.episode_end != 0] = 0.0
        if played:
            self.environment.rest_slots(played)  # they would only cost time

    def _random_actions(self, policy: str, column: int) -> Array:
        """One uniformly drawn, allowed action of one agent in every slot."""
        mask = self.frames[0].policies[policy].action_mask
        space = self.environment.spec.policy(policy).action
        return random_actions(
            space, (self.environment.slots,), None if mask is None else mask[:, column], self.generator
        )

    def close(self) -> None:
        self.environment.close()


def random_actions(
    space: ActionSpace, shape: tuple[int, ...], mask: BoolArray | None, generator: np.random.Generator
) -> Array:
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
    """(policy, index in it) of each named agent. Raises ConfigError for a name that the environment does not
    have.
    """
    places = {
        agent: (policy.name, index) for policy in spec.policies for index, agent in enumerate(policy.agents)
    }
    for agent in agents:
        if agent not in places:
            raise ConfigError(f"{agent!r} is no agent of {spec.id}; allowed: {', '.join(places)}")
    return [places[agent] for agent in agents]


def summarise(results: Sequence[Sequence[Episode]], weights: Sequence[int]) -> Result:
    """Compute the figures of an evaluation. Each environment weighs as many groups as train in it, however
    many of its episodes were played.

    With shares s_i of the groups, and the mean m_i and variance v_i (over n_i, not n_i - 1) of an
    environment's n_i returns:
    return_mean = sum s_i m_i,  return_std² = sum s_i (v_i + (m_i - return_mean)²),  return_sem² = sum s_i²
        v_i / n_i.

    Args:
        results: Episodes of each environment, at least one of each.
        weights: Groups that train in each environment.

    Returns:
        return_mean: Mean return of all agents in an episode of a group drawn at random.
        return_std: Standard deviation of that return over such episodes, with what lies between environments.
        return_sem: Standard error of return_mean, stratified by environment; in one environment return_std /
            sqrt(episodes).
        episodes: Episodes played, all environments together.
        length_mean: Mean length of an episode in steps, weighed as return_mean.
        returns: Mean return of each policy, weighed as return_mean.
        win_rate: Share of episodes that were won, weighed as return_mean among the environments that tell it;
            None if none does.
        return_by_environment: m_i of each environment.
    """
    share = np.asarray(weights, float) / sum(weights)
    returns = [np.array([episode.return_mean for episode in episodes]) for episodes in results]
    means = np.array([own.mean() for own in returns])
    variances = np.array([own.var() for own in returns])
    counts = np.array([len(own) for own in returns])
    mean = float(np.dot(share, means))
    return {
        "return_mean": mean,
        "return_std": float(np.sqrt(np.dot(share, variances + np.square(means - mean)))),
        "return_sem": float(np.sqrt(np.dot(np.square(share), variances / counts))),
        "episodes": int(counts.sum()),
        "length_mean": _weighed([[episode.length for episode in episodes] for episodes in results], weights),
        "returns": {
            name: _weighed([[episode.returns[name] for episode in episodes] for episodes in results], weights)
            for name in results[0][0].returns
        },
        "win_rate": _weighed(
            [
                [episode.outcome["win"] for episode in episodes if "win" in episode.outcome]
                for episodes in results
            ],
            weights,
        ),
        "return_by_environment": means.tolist(),
    }


def summarise_agents(
    results: Sequence[Mapping[str, Sequence[float]]], weights: Sequence[int]
) -> dict[str, dict[str, float | None]]:
    """Compute each agent's own figures, weighed as those of `summarise`.

    Args:
        results: Of each environment, agent -> its return in each episode.
        weights: Groups that train in each environment.

    Returns:
        agent -> return_mean, and the shares of episodes in which its return was positive, zero and negative.
    """
    figures = {}
    for agent in dict.fromkeys(agent for environment in results for agent in environment):
        returns = [np.asarray(environment.get(agent, ()), float) for environment in results]
        parts = {
            "return_mean": returns,
            "positive": [own > 0 for own in returns],
            "zero": [own == 0 for own in returns],
        }
        parts["negative"] = [own < 0 for own in returns]
        figures[agent] = {name: _weighed(part, weights) for name, part in parts.items()}
    return figures


def _weighed(values: Sequence[Any], weights: Sequence[int]) -> float | None:
    """The mean of each environment's values, weighed by `weights`; environments without a value are left out.
    None if no value is known.
    """
    known = [(float(np.mean(own)), weight) for own, weight in zip(values, weights, strict=True) if len(own)]
    return (
        float(np.average([mean for mean, _ in known], weights=[weight for _, weight in known]))
        if known
        else None
    )
