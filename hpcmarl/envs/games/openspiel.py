"""OpenSpiel's games as PettingZoo environments: `env.id: openspiel:kuhn_poker`.

`env.kwargs` holds the parameters of the game. Turn-based games become AEC environments, games of simultaneous
moves parallel ones. The agents are player_0, player_1 and so on.

An agent observes its information state tensor, which contains all its past observations and actions. If the
game has none, the agent observes the observation tensor. Chance moves follow from the episode's seed, so seed
and actions determine an episode. The reward of a step is the increase of the player's return.

Source:
    arXiv 1908.09453.
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

# ids begin with it: openspiel:kuhn_poker
PACKAGE = "openspiel"
# A mask has one element for each action. Chess has 4674.
MAX_ACTIONS = 20_000
# number of similar names in the message about an unknown game
NEAR = 3


def factory(name: str, config: EnvConfig) -> Callable[..., Any]:
    """Return the factory of a game's environments.

    Args:
        name: Name of the game in OpenSpiel.
        config: The environment; `env.kwargs` holds the parameters of the game.

    Raises:
        MissingPackageError: If OpenSpiel is not installed.
        ConfigError: If the game is unknown or unsuitable, or a parameter does not fit.
    """
    game = load(name, config)
    kind = (
        SimultaneousMoves
        if game.get_type().dynamics == _pyspiel(config.id).GameType.Dynamics.SIMULTANEOUS
        else Turns
    )
    return lambda **kwargs: kind(game)


def load(name: str, config: EnvConfig) -> Any:
    """Return the pyspiel game that `env.id` and `env.kwargs` name. Raises as `factory` does.

    Args:
        name: Name of the game in OpenSpiel.
        config: The environment; `env.kwargs` holds the parameters of the game.
    """
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
    """Raise ConfigError for a game that cannot be played here."""
    about = game.get_type()
    wrong = None
    if about.dynamics == kinds.Dynamics.MEAN_FIELD:
        wrong = "is a mean-field game; allowed: turn-based games and games with simultaneous moves"
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
    """Return the possible chance moves of a state and their cumulative probabilities.

    A random number u selects the first move with a cumulative probability above u.
    """
    actions, probabilities = zip(*state.chance_outcomes(), strict=True)
    return list(actions), np.cumsum(probabilities).tolist()


class Play:
    """One game in progress, as both kinds of environment use it.

    It draws chance moves, returns observations and masks, and computes rewards.

    Attributes:
        actions: Number A of distinct actions.
        remembers: Whether players observe the information state tensor instead of the observation tensor.
        shape: Shape of an observation.
        seed: Seed of the current episode.
        drawn: Number of chance moves drawn in this episode.
        state: State of the game in pyspiel.
        returns: Returns of the players so far, [P].
    """

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
        self.seed, self.drawn = 0, 0
        self.state: Any = None
        self.returns = np.zeros(len(self.players))

    def begin(self, seed: int | None) -> None:
        """Begin a new game.

        Args:
            seed: Seed of the episode; None: the last seed plus 1.
        """
        self.seed, self.drawn = self.seed + 1 if seed is None else seed, 0
        self.state = self.game.new_initial_state()
        self.returns = np.zeros(len(self.players))
        self._move_chance()

    def apply(self, actions: list[int]) -> dict[str, float]:
        """Make a move, then the chance moves that follow.

        Args:
            actions: One action, or one for each player.

        Returns:
            Reward of each agent by name.
        """
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
        """Return the observation of a player, float32 of `shape`."""
        state = self.state
        seen = state.information_state_tensor(player) if self.remembers else state.observation_tensor(player)
        return np.array(seen, np.float32).reshape(self.shape)

    def mask(self, player: int) -> Array:
        """Return the mask of a player, int8 [A]: 1 for each allowed action."""
        return np.array(self.state.legal_actions_mask(player), np.int8)


class Turns(AECEnv):  # type: ignore[misc]
    """A turn-based game. All players terminate together."""

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
        """Take one turn of `agent_selection`.

        Raises:
            ValueError: If the game forbids the action.
        """
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
        # The game may be over before the first turn.
        if self.play.state.is_terminal():
            self.agents = []
            return
        self.agent_selection = self.possible_agents[self.play.state.current_player()]

    def observe(self, agent: str) -> dict[str, Array]:
        """Return the observation and mask of an agent; without the turn, every action is masked."""
        player = self._players[agent]
        acting = player == self.play.state.current_player()
        return {
            "observation": self.play.tensor(player),
            "action_mask": self.play.mask(player) if acting else self._nothing,
        }

    def render(self) -> None:
        """Do nothing: there is no picture."""

    def close(self) -> None:
        """Do nothing: no resource is open."""


class SimultaneousMoves(ParallelEnv):  # type: ignore[misc]
    """A game with simultaneous moves.

    Some of these games also have turns of single players. A player without a choice may take only action 0,
    which has no effect.
    """

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
        """Apply one action of each player.

        Raises:
            ValueError: If the game forbids an action.
        """
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
        """Do nothing: there is no picture."""

    def close(self) -> None:
        """Do nothing: no resource is open."""
