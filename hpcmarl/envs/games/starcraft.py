"""SMAC and SMACv2, the battles of StarCraft II, as a PettingZoo parallel environment.

The ids are `hpcmarl.envs.games.starcraft:smac` and `:smacv2`. Both projects ship a PettingZoo wrapper. It
needs gym and a PettingZoo older than 1.24, and lacks wins, states and time limits. This module therefore
drives their StarCraft2Env directly.

Each unit is an agent. Action 0 is reserved for dead units, which are not agents here. StarCraft II draws its
own random numbers, so episodes are not repeatable.

Source:
    arXiv 1902.04043, 2212.07489.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo.utils.env import ParallelEnv

from hpcmarl.errors import ConfigError, MissingPackageError
from hpcmarl.types import Array

WEBSITE = "https://github.com/Blizzard/s2client-proto#downloads"


def smac(map_name: str = "3m", **options: Any) -> Battle:
    """Make a map of SMAC.

    Args:
        map_name: Name of the map.
        **options: Arguments of StarCraft2Env.

    Raises:
        MissingPackageError: If SMAC or StarCraft II is not installed.
        ConfigError: If the map is unknown or an argument is missing.
    """
    return Battle(_import("smac.env", "smac").StarCraft2Env, map_name, options)


def smacv2(map_name: str = "10gen_terran", **options: Any) -> Battle:
    """Make a map of SMACv2. Raises as `smac` does.

    Args:
        map_name: Name of the map.
        **options: Arguments of StarCraftCapabilityEnvWrapper, including capability_config.
    """
    return Battle(
        _import("smacv2.env.starcraft2.wrapper", "smacv2").StarCraftCapabilityEnvWrapper, map_name, options
    )


def _import(module: str, package: str) -> Any:
    needs = f"env.id hpcmarl.envs.games.starcraft:{package} needs"
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        advice = f"pip install git+https://github.com/oxwhirl/{package}.git"
        raise MissingPackageError(
            f"{needs} {package} and StarCraft II: {' '.join(str(error).split())}; {advice}, and {WEBSITE}"
        ) from error
    place = Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()
    if not place.is_dir():
        raise MissingPackageError(
            f"{needs} StarCraft II: the directory {place} does not exist; install it ({WEBSITE}) and put its "
            "directory into SC2PATH"
        )
    return found


class Battle(ParallelEnv):  # type: ignore[misc]
    """One game.

    All agents receive the team's reward. Metadata `common_reward` makes the adapter give it to dead units as
    well.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "starcraft", "common_reward": True}

    def __init__(self, make: Any, map_name: str, options: dict[str, Any]) -> None:
        try:
            self.game = make(map_name=map_name, **options)
        # The key is an unknown map, or an argument that is missing among the options.
        except KeyError as error:
            given = f"env.kwargs map_name: {map_name}, {', '.join(options) or 'nothing else'}"
            raise ConfigError(
                f"{given}: {error} is missing; allowed: a map that the package lists, and the arguments "
                "that it requires"
            ) from error
        about = self.game.get_env_info()
        self.possible_agents = [f"unit_{index}" for index in range(about["n_agents"])]
        self.agents: list[str] = []
        seen = spaces.Box(-np.inf, np.inf, (int(np.prod(about["obs_shape"])),), np.float32)
        mask = spaces.Box(0, 1, (about["n_actions"],), np.int8)
        both = spaces.Dict({"observation": seen, "action_mask": mask})
        self.observation_spaces = dict.fromkeys(self.possible_agents, both)
        self.action_spaces = dict.fromkeys(self.possible_agents, spaces.Discrete(about["n_actions"]))

    def observation_space(self, agent: str) -> Any:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin a battle.

        Args:
            seed: Unused: StarCraft II accepts a seed only when its process starts.
            options: Unused.

        Returns:
            Observations and infos, by agent.
        """
        self.game.reset()
        self.agents = list(self.possible_agents)
        return self._observe(), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Any]]:
        reward, over, info = self.game.step([int(actions.get(agent, 0)) for agent in self.possible_agents])
        acted, late = self.agents, bool(over and info.get("episode_limit", False))
        seen = self._observe()
        dead = {agent for agent in acted if seen[agent]["action_mask"][0]}
        ends = {agent: agent in dead or (over and not late) for agent in acted}
        cuts = {agent: late and agent not in dead for agent in acted}
        self.agents = [agent for agent in acted if not (ends[agent] or cuts[agent])]
        info_of_agent = {"win": bool(info.get("battle_won", False))}
        return seen, dict.fromkeys(acted, float(reward)), ends, cuts, dict.fromkeys(acted, info_of_agent)

    def _observe(self) -> dict[str, Any]:
        """Return observations and masks of the agents that acted last."""
        game = self.game
        return {
            agent: {
                "observation": np.asarray(game.get_obs_agent(index), np.float32),
                "action_mask": np.asarray(game.get_avail_agent_actions(index), np.int8),
            }
            for index, agent in enumerate(self.possible_agents)
            if agent in self.agents
        }

    def state(self) -> Array:
        return np.asarray(self.game.get_state(), np.float32)

    def render(self) -> None:
        """Do nothing: StarCraft II draws its own window if it has one."""

    def close(self) -> None:
        self.game.close()
