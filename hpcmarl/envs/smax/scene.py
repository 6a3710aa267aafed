"""Drawings of SMAX battles."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmarl.envs.drawing import Colour, Scene, Shape

MARGIN = 2.0  # around the units, in the map's units


def draw_battle(game: Any, states: Any, slot: int) -> Scene:
    """Return the units of one battle, with health, ranges, and the attacks of the last step.

    Args:
        game: Rules of the map (games.Game).
        states: States of all battles.
        slot: The battle.
    """
    rules, state = game.rules, states.state
    places, alive = np.asarray(state.unit_positions[slot]), np.asarray(state.unit_alive[slot])
    health, kinds = np.asarray(state.unit_health[slot]), np.asarray(state.unit_types[slot])
    attacks = np.asarray(state.prev_attack_actions[slot]).reshape(-1)
    full, ranges = np.asarray(rules.unit_type_health), np.asarray(rules.unit_type_attack_ranges)
    radii = np.asarray(rules.unit_type_radiuses)
    allies, first_attack = int(rules.num_allies), int(rules.num_movement_actions)
    rings: list[Shape] = []
    shots: list[Shape] = []
    units: list[Shape] = []
    for unit in np.flatnonzero(alive).tolist():
        own = unit < allies
        colour: Colour = "agent" if own else "rival"
        x, y = map(float, places[unit])
        kind = int(kinds[unit])
        rings.append(Shape("ring", "faint", x, y, float(ranges[kind])))
        if attacks[unit] >= first_attack:
            other = int(attacks[unit]) - first_attack
            target = allies + other if own else allies - 1 - other
            end = places[target].tolist()
            shots.append(Shape("line", colour, x, y, end[0], end[1]))
        level = float(np.clip(health[unit] / full[kind], 0.0, 1.0))
        label = str(unit if own else unit - allies)
        units.append(Shape("disc", colour, x, y, float(radii[kind]), label=label, level=level))
    places = places[alive] if alive.any() else places
    left, bottom = (places.min(0) - MARGIN).tolist()
    right, top = (places.max(0) + MARGIN).tolist()
    return Scene((left, bottom, right, top), (*rings, *shots, *units))
