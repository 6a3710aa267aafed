"""Drawings of one moment of an episode, as simple shapes that a page and a painter can both show.

Coordinates are those of the environment, with y upwards. An environment that renders pictures itself returns
an array of pixels instead of a Scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Kind = Literal["disc", "ring", "box", "line"]
# Roles of shapes. Each writer has one colour for each.
Colour = Literal["agent", "rival", "goal", "thing", "board", "faint"]
KINDS: tuple[Kind, ...] = ("disc", "ring", "box", "line")
COLOURS: tuple[Colour, ...] = ("agent", "rival", "goal", "thing", "board", "faint")


class Shape(NamedTuple):
    """One shape.

    Attributes:
        kind: Disc, ring, box or line.
        colour: Role of the shape.
        x: Middle of the shape, or the first end of a line.
        y: As `x`.
        a: Radius; width of a box; x of the second end of a line.
        b: Height of a box; y of the second end of a line; 0 otherwise.
        label: Short text on the shape.
        level: Share of a bar above the shape that is full, such as health; None: no bar.
    """

    kind: Kind
    colour: Colour
    x: float
    y: float
    a: float
    b: float = 0.0
    label: str = ""
    level: float | None = None


@dataclass(frozen=True)
class Scene:
    """Shapes at one moment.

    Attributes:
        view: Part of the plane that must be visible: left, bottom, right, top.
        shapes: Shapes, from the back to the front.
    """

    view: tuple[float, float, float, float]
    shapes: tuple[Shape, ...]


# red, green and blue of each pixel, uint8 [height, width, 3]
Picture = NDArray[np.uint8]
Drawing = Scene | Picture
