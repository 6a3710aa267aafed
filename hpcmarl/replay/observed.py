"""Positions that the observations tell, for episodes that the environment does not play again.

The layouts are those of mpe2, hpcmarl's particles and SMAX. Only stored numbers are read; no package is
imported.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpcmarl.envs.drawing import Colour, Scene, Shape
from hpcmarl.envs.particles.scene import ARENA, agent_colour
from hpcmarl.replay.recording import Recording, Scenes
from hpcmarl.types import FloatArray

SIZE = 0.06
# Number of landmarks in observations of `size` elements. These tasks begin an observation with the agent's
# velocity and position; the positions of the landmarks, relative to the agent, follow.
PARTICLES: dict[str, Callable[[int], int]] = {
    "mpe2.simple_spread_v3": lambda size: size // 6,
    "mpe2.simple_tag_v3": lambda size: 0,
    "mpe2.simple_world_comm_v3": lambda size: 0,
    "hpcmarl.envs.games.particles:parallel_env": lambda size: 0,
}
SMAX_MAP, SMAX_FEATURES, SMAX_RADIUS = 32.0, 10, 0.5  # side of a map; health, place, cooldown, type bits
NOTE = "Positions are those in the recorded observations."


def observe(recording: Recording) -> None:
    """Set `drawn` of a recording from its observations, if their layout is known."""
    known = PARTICLES.get(recording.environment)
    scenes: list[Scene] = []
    if known is not None:
        scenes = [_particles(recording, step, known) for step in range(recording.steps)]
    elif recording.environment.startswith("smax:"):
        size = 0 if recording.state is None else recording.state.shape[1]
        whole = size > 0 and size % (SMAX_FEATURES + 2) == 0
        scenes = [(_battle if whole else _allies)(recording, step) for step in range(recording.steps)]
    if scenes:
        recording.drawn = Scenes(tuple(scenes))
        recording.notes.append(NOTE)


def _particles(recording: Recording, step: int, landmarks: Callable[[int], int]) -> Scene:
    agents: list[Shape] = []
    marks: list[Shape] = []
    for policy in recording.policies:
        for number, name in enumerate(policy.agents):
            seen = policy.obs[step, number]
            if not policy.alive[step, number] or seen.ndim != 1 or len(seen) < 4:
                continue
            x, y = seen[2:4].astype(float).tolist()
            agents.append(Shape("disc", agent_colour(name), x, y, SIZE, label=name.rpartition("_")[2]))
            if not marks:
                ends = 4 + 2 * landmarks(len(seen))
                relative = seen[4:ends].reshape(-1, 2).astype(float).tolist()
                marks = [Shape("disc", "thing", x + right, y + up, SIZE) for right, up in relative]
    return Scene(ARENA, (*marks, *agents))


def _battle(recording: Recording, step: int) -> Scene:
    """Return all units of a battle, from the stored state."""
    assert recording.state is not None
    units = recording.state.shape[1] // (SMAX_FEATURES + 2)
    rows = recording.state[step, : units * SMAX_FEATURES].reshape(units, SMAX_FEATURES)
    return _units(rows, len(recording.agents))


def _allies(recording: Recording, step: int) -> Scene:
    """Return the agents of a battle, from their own features at the end of each observation."""
    rows = [policy.obs[step, :, -SMAX_FEATURES:] for policy in recording.policies]
    return _units(np.concatenate(rows), len(recording.agents))


def _units(rows: FloatArray, allies: int) -> Scene:
    """Return living units.

    Args:
        rows: Health, x and y as shares, and further features of each unit, [units, features].
        allies: Number of agents; they come first.
    """
    shapes = []
    for unit, (health, x, y) in enumerate(rows[:, :3].astype(float).tolist()):
        if health <= 0:
            continue
        colour: Colour = "agent" if unit < allies else "rival"
        label = str(unit if unit < allies else unit - allies)
        place = (x * SMAX_MAP, y * SMAX_MAP)
        shapes.append(
            Shape("disc", colour, place[0], place[1], SMAX_RADIUS, label=label, level=min(health, 1.0))
        )
    return Scene((0.0, 0.0, SMAX_MAP, SMAX_MAP), tuple(shapes))
