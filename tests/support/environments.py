"""Small environments whose every number can be worked out by hand, for the tests of hpcmarl.envs.

Importable by env.id, for instance tests.support.environments:Crowd. Observations tell the agent's number and
the step.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

OBSERVATION = spaces.Box(-1000.0, 1000.0, (3,), np.float32)


class Crowd(ParallelEnv):
    """Agents come and go by a plan: agent -> (first step, last step, how it leaves). After the last of them
    the episode ends.

    how: "terminated", "truncated", "both" (flags of the last step), "vanish" (no flag at all) or "stay"
    (flagged, but still listed). Rewards are 1 + action + 10 * number of the agent. The seed shows in the
    observations.
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
    """A Crowd whose agents may not do at step k what is k (mod 4). Raises ValueError on a forbidden
    action."""

    metadata: ClassVar[dict[str, Any]] = {"name": "masked_crowd_v0"}

    def _told(self, infos: dict[str, Any]) -> dict[str, Any]:
        return {
            agent: {**info, "action_mask": (np.arange(4) != self.time % 4).astype(np.int8)}
            for agent, info in infos.items()
        }

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observations, infos = super().reset(seed, options)
        return observations, self._told(infos)

    def step(self, actions: dict[str, Any]) -> Any:
        if self.time % 4 in actions.values():
            raise ValueError("forbidden")
        *others, infos = super().step(actions)
        return *others, self._told(infos)


class Masked(ParallelEnv):
    """Two agents whose masks come by info; component sizes (2, 3). Action k of the second component is
    forbidden at step k (mod 3).

    forbid: at this step agent b is forbidden everything in the first component. Raises ValueError on a
    forbidden action.
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
    """Two agents see a number; each earns its share of 1 for each step in which it names it. Episodes of
    unequal lengths, 2 to 6 steps; every other one is cut off (truncated) instead of ended. The seed decides
    all of it."""

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
    """Echo with one number for the whole episode, seen in its first step only: without memory nobody earns
    more than 0.53 on average."""

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
    """A team of two for four steps, each of which earns 1 for all that are listed; agent_0 is gone after two.
    says: the metadata tell of that."""

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
    """Two agents for ten steps; raises at a step, in a reset, or shows observations of a wrong shape, every
    so many episodes."""

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


class NoPossibleAgents(Crowd):
    """Tells its agents only after a reset, and always has none at all when `empty`."""

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
    """One agent with the given action space; remembers what it was given."""

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
    return Boxed(spaces.Discrete(2), spaces.Box(0, 255, (64, 64, 3), np.uint8))


def boxed_matrix() -> Boxed:
    return Boxed(spaces.Box(np.array([[-1.0, 0.0]] * 2, np.float32), np.array([[1.0, 2.0]] * 2, np.float32)))


def boxed_unbounded() -> Boxed:
    return Boxed(spaces.Box(-np.inf, np.inf, (2,)))


def boxed_binary() -> Boxed:
    return Boxed(spaces.MultiBinary(3))


def boxed_shifted() -> Boxed:
    return Boxed(spaces.Discrete(3, start=-1))


def boxed_whole() -> Boxed:
    return Boxed(spaces.Box(0, 10, (1,), np.int32))


def boxed_text() -> Boxed:
    return Boxed(spaces.Discrete(2), spaces.Sequence(spaces.Discrete(2)))


def boxed_observing_tuple() -> Boxed:
    return Boxed(
        spaces.Discrete(2),
        spaces.Tuple((spaces.Discrete(3, start=2), spaces.Box(-1, 1, ()), spaces.MultiDiscrete([2, 2]))),
    )


class Duel(AECEnv):
    """Three players in turn. Each turn pays the player 1 and every other living one 0.5; action 1 kills the
    next living player, who is paid -3; the last one alive is truncated after its next turn. Dead players
    still have their turn, with None."""

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


class Alien:
    """No environment at all."""


class Spoiled(Crowd):
    """Two agents for eight steps; every fifth episode something is wrong at its third step (`what`), or
    already in the reset."""

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


class ShortOrLong(ParallelEnv):
    """One decision counts, the first: action 0 ends the episode at once with reward 1, action 1 ends it
    `steps` steps later with `reward`.

    Observations: [1, 0] where the decision is made, [0, 1] while nothing depends on what is done. One of
    `breaks_every` episodes raises."""

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
    """Two agents, two rounds: each gets its own action less the other's. Nothing says that this is
    zero-sum."""

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
    """Two agents see nothing but ones and earn an eighth for each of eight steps in which they do not repeat
    their last action.

    An agent that does not know its last action has no better policy than one that switches by chance."""

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
