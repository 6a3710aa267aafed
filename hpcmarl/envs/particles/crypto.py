"""simple_crypto: two agents with a key hide a message from a third agent."""

from __future__ import annotations

import numpy as np

from hpcmarl.envs.particles.world import Body, Generators, World
from hpcmarl.types import DoubleArray, IntArray


class Crypto(World):
    """Alice sends a message that Bob should understand and Eve should not. Alice and Bob share a key."""

    letters = 4
    drawn = ("goal", "key")

    def __init__(self, slots: int) -> None:
        self.agents = [
            Body(name, collides=False, moves=False, speaks=True) for name in ("eve_0", "bob_0", "alice_0")
        ]
        self.landmarks = [Body(f"landmark {number}", collides=False) for number in range(2)]
        self.goal, self.key = np.zeros(slots, np.int64), np.zeros(slots, np.int64)
        super().__init__(slots)

    def begin(self, rows: IntArray, generators: Generators) -> None:
        for row, generator in zip(rows.tolist(), generators, strict=True):
            self.goal[row], self.key[row] = generator.integers(2), generator.integers(2)
        self.scatter(rows, generators)

    def rewards(self) -> DoubleArray:
        # words of Eve and Bob
        said = self.word[:, :2]
        # A silent agent makes no error.
        errors = np.square(said - self.alphabet[self.goal][:, None]).sum(-1) * said.any(-1)
        eve, good = -errors[:, 0], errors[:, 0] - errors[:, 1]
        return np.stack([eve, good, good], 1)

    def observations(self) -> list[DoubleArray]:
        goal, key, alice = self.alphabet[self.goal], self.alphabet[self.key], self.word[:, 2]
        return [
            alice[:, None],
            np.concatenate([key, alice], -1)[:, None],
            np.concatenate([goal, key], -1)[:, None],
        ]
