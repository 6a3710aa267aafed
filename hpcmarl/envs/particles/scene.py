"""Drawings of particle games."""

from __future__ import annotations

import numpy as np

from hpcmarl.envs.drawing import Colour, Scene, Shape
from hpcmarl.envs.particles.world import Body, World

RIVALS = ("adversary", "lead", "eve")
ARENA = (-1.2, -1.2, 1.2, 1.2)
LOUD = 0.5  # an agent says the loudest letter of its word, if that is at least so loud


def draw_world(world: World, slot: int) -> Scene:
    """Return the bodies of one game, small ones in front of large ones.

    Args:
        world: The games.
        slot: The game.
    """
    goals = np.atleast_1d(getattr(world, "goal", np.full(world.slots, -1))[slot]).ravel().tolist()
    bodies = [*world.agents, *world.landmarks]
    places = world.position[slot].tolist()
    shapes = []
    for number, (body, (x, y)) in enumerate(zip(bodies, places, strict=True)):
        mark = number - len(world.agents)
        if mark >= 0:
            shapes.append(Shape("disc", "goal" if mark in goals else "thing", x, y, body.size))
            continue
        said = world.word[slot, number]
        word = f" “{chr(65 + int(said.argmax()))}”" if body.speaks and said.max(initial=0.0) >= LOUD else ""
        shapes.append(Shape("disc", agent_colour(body.name), x, y, body.size, label=_short(body) + word))
    return Scene(ARENA, tuple(sorted(shapes, key=lambda shape: -shape.a)))


def agent_colour(name: str) -> Colour:
    """Return the colour of an agent of mpe2, by its name."""
    return "rival" if name.startswith(RIVALS) else "agent"


def _short(body: Body) -> str:
    """Return the number in a name (agent_2: 2), or the first letter of a name without one."""
    number = body.name.rpartition("_")[2]
    return number if number.isdigit() else body.name[:1].upper()
