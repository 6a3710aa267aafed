"""Small environments whose numbers can all be worked out by hand, for the tests of hpcmarl.envs.

They can be imported by env.id, for instance tests.support.environments:Crowd. Observations contain the index
of the agent and the step.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

OBSERVATION = spaces.Box(-1000.0, 1000.0, (3,), np.float32)


class Crowd(ParallelEnv):
    """Agents that join and leave by a plan; the episode ends after the last of them.

    Rewards are 1 + action + 10 * index of the agent. Observations contain the seed.

    Args:
        plan: Agent -> (first step, last step, how it leaves). "terminated", "truncated" and "both" are flags
            of the last step. "vanish" leaves without a flag. "stay" has a flag but remains listed.
        win: Value of `won` in the last info; None: no such entry.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "crowd_v0"}

    def __init__(self, plan: dict[str, Any] | None = None, win: bool | None = None) -> None:
        self.plan = plan or {
            "walker_0": (0, 3, "terminated"),
            "walker_1": (0, 5, "truncated"),
            "walker_2": (2, 4, "both"),
            "walker_3": (1, 5, "vanish"),
        }
        self.win = win
        self.possible_agents = list(self.plan)

    def observation_space(self, agent: str) -> spaces.Space:
        return OBSERVATION

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(4)

    def _observe(self, agent: str) -> np.ndarray:
        return np.array([self.possible_agents.index(agent), self.time, self.seed % 997], np.float32)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seed, self.time = seed or 0, 0
        self.agents = [agent for agent, (first, _, _) in self.plan.items() if first == 0]
        return {agent: self._observe(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        listed = set(self.agents)
        rewards = {
            agent: 1.0 + float(action) + 10 * self.possible_agents.index(agent)
            for agent, action in actions.items()
        }
        leaving = {
            agent: how for agent, (_, last, how) in self.plan.items() if last == self.time and agent in listed
        }
        terminated = {
            agent: leaving.get(agent) in ("terminated", "both", "stay") or self._stays(agent)
            for agent in listed
        }
        truncated = {agent: leaving.get(agent) in ("truncated", "both") for agent in listed}
        self.time += 1
        self.agents = [
            agent
            for agent, (first, _, _) in self.plan.items()
            if (agent in listed and (agent not in leaving or leaving[agent] == "stay")) or first == self.time
        ]
        if leaving and all(agent in leaving or self._stays(agent) for agent in self.agents):
            self.agents = []
        shown = set(self.agents) | set(actions)
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in shown}
        if self.win is not None and not self.agents:
            infos[sorted(shown)[-1]]["won"] = self.win
        return {agent: self._observe(agent) for agent in shown}, rewards, terminated, truncated, infos

    def _stays(self, agent: str) -> bool:
        _, last, how = self.plan[agent]
        return how == "stay" and self.time > last

    def state(self) -> np.ndarray:
        return np.array([[self.time, len(self.agents)]], np.float64)


class MaskedCrowd(Crowd):
    """A Crowd in which action k (mod 4) is forbidden at step k. A forbidden action raises ValueError."""

    metadata: ClassVar[dict[str, Any]] = {"name": "masked_crowd_v0"}

    def _with_masks(self, infos: dict[str, Any]) -> dict[str, Any]:
        return {
            agent: {**info, "action_mask": (np.arange(4) != self.time % 4).astype(np.int8)}
            for agent, info in infos.items()
        }

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observations, infos = super().reset(seed, options)
        return observations, self._with_masks(infos)

    def step(self, actions: dict[str, Any]) -> Any:
        if self.time % 4 in actions.values():
            raise ValueError("forbidden")
        *others, infos = super().step(actions)
        return *others, self._with_masks(infos)


class Masked(ParallelEnv):
    """Two agents with masks in their infos and actions of two components of sizes 2 and 3.

    Action k (mod 3) of the second component is forbidden at step k. A forbidden action raises ValueError.

    Args:
        forbid: Step at which agent b may not take any action of the first component.
        length: Steps of an episode.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "masked_v0"}

    def __init__(self, forbid: int | None = None, length: int = 7) -> None:
        self.possible_agents, self.forbid, self.length = ["a", "b"], forbid, length

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Dict(
            {
                "kind": spaces.Discrete(2),
                "time": spaces.Box(0, 100, (2,), np.int64),
                "bits": spaces.MultiBinary(2),
            }
        )

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.MultiDiscrete([2, 3], start=[0, 5])

    def _all(self) -> Any:
        bits = np.array([1, 0], np.int8)
        observations = {
            agent: {"kind": np.int64(number), "time": np.array([self.time, 9]), "bits": bits}
            for number, agent in enumerate(self.agents)
        }
        infos = {}
        for agent in self.agents:
            second = np.ones(3, np.int8)
            second[self.time % 3] = 0
            first = np.zeros(2, np.int8) if self.time == self.forbid and agent == "b" else np.ones(2, np.int8)
            infos[agent] = {"action_mask": (first, second)}
        return observations, infos

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.agents, self.time = list(self.possible_agents), 0
        return self._all()

    def step(self, actions: dict[str, Any]) -> Any:
        for agent, action in actions.items():
            assert self.action_space(agent).contains(action)
            if action[1] - 5 == self.time % 3:
                raise ValueError("forbidden")
        self.time += 1
        observations, infos = self._all()
        over = self.time == self.length
        agents = self.agents
        if over:
            self.agents = []
        return (
            observations,
            dict.fromkeys(agents, 0.0),
            dict.fromkeys(agents, over),
            dict.fromkeys(agents, False),
            infos,
        )


class Echo(ParallelEnv):
    """Two agents observe a number; naming it earns the agent 1 / length in each step.

    Episodes have 2 to 6 steps, and a random half of them is truncated instead of terminated. The seed
    determines numbers, length and kind of end.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "echo_v0"}

    def __init__(self) -> None:
        self.possible_agents = ["first", "second"]

    def observation_space(self, agent: str) -> spaces.Space:
        return OBSERVATION

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(3)

    def _all(self) -> dict[str, np.ndarray]:
        return {
            agent: np.eye(3, dtype=np.float32)[int(self.numbers[self.time])] for agent in self.possible_agents
        }

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        generator = np.random.default_rng(seed)
        self.length, self.cut, self.time = int(generator.integers(2, 7)), bool(generator.integers(2)), 0
        self.numbers = generator.integers(3, size=self.length + 1)
        self.agents = list(self.possible_agents)
        return self._all(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        right = {agent: float(int(action) == self.numbers[self.time]) for agent, action in actions.items()}
        self.time += 1
        over, everyone = self.time == self.length, list(self.agents)
        self.agents = [] if over else everyone
        rewards = {agent: right[agent] / self.length for agent in everyone}
        ended, cut = (
            dict.fromkeys(everyone, over and not self.cut),
            dict.fromkeys(everyone, over and self.cut),
        )
        return self._all(), rewards, ended, cut, {agent: {} for agent in everyone}


class Recall(Echo):
    """Echo with one number for the whole episode, visible in its first step only.

    Without memory no agent earns more than 0.53 on average.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "recall_v0"}

    def _all(self) -> dict[str, np.ndarray]:
        return (
            super()._all()
            if self.time == 0
            else {agent: np.zeros(3, np.float32) for agent in self.possible_agents}
        )

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        beginning = super().reset(seed, options)
        self.numbers[:] = self.numbers[0]
        return beginning

    def state(self) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[int(self.numbers[0])]


class Fading(ParallelEnv):
    """A team of two for four steps, of which agent_0 leaves after two; each step pays 1 to all listed agents.

    Args:
        says: Declare the common reward in the metadata.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "fading_v0"}

    def __init__(self, says: bool = False) -> None:
        self.possible_agents = ["agent_0", "agent_1"]
        if says:
            self.metadata = {**self.metadata, "common_reward": True}

    def observation_space(self, agent: str) -> spaces.Space:
        return OBSERVATION

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(2)

    def _observe(self) -> dict[str, np.ndarray]:
        return {agent: np.full(3, self.time, np.float32) for agent in self.possible_agents}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.time, self.agents = 0, list(self.possible_agents)
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        acted = self.agents
        self.time += 1
        ends = {agent: self.time == (2 if agent == "agent_0" else 4) for agent in acted}
        self.agents = [agent for agent in acted if not ends[agent]]
        return (
            self._observe(),
            dict.fromkeys(acted, 1.0),
            ends,
            dict.fromkeys(acted, False),
            {agent: {} for agent in acted},
        )


class Fragile(Crowd):
    """Two agents for ten steps, with faults.

    Args:
        step: Time at which a step raises RuntimeError; -1: never.
        reset_every: Every so many resets, one raises OSError; 0: none.
        wrong_shape: Observations of walker_1 have a wrong shape.
        steps: Steps of an episode.
    """

    built = 0

    def __init__(
        self, step: int = -1, reset_every: int = 0, wrong_shape: bool = False, steps: int = 10
    ) -> None:
        super().__init__({"walker_0": (0, steps - 1, "truncated"), "walker_1": (0, steps - 1, "truncated")})
        self.break_at, self.reset_every, self.wrong_shape, self.resets = step, reset_every, wrong_shape, 0
        Fragile.built += 1

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.resets += 1
        if self.reset_every and self.resets % self.reset_every == 0:
            raise OSError("the reset broke")
        return super().reset(seed)

    def step(self, actions: dict[str, Any]) -> Any:
        if self.time == self.break_at:
            raise RuntimeError("the wheel came off")
        observations, *rest = super().step(actions)
        if self.wrong_shape:
            observations["walker_1"] = np.zeros(1, np.float32)
        return observations, *rest


class Rarely(Fragile):
    """Every second episode of the process raises at its fourth step; the others end after ten."""

    episodes = 0

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        Rarely.episodes += 1
        self.break_at = 3 if Rarely.episodes % 2 else -1
        return super().reset(seed)


class NoPossibleAgents(Crowd):
    """An environment that lists its agents only after a reset.

    Args:
        empty_from: Number of resets after which it has no agents.
    """

    def __init__(self, empty_from: int = 10**9) -> None:
        super().__init__({"x": (0, 1, "terminated"), "y": (0, 1, "terminated")})
        self.order, self.count, self.empty_from = self.possible_agents, 0, empty_from
        del self.possible_agents

    def _observe(self, agent: str) -> np.ndarray:
        return np.array([self.order.index(agent), self.time, 0], np.float32)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.count += 1
        self.seed, self.time, self.agents = 0, 0, [] if self.count > self.empty_from else list(self.order)
        return {agent: self._observe(agent) for agent in self.agents}, {}

    def step(self, actions: dict[str, Any]) -> Any:
        self.time += 1
        over, agents = self.time == 2, self.agents
        self.agents = [] if over else agents
        observations = {agent: self._observe(agent) for agent in agents}
        return (
            observations,
            dict.fromkeys(agents, 1.0),
            dict.fromkeys(agents, over),
            dict.fromkeys(agents, False),
            {},
        )


class Boxed(ParallelEnv):
    """One agent with the given action space; the environment records the actions that it receives."""

    metadata: ClassVar[dict[str, Any]] = {"name": "boxed_v0"}
    given: ClassVar[list[Any]] = []

    def __init__(self, space: spaces.Space, observation: spaces.Space = OBSERVATION) -> None:
        self.possible_agents, self.space, self.seen = ["lone_0"], space, observation
        self.seen.seed(0)

    def observation_space(self, agent: str) -> spaces.Space:
        return self.seen

    def action_space(self, agent: str) -> spaces.Space:
        return self.space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.agents = list(self.possible_agents)
        return {"lone_0": self.seen.sample()}, {"lone_0": {}}

    def step(self, actions: dict[str, Any]) -> Any:
        Boxed.given.append(actions["lone_0"])
        return (
            {"lone_0": self.seen.sample()},
            {"lone_0": 0.5},
            {"lone_0": False},
            {"lone_0": False},
            {"lone_0": {}},
        )


def screen() -> Boxed:
    """Make an environment with images as observations."""
    return Boxed(spaces.Discrete(2), spaces.Box(0, 255, (64, 64, 3), np.uint8))


def boxed_matrix() -> Boxed:
    """Make an environment with a matrix of bounded actions."""
    return Boxed(spaces.Box(np.array([[-1.0, 0.0]] * 2, np.float32), np.array([[1.0, 2.0]] * 2, np.float32)))


def boxed_unbounded() -> Boxed:
    """Make an environment with unbounded actions."""
    return Boxed(spaces.Box(-np.inf, np.inf, (2,)))


def boxed_binary() -> Boxed:
    """Make an environment with three binary actions."""
    return Boxed(spaces.MultiBinary(3))


def boxed_shifted() -> Boxed:
    """Make an environment with discrete actions that start at -1."""
    return Boxed(spaces.Discrete(3, start=-1))


def boxed_whole() -> Boxed:
    """Make an environment with integer actions in a box."""
    return Boxed(spaces.Box(0, 10, (1,), np.int32))


def boxed_text() -> Boxed:
    """Make an environment with sequences of unlimited length as observations."""
    return Boxed(spaces.Discrete(2), spaces.Sequence(spaces.Discrete(2)))


def boxed_observing_tuple() -> Boxed:
    """Make an environment with tuples as observations."""
    return Boxed(
        spaces.Discrete(2),
        spaces.Tuple((spaces.Discrete(3, start=2), spaces.Box(-1, 1, ()), spaces.MultiDiscrete([2, 2]))),
    )


class Duel(AECEnv):
    """Three players in turn.

    Each turn pays 1 to the player and 0.5 to every other living player. Action 1 kills the next living
    player, who is paid -3. The last living player is truncated after its next turn. Dead players still have
    turns, with action None.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "duel_v0", "render_modes": []}

    def __init__(self) -> None:
        self.possible_agents = ["p0", "p1", "p2"]

    def observation_space(self, agent: str) -> spaces.Space:
        return OBSERVATION

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(2)

    def observe(self, agent: str) -> np.ndarray:
        return np.array([self.possible_agents.index(agent), self.time, len(self.agents)], np.float32)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.agents, self.time = list(self.possible_agents), 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = (
            dict.fromkeys(self.agents, False),
            dict.fromkeys(self.agents, False),
        )
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection = "p0"

    def _living(self) -> list[str]:
        return [agent for agent in self.agents if not (self.terminations[agent] or self.truncations[agent])]

    def _after(self, agent: str) -> str:
        start = self.possible_agents.index(agent)
        ring = self.possible_agents[start + 1 :] + self.possible_agents[: start + 1]
        return next((other for other in ring if other in self.agents), agent)

    def step(self, action: int | None) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            self.agent_selection = self._after(agent)
            return
        living = self._living()
        self.rewards = {
            other: (1.0 if other == agent else 0.5 if other in living else 0.0) for other in self.agents
        }
        self.time += 1
        if len(living) == 1:
            self.truncations[agent] = True
        elif action == 1:
            ring = living[living.index(agent) + 1 :] + living[: living.index(agent)]
            self.terminations[ring[0]] = True
            self.rewards[ring[0]] = -3.0
        self.agent_selection = self._after(agent)


class NotAnEnvironment:
    """A class that is not an environment."""


class Spoiled(Crowd):
    """Two agents for eight steps; every fifth episode has a fault at time 3 or in its reset.

    Args:
        what: "nothing", "reset" (NaN in the first observation), "hang", "raise", "observation" (NaN) or
            "reward" (minus infinity).
        every: Every so many episodes, one is faulty.
        seconds: Duration of a hang.
    """

    episodes = 0

    def __init__(self, what: str = "nothing", every: int = 5, seconds: float = 0.0) -> None:
        super().__init__({"walker_0": (0, 7, "truncated"), "walker_1": (0, 7, "truncated")})
        self.what, self.every, self.seconds, self.wrong = what, every, seconds, False

    def reset(self, seed=None, options=None):
        Spoiled.episodes += 1
        self.wrong = Spoiled.episodes % self.every == 0
        observations, infos = super().reset(seed)
        if self.wrong and self.what == "reset":
            observations["walker_1"] = observations["walker_1"] * np.nan
        return observations, infos

    def step(self, actions):
        now = self.wrong and self.time == 3
        if now and self.what == "hang":
            until = time.monotonic() + self.seconds
            while time.monotonic() < until:
                pass
        if now and self.what == "raise":
            raise RuntimeError("the wheel came off")
        observations, rewards, *rest = super().step(actions)
        if now and self.what == "observation":
            observations["walker_1"] = np.full_like(observations["walker_1"], np.nan)
        if now and self.what == "reward":
            rewards["walker_0"] = float("-inf")
        return observations, rewards, *rest


class Crashing(Crowd):
    """Two agents for eight steps; the process ends in step 100 of its environments.

    Args:
        how: "" (it does not end), "segfault" or "exit" (SystemExit).
    """

    steps = 0

    def __init__(self, how: str = "") -> None:
        super().__init__({"walker_0": (0, 7, "truncated"), "walker_1": (0, 7, "truncated")})
        self.how = how

    def step(self, actions):
        Crashing.steps += 1
        if Crashing.steps == 100 and self.how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if Crashing.steps == 100 and self.how == "exit":
            sys.exit(3)
        return super().step(actions)


class ShortOrLong(ParallelEnv):
    """One decision counts, the first: action 0 ends the episode with reward 1, action 1 continues.

    A continued episode ends after `steps` steps with `reward`. Observations are [1, 0] at the decision and
    [0, 1] afterwards, when actions have no effect.

    Args:
        steps: Steps of a long episode.
        reward: Reward of a long episode.
        breaks_every: Every so many seeds, the episode raises RuntimeError; 0: none.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "short_or_long_v0"}

    def __init__(self, steps: int = 10, reward: float = 2.0, breaks_every: int = 0) -> None:
        self.possible_agents, self.steps, self.reward, self.breaks_every = (
            ["chooser"],
            steps,
            reward,
            breaks_every,
        )

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(0.0, 1.0, (2,), np.float32)

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.agents, self.time = list(self.possible_agents), 0
        self.breaks = bool(self.breaks_every) and (seed or 0) % self.breaks_every == 0
        return {"chooser": np.array([1.0, 0.0], np.float32)}, {"chooser": {}}

    def step(self, actions: dict[str, Any]) -> Any:
        if self.breaks:
            raise RuntimeError("the way is blocked")
        short = self.time == 0 and int(actions["chooser"]) == 0
        self.time += 1
        over = short or self.time == self.steps
        reward = (1.0 if short else self.reward) if over else 0.0
        self.agents = [] if over else self.agents
        seen = {"chooser": np.array([0.0, 1.0], np.float32)}
        return seen, {"chooser": reward}, {"chooser": over}, {"chooser": False}, {"chooser": {}}


class Difference(ParallelEnv):
    """Two agents, two rounds: each is paid its own action minus the other's.

    The environment is zero-sum but does not declare it.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "difference_v0"}

    def __init__(self) -> None:
        self.possible_agents = ["duellist_0", "duellist_1"]

    def observation_space(self, agent: str) -> spaces.Space:
        return OBSERVATION

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(3)

    def _observe(self) -> dict[str, np.ndarray]:
        return {
            agent: np.array([number, self.time, 0], np.float32)
            for number, agent in enumerate(self.possible_agents)
        }

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.time, self.agents = 0, list(self.possible_agents)
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        first, second = (float(actions[agent]) for agent in self.possible_agents)
        self.time += 1
        over = self.time == 2
        rewards = dict(zip(self.possible_agents, (first - second, second - first), strict=True))
        ends = dict.fromkeys(self.possible_agents, over)
        self.agents = [] if over else self.agents
        return (
            self._observe(),
            rewards,
            ends,
            dict.fromkeys(self.possible_agents, False),
            {agent: {} for agent in self.possible_agents},
        )


class Switching(ParallelEnv):
    """Two agents earn 1/8 in each of eight steps in which they do not repeat their last action.

    They observe only ones. Without knowledge of its last action, an agent has no better policy than to switch
    at random.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "switching_v0"}
    STEPS = 8

    def __init__(self) -> None:
        self.possible_agents = ["first", "second"]

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(0.0, 1.0, (1,), np.float32)

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(2)

    def _all(self) -> Any:
        return {agent: np.ones(1, np.float32) for agent in self.possible_agents}, {
            agent: {} for agent in self.possible_agents
        }

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.agents, self.time, self.last = (
            list(self.possible_agents),
            0,
            dict.fromkeys(self.possible_agents, -1),
        )
        return self._all()

    def step(self, actions: dict[str, Any]) -> Any:
        rewards = {
            agent: float(int(action) != self.last[agent]) / self.STEPS for agent, action in actions.items()
        }
        self.last = {agent: int(action) for agent, action in actions.items()}
        self.time += 1
        over, everyone = self.time == self.STEPS, list(self.agents)
        self.agents = [] if over else everyone
        observations, infos = self._all()
        return observations, rewards, dict.fromkeys(everyone, over), dict.fromkeys(everyone, False), infos
