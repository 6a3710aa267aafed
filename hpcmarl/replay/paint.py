"""Frames of a video: the scene or picture of a step above its actions, rewards and returns. Needs Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hpcmarl.envs.drawing import Colour, Picture, Scene
from hpcmarl.errors import MissingPackageError
from hpcmarl.replay.page import END_WORDS, title_of, whole_view
from hpcmarl.replay.pictures import Pictures
from hpcmarl.replay.recording import Recording
from hpcmarl.replay.words import action_words

WIDTH, TALLEST, EDGE, LINE = 640, 560, 16, 22  # pixels
CHART = 150
MOST_AGENTS = 10  # lines under a scene; the figures of further agents are left out
GROUND, INK, SOFT, GRID = (251, 251, 250), (27, 31, 36), (89, 98, 109), (213, 217, 222)
SHADES: dict[Colour, tuple[int, int, int]] = {
    "agent": (42, 111, 214),
    "rival": (209, 69, 47),
    "goal": (42, 145, 82),
    "thing": (154, 163, 173),
    "board": (231, 234, 238),
    "faint": (201, 206, 213),
}
LINES = (
    (42, 111, 214),
    (200, 80, 10),
    (42, 145, 82),
    (163, 51, 156),
    (138, 109, 0),
    (0, 131, 143),
    (194, 37, 92),
    (91, 95, 102),
)


class Painter:
    """Paints the frames of one episode, all of the same size.

    Args:
        recording: The episode.

    Raises:
        MissingPackageError: Pillow is not installed.
    """

    def __init__(self, recording: Recording) -> None:
        try:
            from PIL import Image, ImageDraw, ImageFont
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                'videos need the package Pillow, which is not installed; pip install "hpcmarl[video]", or '
                "write a page: --out FILE.html"
            ) from error
        self._image, self._draw = Image, ImageDraw
        self._font, self._small = ImageFont.load_default(16), ImageFont.load_default(13)
        self._recording = recording
        self._words = [
            words for policy in recording.policies for words in action_words(recording.environment, policy)
        ]
        rewards = recording.rewards
        self._returns = np.concatenate([np.zeros((1, rewards.shape[1])), np.cumsum(rewards, 0)])
        self._shown = min(len(recording.agents), MOST_AGENTS)
        drawn = recording.drawn
        self._view = None if drawn is None or isinstance(drawn, Pictures) else whole_view(drawn.scenes)
        self._stage = self._stage_height()
        text = 2 * LINE + self._shown * LINE + (LINE if self._shown < len(recording.agents) else 0)
        height = self._stage + text + CHART + 3 * EDGE
        self.size = (WIDTH, height + height % 2)  # encoders want even sides

    def _stage_height(self) -> int:
        drawn = self._recording.drawn
        if drawn is None:
            return 0
        if isinstance(drawn, Pictures):
            height, width = drawn.kept[0][1]
            return int(min(TALLEST, (WIDTH - 2 * EDGE) * height / width))
        assert self._view is not None
        left, bottom, right, top = self._view
        return int(min(TALLEST, (WIDTH - 2 * EDGE) * (top - bottom) / (right - left)))

    def frames(self) -> Iterator[Picture]:
        """Yield T + 1 frames, uint8 [height, width, 3]: one before each step, and one of the end."""
        for place in range(self._recording.steps + 1):
            yield np.asarray(self._frame(place), np.uint8)

    def _frame(self, place: int) -> Any:
        image = self._image.new("RGB", self.size, GROUND)
        brush = self._draw.Draw(image)
        drawn = self._recording.drawn
        if isinstance(drawn, Pictures):
            self._paste(image, drawn, place)
        elif drawn is not None:
            number = min(-(-place // drawn.every), len(drawn.scenes) - 1)
            self._scene(brush, drawn.scenes[number])
        self._text(brush, place)
        self._chart(brush, place)
        return image

    def _paste(self, image: Any, drawn: Pictures, place: int) -> None:
        number = drawn.places[min(-(-place // drawn.every), len(drawn.places) - 1)]
        picture = self._image.fromarray(drawn.pixels(number))
        share = min((WIDTH - 2 * EDGE) / picture.width, self._stage / picture.height)
        size = (max(1, int(picture.width * share)), max(1, int(picture.height * share)))
        image.paste(picture.resize(size), ((WIDTH - size[0]) // 2, EDGE))

    def _scene(self, brush: Any, scene: Scene) -> None:
        assert self._view is not None
        left, bottom, right, top = self._view
        scale = min((WIDTH - 2 * EDGE) / (right - left), self._stage / (top - bottom))

        def place(x: float, y: float) -> tuple[float, float]:
            return (
                WIDTH / 2 + (x - (left + right) / 2) * scale,
                EDGE + self._stage / 2 - (y - (bottom + top) / 2) * scale,
            )

        brush.rectangle((*place(left, top), *place(right, bottom)), outline=GRID)
        for shape in scene.shapes:
            shade, (x, y) = SHADES[shape.colour], place(shape.x, shape.y)
            radius = max(2.0, shape.a * scale)
            around = (x - radius, y - radius, x + radius, y + radius)
            if shape.kind == "box":
                half = (shape.a * scale / 2, shape.b * scale / 2)
                brush.rectangle((x - half[0], y - half[1], x + half[0], y + half[1]), fill=shade)
            elif shape.kind == "line":
                brush.line((x, y, *place(shape.a, shape.b)), fill=shade, width=2)
            else:
                brush.ellipse(around, **{"fill" if shape.kind == "disc" else "outline": shade})
            if shape.label:
                inside = radius > 9 and len(shape.label) < 3
                middle = (x, y if inside else y - radius - 9)
                brush.text(middle, shape.label, GROUND if inside else INK, self._small, "mm")
            if shape.level is not None:
                wide = max(14.0, 2 * radius)
                bar = (x - wide / 2, y - radius - 7)
                brush.rectangle((*bar, bar[0] + wide, bar[1] + 3), fill=GRID)
                brush.rectangle((*bar, bar[0] + wide * shape.level, bar[1] + 3), fill=shade)

    def _text(self, brush: Any, place: int) -> None:
        recording, top = self._recording, self._stage + EDGE * 3 // 2
        steps = recording.steps
        state = f"step {place + 1} of {steps}" if place < steps else f"end: {END_WORDS[recording.end]}"
        brush.text((EDGE, top), title_of(recording)[:76], INK, self._font)
        brush.text((EDGE, top + LINE), state, SOFT, self._font)
        for agent in range(self._shown):
            line = top + (2 + agent) * LINE
            brush.rectangle((EDGE, line + 4, EDGE + 10, line + 14), fill=LINES[agent % len(LINES)])
            word = self._words[agent][place] if place < steps else ""
            total = self._returns[min(place + 1, steps), agent]
            brush.text((EDGE + 18, line), recording.agents[agent][:24], INK, self._small)
            brush.text((EDGE + 200, line), word[:34], INK, self._small)
            brush.text((WIDTH - EDGE, line), f"return {total:.4g}", INK, self._small, "ra")
        if self._shown < len(recording.agents):
            text = f"and {len(recording.agents) - self._shown} more agents"
            brush.text((EDGE + 18, top + (2 + self._shown) * LINE), text, SOFT, self._small)

    def _chart(self, brush: Any, place: int) -> None:
        """Draw the returns so far of all agents, with a mark at the step."""
        returns, bottom = self._returns, self.size[1] - EDGE
        low, high = min(0.0, float(returns.min())), max(0.0, float(returns.max()))
        span, steps = (high - low) or 1.0, len(returns) - 1

        def point(step: int, value: float) -> tuple[float, float]:
            x = EDGE + 60 + step / max(steps, 1) * (WIDTH - 2 * EDGE - 60)
            return x, bottom - (value - low) / span * (CHART - 2 * EDGE) - EDGE / 2

        for value in {low, 0.0, high}:
            brush.line((*point(0, value), *point(steps, value)), fill=GRID)
            brush.text((EDGE + 54, point(0, value)[1]), f"{value:.4g}", SOFT, self._small, "rm")
        for agent in range(returns.shape[1]):
            points = [point(step, value) for step, value in enumerate(returns[:, agent].tolist())]
            brush.line(points, fill=LINES[agent % len(LINES)], width=2)
        mark = point(min(place + 1, steps), 0.0)[0]
        brush.line((mark, bottom - CHART + EDGE, mark, bottom), fill=INK)
