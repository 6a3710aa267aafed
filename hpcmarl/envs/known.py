"""Environments that are known to run, for `hpcmarl list envs`.

The module holds only data; listing an environment imports nothing. Any other PettingZoo environment works by
its import path: this table is not a registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from hpcmarl.config import EnvConfig


@dataclass(frozen=True)
class KnownEnvironment:
    """One line of the list.

    Attributes:
        id: Value of `env.id`.
        package: Argument of pip install.
        modules: Modules that must be importable.
        kind: parallel or aec.
        summary: Description in one line.
        constant_sum: Whether the sum of all players' rewards is the same in every episode. It is set for
            PettingZoo's games only: `matrix:` and `openspiel:` games state it themselves.
    """

    id: str
    package: str
    modules: tuple[str, ...]
    kind: str
    summary: str
    constant_sum: bool = False

    @property
    def installed(self) -> bool:
        """Whether every required module can be found, without importing any of them."""
        return all(find_spec(module) is not None for module in self.modules)


# Prefixes of the ids of environments with a fixed length of episodes for given keyword arguments.
FIXED_LENGTH = (
    "mpe2.",
    "hpcmarl.envs.games.particles:",
    "matrix:",
    *(f"gymnasium:{name}-" for name in ("HalfCheetah", "Pendulum", "Pusher", "Reacher", "Swimmer")),
)


def has_fixed_length(config: EnvConfig) -> bool:
    """Return whether all episodes of an environment are known to have the same number of steps."""
    return config.id.startswith(FIXED_LENGTH) and not config.kwargs.get("terminate_on_success")


_MPE = ("mpe2",)
_MUJOCO = ("gymnasium", "mujoco")
_SMAX = ("jaxmarl", "jax")
_SPIEL = ("pyspiel",)
_CLASSIC = ("pettingzoo", "pygame")

KNOWN_ENVIRONMENTS: tuple[KnownEnvironment, ...] = (
    KnownEnvironment("mpe2.simple_v3", "mpe2", _MPE, "parallel", "one agent moves to a landmark"),
    KnownEnvironment(
        "mpe2.simple_spread_v3", "mpe2", _MPE, "parallel", "cooperative: three agents cover three landmarks"
    ),
    KnownEnvironment(
        "mpe2.simple_speaker_listener_v4",
        "mpe2",
        _MPE,
        "parallel",
        "cooperative: a speaker guides a listener, unequal spaces",
    ),
    KnownEnvironment(
        "mpe2.simple_reference_v3",
        "mpe2",
        _MPE,
        "parallel",
        "cooperative: each of two agents knows the goal of the other",
    ),
    KnownEnvironment(
        "mpe2.simple_adversary_v3", "mpe2", _MPE, "parallel", "two agents hide their goal from an adversary"
    ),
    KnownEnvironment(
        "mpe2.simple_crypto_v3", "mpe2", _MPE, "parallel", "two agents communicate, a third one eavesdrops"
    ),
    KnownEnvironment(
        "mpe2.simple_push_v3", "mpe2", _MPE, "parallel", "an adversary keeps an agent from its goal"
    ),
    KnownEnvironment("mpe2.simple_tag_v3", "mpe2", _MPE, "parallel", "three predators, one prey"),
    KnownEnvironment(
        "mpe2.simple_world_comm_v3",
        "mpe2",
        _MPE,
        "parallel",
        "predators with a leader that speaks, prey, forests",
    ),
    KnownEnvironment(
        "hpcmarl.envs.games.particles:parallel_env",
        "hpcmarl",
        (),
        "parallel",
        "like simple_spread; rewards and dynamics by keyword, for unequal groups",
    ),
    KnownEnvironment(
        "pettingzoo.classic.rps_v2",
        "pettingzoo[classic]",
        _CLASSIC,
        "parallel",
        "rock, paper, scissors",
        True,
    ),
    KnownEnvironment(
        "pettingzoo.classic.tictactoe_v3",
        "pettingzoo[classic]",
        _CLASSIC,
        "aec",
        "turn-based, masked moves",
        True,
    ),
    KnownEnvironment(
        "pettingzoo.classic.connect_four_v3",
        "pettingzoo[classic]",
        _CLASSIC,
        "aec",
        "turn-based, masked moves",
        True,
    ),
    KnownEnvironment(
        "pettingzoo.classic.leduc_holdem_v4",
        "pettingzoo[classic]",
        ("pettingzoo", "rlcard", "pygame"),
        "aec",
        "poker of six cards",
        True,
    ),
    KnownEnvironment(
        "pettingzoo.classic.texas_holdem_v4",
        "pettingzoo[classic]",
        ("pettingzoo", "rlcard", "pygame"),
        "aec",
        "limit poker",
        True,
    ),
    KnownEnvironment(
        "pettingzoo.classic.chess_v6",
        "pettingzoo[classic]",
        ("pettingzoo", "chess", "pygame"),
        "aec",
        "chess, 4672 masked moves",
        True,
    ),
    KnownEnvironment(
        "openspiel:kuhn_poker",
        "hpcmarl[league]",
        _SPIEL,
        "aec",
        "poker of three cards; players: 2 to 10 by env.kwargs",
    ),
    KnownEnvironment(
        "openspiel:leduc_poker", "hpcmarl[league]", _SPIEL, "aec", "poker of six cards, two rounds of betting"
    ),
    KnownEnvironment("openspiel:liars_dice", "hpcmarl[league]", _SPIEL, "aec", "bluffing with dice"),
    KnownEnvironment("openspiel:connect_four", "hpcmarl[league]", _SPIEL, "aec", "turn-based, masked moves"),
    KnownEnvironment("openspiel:tic_tac_toe", "hpcmarl[league]", _SPIEL, "aec", "turn-based, masked moves"),
    KnownEnvironment(
        "openspiel:goofspiel", "hpcmarl[league]", _SPIEL, "parallel", "players bid cards simultaneously"
    ),
    KnownEnvironment(
        "openspiel:matrix_rps",
        "hpcmarl[league]",
        _SPIEL,
        "parallel",
        "OpenSpiel's rock, paper, scissors",
    ),
    KnownEnvironment("matrix:rps", "hpcmarl", (), "parallel", "rock, paper, scissors; rounds by env.kwargs"),
    KnownEnvironment(
        "matrix:biased_rps", "hpcmarl", (), "parallel", "the same, but paper's win over rock counts twice"
    ),
    KnownEnvironment(
        "matrix:matching_pennies",
        "hpcmarl",
        (),
        "parallel",
        "player_0 wins with equal coins, player_1 with unequal ones",
    ),
    KnownEnvironment(
        "matrix:prisoners_dilemma",
        "hpcmarl",
        (),
        "parallel",
        "defecting pays, whatever the other player does",
    ),
    KnownEnvironment(
        "matrix:stag_hunt",
        "hpcmarl",
        (),
        "parallel",
        "cooperative: a large reward together, or a small one for sure",
    ),
    KnownEnvironment(
        "matrix:chicken", "hpcmarl", (), "parallel", "swerving costs a little, a collision costs much"
    ),
    KnownEnvironment(
        "matrix:battle_of_the_sexes",
        "hpcmarl",
        (),
        "parallel",
        "both gain by meeting and prefer different places",
    ),
    KnownEnvironment("matrix:coordination", "hpcmarl", (), "parallel", "cooperative: choose the same action"),
    KnownEnvironment(
        "pixels:gather", "hpcmarl", (), "parallel", "cooperative: agents that see images gather fruits"
    ),
    KnownEnvironment(
        "pixels:gather_dict",
        "hpcmarl",
        (),
        "parallel",
        "the same with dictionaries as observations: image, place and time",
    ),
    KnownEnvironment(
        "lbforaging:Foraging-8x8-2p-3f-v3",
        "lbforaging",
        ("lbforaging",),
        "parallel",
        "level-based foraging: pick up food together",
    ),
    KnownEnvironment(
        "rware:rware-tiny-2ag-v2",
        "rware",
        ("rware",),
        "parallel",
        "robots carry shelves through a warehouse, with rare rewards",
    ),
    KnownEnvironment(
        "pettingzoo.sisl.multiwalker_v9",
        "pettingzoo[sisl]",
        ("pettingzoo", "Box2D", "pygame"),
        "parallel",
        "walkers carry a beam",
    ),
    KnownEnvironment(
        "pettingzoo.butterfly.knights_archers_zombies_v11",
        "pettingzoo[butterfly]",
        ("pettingzoo", "pygame"),
        "parallel",
        "agents die one by one",
    ),
    KnownEnvironment(
        "gymnasium:CartPole-v1", "gymnasium", ("gymnasium",), "parallel", "one agent balances a pole"
    ),
    KnownEnvironment(
        "gymnasium:Pendulum-v1",
        "gymnasium",
        ("gymnasium",),
        "parallel",
        "one agent, a continuous action: swings a pendulum up",
    ),
    KnownEnvironment(
        "gymnasium:Hopper-v4",
        "hpcmarl[mujoco]",
        _MUJOCO,
        "parallel",
        "one agent: a leg with three joints hops",
    ),
    KnownEnvironment(
        "gymnasium:Walker2d-v4", "hpcmarl[mujoco]", _MUJOCO, "parallel", "one agent: two legs walk in a plane"
    ),
    KnownEnvironment(
        "gymnasium:Reacher-v4",
        "hpcmarl[mujoco]",
        _MUJOCO,
        "parallel",
        "one agent: an arm with two joints reaches for a point",
    ),
    KnownEnvironment(
        "gymnasium:Humanoid-v4", "hpcmarl[mujoco]", _MUJOCO, "parallel", "one agent with 17 joints walks"
    ),
    KnownEnvironment(
        "hpcmarl.envs.games.starcraft:smac",
        "git+https://github.com/oxwhirl/smac.git",
        ("smac", "pysc2"),
        "parallel",
        "battles in StarCraft II, which must be installed",
    ),
    KnownEnvironment(
        "hpcmarl.envs.games.starcraft:smacv2",
        "git+https://github.com/oxwhirl/smacv2.git",
        ("smacv2", "pysc2"),
        "parallel",
        "the same with random units and positions",
    ),
    KnownEnvironment(
        "smax:3m", "hpcmarl[smax]", _SMAX, "parallel", "StarCraft-like: three marines against three"
    ),
    KnownEnvironment(
        "smax:8m", "hpcmarl[smax]", _SMAX, "parallel", "StarCraft-like: eight marines against eight"
    ),
    KnownEnvironment("smax:25m", "hpcmarl[smax]", _SMAX, "parallel", "StarCraft-like: 25 marines against 25"),
    KnownEnvironment(
        "smax:5m_vs_6m", "hpcmarl[smax]", _SMAX, "parallel", "StarCraft-like: five marines against six"
    ),
    KnownEnvironment(
        "smax:10m_vs_11m", "hpcmarl[smax]", _SMAX, "parallel", "StarCraft-like: ten marines against eleven"
    ),
    KnownEnvironment(
        "smax:27m_vs_30m", "hpcmarl[smax]", _SMAX, "parallel", "StarCraft-like: 27 marines against 30"
    ),
    KnownEnvironment(
        "smax:2s3z",
        "hpcmarl[smax]",
        _SMAX,
        "parallel",
        "StarCraft-like: two stalkers and three zealots on each side",
    ),
    KnownEnvironment(
        "smax:3s5z",
        "hpcmarl[smax]",
        _SMAX,
        "parallel",
        "StarCraft-like: three stalkers and five zealots on each side",
    ),
    KnownEnvironment(
        "smax:3s5z_vs_3s6z",
        "hpcmarl[smax]",
        _SMAX,
        "parallel",
        "StarCraft-like: 3s5z against the same and one more zealot",
    ),
    KnownEnvironment(
        "smax:3s_vs_5z",
        "hpcmarl[smax]",
        _SMAX,
        "parallel",
        "StarCraft-like: three stalkers against five zealots",
    ),
    KnownEnvironment(
        "smax:6h_vs_8z",
        "hpcmarl[smax]",
        _SMAX,
        "parallel",
        "StarCraft-like: six hydralisks against eight zealots",
    ),
    KnownEnvironment(
        "smax:smacv2_5_units",
        "hpcmarl[smax]",
        _SMAX,
        "parallel",
        "StarCraft-like: five random units on each side, random positions",
    ),
    KnownEnvironment(
        "smax:smacv2_10_units",
        "hpcmarl[smax]",
        _SMAX,
        "parallel",
        "StarCraft-like: ten random units on each side, random positions",
    ),
    KnownEnvironment(
        "smax:smacv2_20_units",
        "hpcmarl[smax]",
        _SMAX,
        "parallel",
        "StarCraft-like: twenty random units on each side, random positions",
    ),
)
CONSTANT_SUM = frozenset(known.id for known in KNOWN_ENVIRONMENTS if known.constant_sum)
