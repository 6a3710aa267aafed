"""Batched environment of one particle task: converts actions to forces and words, and a World to frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcmarl.config import EnvConfig
from hpcmarl.envs.base import Seeds, episode_seed, new_frame, new_outcome
from hpcmarl.envs.batch_arrays import unequal_rewards
from hpcmarl.envs.drawing import Scene
from hpcmarl.envs.native.base import DRAWN, NativeBatch
from hpcmarl.envs.particles.scene import draw_world
from hpcmarl.envs.particles.world import PUSHES, World
from hpcmarl.errors import EnvironmentFailure
from hpcmarl.types import Array, BoolArray, DoubleArray, EnvironmentSpec, FloatArray, IntArray

if TYPE_CHECKING:
    from hpcmarl.envs.particles.picture import Painter


class ParticleBatch(NativeBatch):
    """E games of a World.

    Args:
        config: The environment.
        spec: Specification of the environment.
        world: The games, one for each slot.
        seeds: Source of the episodes' seeds.
        record: Save the running games in `state_dict()`.
        with_state: Write the state into frames. It consists of all agents' observations, in the order of the
            agents.
    """

    def __init__(
        self,
        config: EnvConfig,
        spec: EnvironmentSpec,
        world: World,
        seeds: Seeds,
        *,
        record: bool,
        with_state: bool,
    ) -> None:
        super().__init__(
            config, spec, [body.name for body in world.agents], world.slots, seeds, record=record
        )
        self._world, self._cycles = world, int(config.kwargs.get("max_cycles", world.max_cycles))
        self._continuous = bool(config.kwargs.get("continuous_actions", False))
        self._limit = min(self._cycles, config.max_steps or self._cycles)
        self._config = config
        self._painter: Painter | None = None
        self._with_state, self._common_reward = with_state, bool(config.common_reward)
        self._moves = np.array([body.moves for body in world.agents])
        self._speaks = np.array([body.speaks for body in world.agents])
        self._pushes = np.zeros((world.slots, len(world.agents), 2))
        self._words = np.zeros((world.slots, len(world.agents), world.letters))
        # latest result of World.observations()
        self._blocks: list[DoubleArray] = []
        self._places = [(name, self._places_of(seats)) for name, seats in self._seats]

    # ---- games

    def _begin_games(self, rows: IntArray) -> None:
        seed, first = self._seeds.seed, self._seeds.first_slot
        episodes = zip(rows.tolist(), self.episode_index[rows].tolist(), strict=True)
        self._world.begin(
            rows, [np.random.default_rng(episode_seed(seed, first + row, index)) for row, index in episodes]
        )

    def _joint(self, actions: Mapping[str, Array]) -> Array:
        """Return the actions of all players.

        Returns:
            Discrete actions [E, P], or continuous actions [E, P, K] padded with zeros.
        """
        if not self._continuous:
            return super()._joint(actions)
        joint = np.zeros((self.slots, len(self._players), PUSHES + self._world.letters), np.float32)
        for name, seats in self._seats:
            joint[:, seats, : actions[name].shape[-1]] = actions[name]
        return joint

    def _play(self, rows: IntArray, actions: Array) -> tuple[Array, BoolArray]:
        world = self._world
        self._pushes[rows], self._words[rows] = (
            self._continuous_forces(actions) if self._continuous else self._forces(actions)
        )
        world.step(self._pushes, self._words if self._speaks.any() else None)
        rewards, ends = world.rewards()[rows], world.over()
        for number, player in np.argwhere(~np.isfinite(rewards))[:1].tolist():
            where = f"environment {self.spec.id} in slot {self._seeds.first_slot + int(rows[number])}"
            raise EnvironmentFailure(
                f"{where}: agent {self._players[player]} is rewarded with {rewards[number, player]}"
            )
        if self._common_reward:
            for number, problem in unequal_rewards(rewards.astype(np.float32), self._players):
                raise EnvironmentFailure(
                    f"environment {self.spec.id} in slot {self._seeds.first_slot + int(rows[number])} "
                    f"{problem}"
                )
        # At the last step the package truncates an episode even if the task ends it at that step.
        over = (
            np.zeros(len(rows), np.bool_)
            if ends is None
            else ends[rows] & (self.episode_step[rows] + 1 < self._cycles)
        )
        return rewards, over

    def _forces(self, actions: IntArray) -> tuple[DoubleArray, DoubleArray | float]:
        """Convert discrete actions to forces and words.

        Args:
            actions: Direction of the push and spoken word, encoded in one number, [n, P].

        Returns:
            Forces [n, P, 2] and words [n, P, C]; the words are 0.0 if no agent speaks.
        """
        pushes = self._world.pushes[np.arange(actions.shape[1]), actions % PUSHES * self._moves]
        if not self._speaks.any():
            return pushes, 0.0
        said = np.where(self._moves, actions // PUSHES, actions) * self._speaks
        return pushes, self._world.alphabet[said] * self._speaks[:, None]

    def _continuous_forces(self, actions: FloatArray) -> tuple[DoubleArray, DoubleArray]:
        """Convert continuous actions to forces and words.

        Args:
            actions: Pushes towards each side, then the loudness of each letter, [n, P, K].

        Returns:
            Forces [n, P, 2] and words [n, P, C].
        """
        actions = np.clip(actions, 0.0, 1.0)
        apart = np.stack([actions[..., 2] - actions[..., 1], actions[..., 4] - actions[..., 3]], -1)
        pushes = apart.astype(np.float64) * self._world.acceleration
        letters = self._world.letters
        said = np.where(self._moves[:, None], actions[..., PUSHES : PUSHES + letters], actions[..., :letters])
        return pushes, said * self._speaks[:, None]

    # ---- observations

    def _seen_by(self, rows: IntArray) -> dict[str, FloatArray]:
        self._blocks = self._world.observations()
        # Assignment to the frame converts them to float32.
        seen: dict[str, Any] = {}
        for name, places in self._places:
            blocks = [self._blocks[block][:, part] for block, part in places]
            whole = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, 1)
            seen[name] = whole if rows is self._everywhere else whole[rows]
        return seen

    def _places_of(self, seats: slice | list[int]) -> list[tuple[int, slice]]:
        """Return the places of these players in the blocks of observations.

        Returns:
            (block, range of agents) in the fewest possible pieces.
        """
        numbers = [
            (block, place)
            for block, part in enumerate(self._world.observations())
            for place in range(part.shape[1])
        ]
        pieces: list[tuple[int, slice]] = []
        for block, place in numbers[seats] if isinstance(seats, slice) else [numbers[seat] for seat in seats]:
            if pieces and pieces[-1][0] == block and pieces[-1][1].stop == place:
                pieces[-1] = (block, slice(pieces[-1][1].start, place + 1))
            else:
                pieces.append((block, slice(place, place + 1)))
        return pieces

    def _state_of(self, rows: IntArray) -> FloatArray | None:
        if not self._with_state:
            return None
        whole = np.concatenate([block.reshape(self.slots, -1) for block in self._blocks], 1)
        return whole[rows].astype(np.float32)

    def _acting(self, rows: IntArray) -> BoolArray:
        return np.ones((len(rows), len(self._players)), np.bool_)

    def _allowed(self, rows: IntArray) -> None:
        return None

    def drawing(self, slot: int) -> Scene:
        """Return the bodies of a game and the words of its agents."""
        return draw_world(self._world, slot)

    def picture(self, slot: int) -> NDArray[np.uint8]:
        """Return a picture of the game in a slot, painted by the package.

        Args:
            slot: The slot.

        Returns:
            Red, green and blue of each pixel, uint8 [height, width, 3].

        Raises:
            ConfigError: If the package does not have the task.
        """
        if self._painter is None:
            from hpcmarl.envs.particles.picture import Painter

            self._painter = Painter(self._config)
        world = self._world
        seed = episode_seed(self._seeds.seed, self._seeds.first_slot + slot, int(self.episode_index[slot]))
        return self._painter.paint(seed, world.position[slot], world.velocity[slot], world.word[slot])

    def close(self) -> None:
        if self._painter is not None:
            self._painter.close()

    # ---- resuming

    def _save_games(self) -> dict[str, Array]:
        return self._world.standing()

    def _restore_games(self, state: Mapping[str, Any]) -> None:
        self._world.stand(state)


def random_steps(batch: ParticleBatch, seeds: Seeds) -> Callable[[], None]:
    """Return a function that takes one step of all games with random actions, drawn in advance.

    It is the baseline for training speed.
    """
    frame, outcome = new_frame(batch.spec, batch.slots), new_outcome(batch.spec, batch.slots)
    generator = np.random.default_rng(seeds.seed)
    drawn: dict[str, Array] = {}
    for policy in batch.spec.policies:
        shape = (DRAWN, batch.slots, len(policy.agents))
        if policy.action.kind == "continuous":
            drawn[policy.name] = generator.random((*shape, *policy.action.shape), np.float32)
        else:
            drawn[policy.name] = generator.integers(policy.action.sizes[0], size=shape)
    batch.reset(frame)
    count = 0

    def take() -> None:
        nonlocal count
        batch.step({name: actions[count % DRAWN] for name, actions in drawn.items()}, outcome, frame)
        count += 1

    return take
