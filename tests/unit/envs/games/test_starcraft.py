"""envs/games/starcraft.py: SMAC's interface, with a stand-in for StarCraft II.

StarCraft II is not installed for the tests.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcmarl.config import EnvConfig
from hpcmarl.envs import Seeds, describe, make_environment
from hpcmarl.errors import ConfigError, MissingPackageError
from tests.support.twins import play

SMAC = "hpcmarl.envs.games.starcraft:smac"
DEATHS = {0: 2, 1: 9, 2: 9}  # unit -> step of its death


class FakeStarCraft2Env:
    """Stand-in for a battle of three units with six actions.

    Unit 0 dies in step 2. The battle ends after `length` steps: won, lost or out of time.
    """

    def __init__(self, map_name: str, length: int = 4, how: str = "won") -> None:
        if map_name != "3m":
            raise KeyError(map_name)
        self.length, self.how, self.time = length, how, 0

    def get_env_info(self) -> dict[str, int]:
        return {"n_agents": 3, "obs_shape": 2, "n_actions": 6, "state_shape": 4, "episode_limit": self.length}

    def reset(self) -> None:
        self.time = 0

    def alive(self, unit: int) -> bool:
        return self.time < DEATHS[unit]

    def get_obs_agent(self, unit: int) -> list[int]:
        return [self.time, unit] if self.alive(unit) else [0, 0]

    def get_avail_agent_actions(self, unit: int) -> list[int]:
        return [0, 1, 1, 0, 0, 1] if self.alive(unit) else [1, 0, 0, 0, 0, 0]

    def get_state(self) -> Any:
        return np.full(4, self.time)

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        for unit, action in enumerate(actions):
            assert self.get_avail_agent_actions(unit)[action], (unit, action)
        self.time += 1
        over = self.time == self.length
        info: dict[str, Any] = {"battle_won": over and self.how == "won"}
        return 0.5, over, info | ({"episode_limit": True} if over and self.how == "late" else {})

    def close(self) -> None:
        pass


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module: Any = types.ModuleType("smac.env")
    module.StarCraft2Env = FakeStarCraft2Env
    monkeypatch.setitem(sys.modules, "smac", types.ModuleType("smac"))
    monkeypatch.setitem(sys.modules, "smac.env", module)
    monkeypatch.setenv("SC2PATH", str(tmp_path))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("how", ["won", "lost", "late"])
def test_starcraft_battle_is_adapted_with_masks_and_win(how: str) -> None:
    environment = make_environment(EnvConfig(id=SMAC, kwargs={"how": how}), {}, 1, Seeds(0), with_state=True)
    (policy,) = environment.spec.policies
    assert (
        policy.name,
        len(policy.agents),
        policy.observation_shape,
        policy.action.sizes,
        policy.has_mask,
    ) == ("unit", 3, (2,), (6,), True)
    rows = play(environment, 5, with_state=True)
    assert [row["frame"]["unit"]["alive"][0].tolist() for row in rows] == [
        [True] * 3,
        [True] * 3,
        [False, True, True],
        [False, True, True],
        [True] * 3,
    ]
    assert rows[1]["frame"]["unit"]["action_mask"][0, 1].tolist() == [False, True, True, False, False, True]
    assert rows[3]["frame"]["unit"]["obs"][0].tolist() == [[0, 0], [3, 1], [3, 2]]
    assert rows[3]["state"][0].tolist() == [3] * 4
    assert rows[1]["outcome"]["unit"]["terminated"][0].tolist() == [True, False, False]
    late = how == "late"
    assert rows[3]["outcome"]["unit"]["terminated"][0].tolist() == [False, not late, not late]
    assert rows[3]["outcome"]["unit"]["truncated"][0].tolist() == [False, late, late]
    assert [row["outcome"]["unit"]["reward"][0].tolist() for row in rows[:4]] == [
        [0.5] * 3
    ] * 4  # the dead unit receives the reward of the team, too
    (episode,) = rows[3]["episodes"]
    assert episode.return_mean == 2.0
    assert environment.spec.teams == (("unit",),)
    assert (episode.length, episode.terminated, episode.outcome) == (
        4,
        not late,
        {"win": float(how == "won")},
    )


@pytest.mark.usefixtures("installed")
def test_unknown_map_and_missing_game_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"env.kwargs map_name: 4m, nothing else: '4m' is missing"):
        describe(EnvConfig(id=SMAC, kwargs={"map_name": "4m"}), {})
    monkeypatch.setenv("SC2PATH", "/no/such/place")
    with pytest.raises(
        MissingPackageError,
        match=r"needs StarCraft II: the directory /no/such/place does not exist; install it .* SC2PATH$",
    ):
        describe(EnvConfig(id=SMAC), {})


@pytest.mark.parametrize("package", ["smac", "smacv2"])
def test_missing_smac_package_error_names_starcraft(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    words = (
        f"{package} needs {package} and StarCraft II: .*; pip install "
        f"git.https://github.com/oxwhirl/{package}.git"
    )
    with pytest.raises(MissingPackageError, match=words) as caught:
        describe(EnvConfig(id=f"hpcmarl.envs.games.starcraft:{package}"), {})
    assert "\n" not in str(caught.value)
