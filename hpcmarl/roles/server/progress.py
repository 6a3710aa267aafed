"""Live display of the server's rank on standard error.

In a terminal it is a redrawn panel with the curve of returns; elsewhere it is an occasional plain line. A
rank started by mpiexec has no terminal. `hpcmarl train -n` therefore passes the width of the user's terminal
in the environment variable HPCMARL_TERMINAL.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hpcmarl.io.curve import Curve
from hpcmarl.io.judgement import why_no_round
from hpcmarl.io.limits import duration, seconds_left, share_done
from hpcmarl.launch.world import TERMINAL
from hpcmarl.roles.base import Context, Interval
from hpcmarl.roles.efficiency import closing_lines, format_times

logger = logging.getLogger(__name__)
REDRAWS_PER_SECOND = 2.0
WIDEST_CURVE = 100  # characters
FIRST_LINE, LONGEST_PAUSE = 5.0, 60.0  # seconds between plain lines; doubles from the first to the longest


class Display:
    """Panel or log lines with the progress of a run.

    Attributes:
        enabled: Whether `logging.progress` is set.
        console: Terminal to draw on; None: plain log lines.
        last: Time and environment steps of the last redraw, for the speed.
        first: Version, environment steps and seconds at the beginning of this start, for the time left.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.enabled = context.config.logging.progress
        width = os.environ.get(TERMINAL, "")
        terminal = width.isdigit() or sys.stderr.isatty()
        self.console = (
            Console(file=sys.stderr, force_terminal=True, width=int(width) if width.isdigit() else None)
            if terminal
            else None
        )
        self.live: Live | None = None
        self.curve = Curve()
        self.due = Interval(1.0 / REDRAWS_PER_SECOND if self.console else FIRST_LINE)
        self.last = (time.monotonic(), 0)
        self.first: dict[str, float] = {"version": 0, "env_steps": 0, "seconds": 0.0}

    def begin(self, version: int, env_steps: int, seconds: float) -> None:
        """Note that training begins; earlier starts do not count for the speed and the time left.

        Args:
            version: Version of the parameters.
            env_steps: Environment steps of earlier starts.
            seconds: Training time of earlier starts.
        """
        self.last = (time.monotonic(), env_steps)
        self.first = {"version": version, "env_steps": env_steps, "seconds": seconds}

    def update(self, figures: Callable[[], dict[str, Any]]) -> None:
        """Redraw the display if due.

        Args:
            figures: Computes the values to show. Called only when a redraw is due, so that other calls are
                cheap.
        """
        if not self.enabled or not self.due.due():
            return
        now = figures()
        speed = (now["env_steps"] - self.last[1]) / max(1e-9, time.monotonic() - self.last[0])
        self.last = (time.monotonic(), now["env_steps"])
        if self.console is None:
            logger.info("%s", self._line(now, speed))
            self.due = Interval(min(LONGEST_PAUSE, 2 * self.due.seconds))
            return
        self.curve.add(now["seconds"], now["return_mean"])
        if self.live is None:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        self.live.update(Group(self._panel(now, speed), self._curve()), refresh=True)

    def _curve(self) -> Text:
        """Return the returns so far as a text plot; empty if the terminal cannot show Unicode."""
        if self.console is None or not self.console.encoding.startswith("utf"):
            return Text()
        return Text(self.curve.text(min(WIDEST_CURVE, self.console.width)))

    def _line(self, now: dict[str, Any], speed: float) -> str:
        return (
            f"{self._share(now)} {now['seconds']:.0f} s, version {now['version']}, {now['env_steps']:,} "
            f"environment steps ({speed:,.0f}/s{_beside_bare(now, speed)}), {now['episodes']:,} episodes, "
            f"return {now['return_mean']:.2f} ± {now['return_std']:.2f}"
        ).strip() + _lost(now)

    def _share(self, now: dict[str, Any]) -> str:
        """Return the progress towards the nearest limit, for example "37 %, about 20 s left;"."""
        done = share_done(self.context.config.stop, now)
        if done is None:
            return ""
        left = self._left(now)
        return f"{100 * done:.0f} %{left}{';' if left else ','}"

    def _left(self, now: dict[str, Any]) -> str:
        """Return the estimated time until the first limit, for example ", about 20 s left"."""
        left = seconds_left(self.context.config.stop, now, self.first)
        return "" if left is None else f", about {duration(left)} left"

    def _panel(self, now: dict[str, Any], speed: float) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 1))
        done = share_done(self.context.config.stop, now)
        if done is not None:
            filled = round(30 * done)
            table.add_row(
                "progress",
                f"[green]{'━' * filled}[/green][dim]{'━' * (30 - filled)}[/dim] {100 * done:3.0f} %"
                f"{self._left(now)}",
            )
        table.add_row("time", f"{now['seconds']:.0f} s")
        table.add_row(
            "updates",
            f"{now['version']:,}   staleness {now['staleness_mean']:.2f}   "
            f"wasted {now['wasted_gradients']:,}",
        )
        table.add_row("environment steps", f"{now['env_steps']:,}   {speed:,.0f}/s{_beside_bare(now, speed)}")
        table.add_row("shares of time", format_times(now["time_shares"]))
        if lost := _lost(now):
            table.add_row("ranks", f"[red]{lost[2:]}[/red]")
        table.add_row(
            "return",
            (
                f"[bold]{now['return_mean']:.2f}[/bold] ± {now['return_std']:.2f}   over {now['episodes']:,} "
                "episodes"
            ),
        )
        if len(now["groups"]) > 1:
            shown = ", ".join(f"{count:,}" for count in now["groups"][:8])
            table.add_row("by group", shown + (" …" if len(now["groups"]) > 8 else "") + " trajectories")
        return table

    def finish(self, summary: dict[str, Any]) -> None:
        """Log the results of the run and the directory that holds them.

        Args:
            summary: Contents of summary.json.
        """
        self.close()
        if self.console is not None and (curve := self._curve()):
            self.console.print(curve)
        evaluated = summary["eval_return_mean"]
        text = (
            f"{summary['status']} after {summary['seconds']:.1f} s: {summary['updates']:,} updates, "
            f"{summary['env_steps']:,} environment steps "
        )
        text += f"({summary['env_steps_per_second']:,.0f}/s), return {summary['return_mean']:.2f}"
        text += "" if evaluated is None else f", evaluated {evaluated:.2f}"
        lines = [text]
        if not summary["updates"]:
            context = self.context
            arrived = sum(summary["trajectories_by_group"])
            lines.append(why_no_round(context.config, context.batch, arrived, summary["seconds"]))
        for line in (*lines, *closing_lines(summary, self.context.config)):
            logger.info("%s", line)
        logger.info("results in %s", self.context.run_directory)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


def _beside_bare(now: dict[str, Any], speed: float) -> str:
    """Return the speed as a share of bare stepping; empty if bare stepping was not measured."""
    bare = now["bare_env_steps_per_second"]
    return "" if bare is None else f", {100 * speed / bare:.0f} % of bare stepping"


def _lost(now: dict[str, Any]) -> str:
    words = (("lost_ranks", "lost"), ("replaced_ranks", "replaced"))
    return "".join(
        f", {now[name]} rank{'s' if now[name] > 1 else ''} {word}" for name, word in words if now[name]
    )
