"""OpenSpiel's games as PettingZoo environments: `env.id: openspiel:kuhn_poker`, the game's parameters by
env.kwargs. arXiv 1908.09453.

Built by resolve.py. Must know nothing of policies, slots or ranks. Games of turns become AEC environments,
games of simultaneous moves parallel ones; agents are player_0, player_1, ... What an agent sees is its
information state tensor (all that it has seen and done) where the game has one, else its observation tensor,
and nothing else. Chance moves follow from the episode's seed, so that seed and actions determine an episode.
A step's rewards are by how much the players' returns have grown.
"""

from __future__ import annotations

import bisect
import difflib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo.utils.env import AECEnv, ParallelEnv

from hpcmarl.config import EnvConfig
from hpcmarl.envs.native.counter_rng import uniform
from hpcmarl.errors import ConfigError, MissingPackageError
from hpcmarl.types import Array, FloatArray

PACKAGE = "openspiel"  # ids begin with it: openspiel:kuhn_poker
MAX_ACTIONS = 20_000  # a mask has as many elements; chess has 4674
NEAR = 3  # games that are told when one is unknown


def factory(name: str, config: EnvConfig) -> Callable[..., Any]:
    """What makes environments of the game; env.kwargs are its parameters. Raises MissingPackageError and,
    naming what is wrong, ConfigError."""
    game = load(name, config)
    kind = (
        SimultaneousMoves
        if game.get_type().dynamics == _pyspiel(config.id).GameType.Dynamics.SIMULTANEOUS
        else Turns
    )
    return lambda **kwargs: kind(game)


def load(name: str, config: EnvConfig) -> Any:
    """The pyspiel game that `env.id` and env.kwargs name, one that can be played here. Raises as factory()
    does."""
    pyspiel = _pyspiel(config.id)
    parameters = {kind.short_name: kind.parameter_specification for kind in pyspiel.registered_games()}
    if name not in parameters:
        near = difflib.get_close_matches(name, parameters, n=NEAR, cutoff=0.5)
        meant = (
            f"did you mean {', '.join(f'{PACKAGE}:{other}' for other in near)}?"
            if near
            else "pyspiel.registered_names() lists them"
        )
        raise ConfigError(f"env.id {config.id}: OpenSpiel has no game {name or '(no name)'}; {meant}")
    given = f"env.kwargs {config.kwargs}"
    for key in config.kwargs:
        if key not in parameters[name]:
            raise ConfigError(
                f"{given}: {config.id} has no parameter {key}; allowed: "
                f"{', '.join(sorted(parameters[name])) or 'none'}"
            )
    try:
        game = pyspiel.load_game(name, dict(config.kwargs))
    except (pyspiel.SpielError, TypeError, ValueError) as error:
        raise ConfigError(f"{given} does not fit {config.id}: {' '.join(str(error).split())}") from error
    _refuse(game, pyspiel.GameType, config.id)
    return game


def _pyspiel(id: str) -> ModuleType:
    try:
        import pyspiel
    except ImportError as error:
        raise MissingPackageError(
            f"env.id {id} needs OpenSpiel, which is not installed; pip install 'hpcmarl[league]'"
        ) from error
    module: ModuleType = pyspiel
    return module


def _refuse(game: Any, kinds: Any, id: str) -> None:
    """Raise ConfigError for games that do not fit."""
    about = game.get_type()
    wrong = None
    if about.dynamics == kinds.Dynamics.MEAN_FIELD:
        wrong = "is a mean-field game; allowed: games of turns and of simultaneous moves"
    elif about.chance_mode == kinds.ChanceMode.SAMPLED_STOCHASTIC:
        wrong = (
            "draws its chance moves itself, so that a seed does not determine an episode; allowed: games "
            "with explicit chance moves"
        )
    elif not (about.provides_information_state_tensor or about.provides_observation_tensor):
        wrong = "has neither information state nor observation tensors; allowed: games with one of them"
    elif game.num_distinct_actions() > MAX_ACTIONS:
        wrong = f"has {game.num_distinct_actions()} actions; allowed: at most {MAX_ACTIONS}"
    if wrong:
        raise ConfigError(f"env.id {id}: the game {wrong}; choose another game or other env.kwargs")


def chances(state: Any) -> tuple[list[int], list[float]]:
    """The moves that chance may make, and their probabilities added up: a number u makes the first one whose
    sum is above u."""
    actions, probabilities = zip(*state.chance_outcomes(), strict=True)
    return list(actions), np.cumsum(probabilities).tolist()


class Play:
    """One game being played: moves chance, shows what players see, adds up what they got. The part that both
    kinds of environment share."""

    def __init__(self, game: Any) -> None:
        self.game = game
        self.actions = int(game.num_distinct_actions())
        self.players = range(game.num_players())
        self.names = [f"player_{player}" for player in self.players]
        self.remembers = bool(game.get_type().provides_information_state_tensor)
        self.constant_sum = game.get_type().utility.name in ("ZERO_SUM", "CONSTANT_SUM")
        shape = game.information_state_tensor_shape() if self.remembers else game.observation_tensor_shape()
        self.shape = tuple(int(size) for size in shape) or (1,)
        seen = spaces.Box(-np.inf, np.inf, self.shape, np.float32)
        mask = spaces.Box(0, 1, (self.actions,), np.int8)
        self.observation_space = spaces.Dict({"observation": seen, "action_mask": mask})
        self.action_space = spaces.Discrete(self.actions)
        self.seed, self.drawn = 0, 0  # drawn: chance moves in this game
        self.state: Any = None
        self.returns = np.zeros(len(self.players))

    def begin(self, seed: int | None) -> None:
        """A new game; without a seed that of the number after the last one's."""
        self.seed, self.drawn = self.seed + 1 if seed is None else seed, 0
        self.state = self.game.new_initial_state()
        self.returns = np.zeros(len(self.players))
        self._move_chance()

    def apply(self, actions: list[int]) -> dict[str, float]:
        """Make a move (one action, or one of each player), then those of chance: what each agent got by
        them."""
        if len(actions) == 1:
            self.state.apply_action(actions[0])
        else:
            self.state.apply_actions(actions)
        self._move_chance()
        before, self.returns = self.returns, np.array(self.state.returns())
        return dict(zip(self.names, (self.returns - before).tolist(), strict=True))

    def _move_chance(self) -> None:
        state = self.state
        while state.is_chance_node():
            actions, ends = chances(state)
            left = float(uniform(np.array([self.seed]), np.array([self.drawn]))[0])
            state.apply_action(actions[min(bisect.bisect_right(ends, left), len(actions) - 1)])
            self.drawn += 1

    def tensor(self, player: int) -> FloatArray:
        """What the player sees: float32, of `shape`."""
        state = self.state
        seen = state.information_state_tensor(player) if self.remembers else state.observation_tensor(player)
        return np.array(seen, np.float32).reshape(self.shape)

    def mask(self, player: int) -> Array:
        """int8 [actions]: 1 for each action that the player may take now."""
        return np.array(self.state.legal_actions_mask(player), np.int8)


class Turns(AECEnv):  # type: ignore[misc]
    """A game of turns. All players end together."""

    render_mode = None

    def __init__(self, game: Any) -> None:
        super().__init__()
        self.play = Play(game)
        self.metadata = {
            "name": "openspiel",
            "is_parallelizable": False,
            "render_modes": [],
            "constant_sum": self.play.constant_sum,
        }
        self.possible_agents = list(self.play.names)
        self.agents: list[str] = []
        self._players = {name: player for player, name in enumerate(self.possible_agents)}
        self._nothing = np.zeros(self.play.actions, np.int8)

    def observation_space(self, agent: str) -> Any:
        return self.play.observation_space

    def action_space(self, agent: str) -> Any:
        return self.play.action_space

    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        self.play.begin(seed)
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self._select()

    def step(self, action: int | None) -> None:
        """One turn of agent_selection. Raises ValueError for an action that the game forbids."""
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        if action is None or not self.play.state.legal_actions_mask()[action]:
            raise ValueError(f"{agent} may not take action {action} in {self.play.state}")
        self._cumulative_rewards[agent] = 0.0
        self.rewards = self.play.apply([int(action)])
        self._accumulate_rewards()
        if self.play.state.is_terminal():
            self.terminations = dict.fromkeys(self.agents, True)
        else:
            self._select()

    def _select(self) -> None:
        if self.play.state.is_terminal():  # before anybody had a turn
            self.agents = []
            return
        self.agent_selection = self.possible_agents[self.play.state.current_player()]

    def observe(self, agent: str) -> dict[str, Array]:
        """The agent's view; where it is not its turn every action is masked."""
        player = self._players[agent]
        acting = player == self.play.state.current_player()
        return {
            "observation": self.play.tensor(player),
            "action_mask": self.play.mask(player) if acting else self._nothing,
        }

    def render(self) -> None:
        """Nothing is drawn."""

    def close(self) -> None:
        """Nothing is open."""


class SimultaneousMoves(ParallelEnv):  # type: ignore[misc]
    """A game whose players move at once. Who cannot choose (another's turn, in games that have such) may take
    action 0 alone, which does nothing."""

    render_mode = None

    def __init__(self, game: Any) -> None:
        self.play = Play(game)
        self.metadata = {"name": "openspiel", "render_modes": [], "constant_sum": self.play.constant_sum}
        self.possible_agents = list(self.play.names)
        self.agents: list[str] = []
        self._waiting = np.zeros(self.play.actions, np.int8)
        self._waiting[0] = 1

    def observation_space(self, agent: str) -> Any:
        return self.play.observation_space

    def action_space(self, agent: str) -> Any:
        return self.play.action_space

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        self.play.begin(seed)
        self.agents = [] if self.play.state.is_terminal() else list(self.possible_agents)
        return self._seen(), {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, int]) -> tuple[dict[str, Any], ...]:
        """One move of everybody. Raises ValueError for an action that the game forbids."""
        chosen = [int(actions[agent]) for agent in self.possible_agents]
        for player, action in enumerate(chosen):
            if not self._mask(player)[action]:
                raise ValueError(f"player_{player} may not take action {action} in {self.play.state}")
        state = self.play.state
        rewards = self.play.apply(
            chosen if state.is_simultaneous_node() else [chosen[state.current_player()]]
        )
        over = state.is_terminal()
        names = self.possible_agents
        if over:
            self.agents = []
        return (
            self._seen(),
            rewards,
            dict.fromkeys(names, over),
            dict.fromkeys(names, False),
            {name: {} for name in names},
        )

    def _mask(self, player: int) -> Array:
        mask = self.play.mask(player)
        return mask if mask.any() else self._waiting

    def _seen(self) -> dict[str, dict[str, Array]]:
        play = self.play
        return {
            name: {"observation": play.tensor(player), "action_mask": self._mask(player)}
            for player, name in enumerate(play.names)
        }

    def render(self) -> None:
        """Nothing is drawn."""

    def close(self) -> None:
        """Nothing is open."""
