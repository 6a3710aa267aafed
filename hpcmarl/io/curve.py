"""Text plot of a run's returns against time, for the live display.

Drawn by plotille in Braille characters of eight dots. The number of points is bounded, however long the run
is.
"""

from __future__ import annotations

import math

MOST_POINTS = 400
HEIGHT = 8  # lines, without the axis
MARGIN = 26  # characters taken by the labels and the name of the axis
UNITS = (
    (2 * 86400.0, 86400.0, "days"),
    (2 * 3600.0, 3600.0, "hours"),
    (600.0, 60.0, "minutes"),
    (0.0, 1.0, "seconds"),
)


class Curve:
    """Values over time, thinned to a bounded number of points.

    Above MOST_POINTS, every second point is removed and the minimum distance between new points is doubled.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.values: list[float] = []
        self._apart = 0.0  # minimum distance between points, seconds

    def add(self, seconds: float, value: float) -> None:
        """Append a point, unless it follows the last one too closely or its value is not finite.

        Args:
            seconds: Time of the point.
            value: Value at that time.
        """
        if not math.isfinite(value) or (self.seconds and seconds < self.seconds[-1] + self._apart):
            return
        self.seconds.append(seconds)
        self.values.append(value)
        if len(self.seconds) > MOST_POINTS:
            del self.seconds[1::2], self.values[1::2]
            self._apart = 2.0 * (self.seconds[-1] - self.seconds[0]) / MOST_POINTS

    def text(self, width: int) -> str:
        """Draw the curve.

        Args:
            width: Maximum number of characters per line.

        Returns:
            Lines with the values on the left and the time below. Empty with fewer than three points, if no
            time has passed, or if the width is less than 2 MARGIN.
        """
        if len(self.seconds) < 3 or self.seconds[-1] <= self.seconds[0] or width < 2 * MARGIN:
            return ""
        import plotille

        unit, name = next((unit, name) for least, unit, name in UNITS if self.seconds[-1] >= least)
        times = [seconds / unit for seconds in self.seconds]
        low, high = min(self.values), max(self.values)
        figure = plotille.Figure()
        figure.width, figure.height = width - MARGIN, HEIGHT
        figure.with_colors, figure.origin = False, False
        figure.x_label, figure.y_label = name, "return"
        figure.set_x_limits(times[0], times[-1])
        figure.set_y_limits(low, low + max(high - low, 1e-6 * abs(low), 1e-3))
        figure.register_label_formatter(float, _label)
        figure.plot(times, self.values)
        return "\n".join(line.rstrip() for line in figure.show().splitlines())


def _label(value: float, chars: int, delta: float, left: bool = False) -> str:
    digits = min(4, max(0, 1 - math.floor(math.log10(delta))))
    text = f"{value:,.{digits}f}" if abs(value) < 1e6 else f"{value:.3g}"
    return text.ljust(chars) if left else text.rjust(chars)
