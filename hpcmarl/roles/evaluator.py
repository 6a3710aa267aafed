"""The evaluator: play episodes with given parameters on separate environments, without learning.

It runs on the server's rank. To block the server only briefly, it plays one step of all its environments at a
time. If groups have their own environments, the parameters are evaluated in each of them. All figures weigh
every group equally (`summarise`).
"""

from __future__ import annotations

import time
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
from hpcmarl.replay.recorder import Recorder
from hpcmarl.roles.base import Context, Role, generator_for
from hpcmarl.roles.videos import Videos
from hpcmarl.tracing.spans import Span
from hpcmarl.types import ActionSpace, Array, BoolArray, EnvironmentSpec, Episode, Frame, Outcome

Result = dict[str, Any]
BAD_EPISODES = 10  # an evaluation fails after this many cut-off episodes per requested episode


class Evaluator(Role):
    """Evaluate parameters on request, one request after another.

    Attributes:
        jobs: Waiting requests as (parameters, version, callback); the first is being processed.
        match: Episodes that are being played; None: none are.
        environments: Different environments of the run, each with the groups that train in it.
        results: Episodes of the environments that the present request has finished.
        seconds: Time spent in evaluations.
    """

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
        self.seconds = 0.0
        self.videos = Videos(context, [config for _, config in self.environments])
        if (wanted := context.config.eval).episodes:  # prepare now, so that the server need not wait later
            for _, config in self.environments:
                prepare_environment(config, min(wanted.environments, wanted.episodes))

    @property
    def idle(self) -> bool:
        """Whether no evaluation is running or waiting, and no video is being made."""
        return not self.jobs and not self.videos.busy

    def request(self, parameters: Array, version: int, callback: Callable[[Result], None]) -> None:
        """Queue an evaluation.

        Args:
            parameters: Parameters to evaluate, shape [P]; copied.
            version: Their version.
            callback: Called with the result: `version` and the figures of `summarise`.
        """
        self.jobs.append((np.array(parameters, dtype=np.float32), version, callback))

    def cancel(self) -> None:
        """Discard the running evaluation and all waiting ones. Their callbacks are not called."""
        self.jobs.clear()
        self.results = []
        self.videos.cancel()
        if self.match is not None:
            self.match.close()
            self.match = None

    def on_message(self, message: Message) -> None:
        message.release()

    def work(self) -> bool:
        if self.videos.step():
            return True
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
                self.algorithm,
                batch,
                settings.episodes,
                settings.greedy,
                settings.seed,
                index=index,
                recorder=None if index else self.videos.recorder(version),
            )
        began = time.perf_counter()
        self.match.step()
        ended = time.perf_counter()
        self.seconds += ended - began
        if self.trace is not None:
            self.trace.add(Span.EVALUATION, began, ended, version)
        if self.match.done:
            self.results.append(self.match.episodes)
            self.match.close()
            self.match = None
            if len(self.results) == len(self.environments):
                self.jobs.popleft()
                results, self.results = self.results, []
                weights = [len(groups) for groups, _ in self.environments]
                callback({"version": version, **summarise(results, weights)})
                self.videos.begin()
        return True

    def close(self) -> None:
        self.videos.cancel()
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
    """Make the slots of an evaluation, for at most `settings.episodes` episodes.

    No slot may be quarantined, since all episodes are needed: on_restart_limit is "stop".

    Args:
        environment: As in make_environment().
        policies: As in make_environment().
        settings: Settings of the evaluation.
        with_state: As in make_environment().
        index: Number of this environment in the evaluation. Each number has its own seeds, since equal seeds
            would correlate the returns.
        spec: As in make_environment().
        skip_bad_numbers: As in make_environment().
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
    """A number of episodes of one environment with fixed policies.

    Every slot plays its share of the episodes, so that short episodes do not weigh more.

    Args:
        algorithm: Networks that act.
        environment: The slots; closed with the match.
        episodes: Number of episodes.
        greedy: Whether policies choose their most likely action.
        seed: Seed of drawn actions.
        random_agents: Names of agents that draw uniformly from their allowed actions, as an opponent to
            measure against.
        index: Number of the environment in the evaluation (see `evaluation_environment`), for drawn actions.
        by_agent: Whether to fill `agent_returns`.
        recorder: Records the episodes of one slot; None: none are recorded.

    Attributes:
        episodes: Finished episodes that count.
        left: Episodes that each slot still has to play.
        agent_returns: Agent -> sum of its rewards in each counted episode.
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
        recorder: Recorder | None = None,
    ) -> None:
        self.algorithm, self.environment, self.recorder = algorithm, environment, recorder
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
        """Whether all episodes are finished."""
        return not any(self.left)

    def step(self) -> None:
        """Play one step of every slot.

        Raises:
            EnvironmentFailure: Non-finite values cut off far more episodes than are finished.
        """
        if (bad := self.environment.counts["bad_numbers"]) > self.patience:
            raise EnvironmentFailure(
                f"{bad} evaluation episodes of {self.environment.spec.id} were cut off by non-finite values "
                f"(allowed: {self.patience}); correct the environment"
            )
        decisions = self.algorithm.act(
            self.frames[0],
            self.memory,
            self.generator,
            greedy=self.greedy,
            with_logp=self.recorder is not None and not self.recorder.done,
        )
        for policy, decision in decisions.items():
            if decision.memory is not None:
                self.memory[policy] = decision.memory
        for policy, column in self.random_columns:
            decisions[policy].action[:, column] = self._random_actions(policy, column)
        if self.recorder is not None:
            self.recorder.before(self.frames[0], decisions, self.environment.episode_index)
        self.environment.step(
            {policy: decision.action for policy, decision in decisions.items()}, self.outcome, self.frames[1]
        )
        if self.recorder is not None:
            self.recorder.after(self.outcome)
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
            self.environment.rest_slots(played)  # further steps of these slots would only cost time

    def _random_actions(self, policy: str, column: int) -> Array:
        """Draw a uniform, allowed action of one agent in every slot."""
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
    """Draw uniform actions.

    Args:
        space: Space of one action.
        shape: Shape of the batch.
        mask: Allowed actions, shape [*shape, A]; None: all.
        generator: Random numbers.

    Returns:
        Actions, shape [*shape, *action.shape], each uniform over the allowed ones.
    """
    if space.kind == "continuous":
        return generator.uniform(space.low, space.high, (*shape, space.sizes[0])).astype(np.float32)
    chosen, start = [], 0
    for size in space.sizes:
        allowed = np.ones((*shape, size), bool) if mask is None else mask[..., start : start + size]
        chosen.append(np.where(allowed, generator.random((*shape, size)), -1.0).argmax(axis=-1))
        start += size
    return chosen[0] if space.kind == "discrete" else np.stack(chosen, axis=-1)


def _columns(spec: EnvironmentSpec, agents: Sequence[str]) -> list[tuple[str, int]]:
    """Return (policy, index in it) of each named agent.

    Raises:
        ConfigError: The environment has no agent of that name.
    """
    places = {
        agent: (policy.name, index) for policy in spec.policies for index, agent in enumerate(policy.agents)
    }
    for agent in agents:
        if agent not in places:
            raise ConfigError(f"{agent!r} is not an agent of {spec.id}; allowed: {', '.join(places)}")
    return [places[agent] for agent in agents]


def summarise(results: Sequence[Sequence[Episode]], weights: Sequence[int]) -> Result:
    """Compute the figures of an evaluation.

    Each environment weighs as many groups as train in it, whatever the number of its episodes. Let s_i be the
    share of the groups, m_i the mean and v_i the variance (over n_i, not n_i - 1) of the n_i returns of
    environment i:

        return_mean  = sum s_i m_i
        return_std²  = sum s_i (v_i + (m_i - return_mean)²)
        return_sem²  = sum s_i² v_i / n_i

    Args:
        results: Episodes of each environment, at least one each.
        weights: Groups that train in each environment.

    Returns:
        return_mean: Mean return of all agents in an episode of a group drawn at random.
        return_std: Standard deviation of that return over such episodes, including the variance between
            environments.
        return_sem: Standard error of return_mean, stratified by environment; with one environment it is
            return_std / sqrt(episodes).
        episodes: Number of episodes in all environments.
        length_mean: Mean length of an episode in steps, weighted like return_mean.
        returns: Mean return of each policy, weighted like return_mean.
        win_rate: Share of episodes that were won, weighted like return_mean among the environments that
            report it; None if none does.
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
    """Compute each agent's own figures, weighted like those of `summarise`.

    Args:
        results: For each environment, agent -> its return in each episode.
        weights: Groups that train in each environment.

    Returns:
        Agent -> return_mean, and the shares of episodes with a positive, zero and negative return of the
        agent.
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
    """Return the weighted mean of the environments' means.

    Environments without values are left out. None if no environment has any.
    """
    known = [(float(np.mean(own)), weight) for own, weight in zip(values, weights, strict=True) if len(own)]
    return (
        float(np.average([mean for mean, _ in known], weights=[weight for _, weight in known]))
        if known
        else None
    )
