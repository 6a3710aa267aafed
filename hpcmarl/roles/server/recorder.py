"""What is written about a run besides checkpoints: counters, rows of metrics, the summary, the live display.

The recorder lives on the server. Knows no messages: the server hands it what came.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcmarl.algos.model import Model
from hpcmarl.envs import is_batched
from hpcmarl.errors import StorageError
from hpcmarl.io.metrics import write_summary
from hpcmarl.io.metrics_writer import MetricsWriter
from hpcmarl.optim.rounds import Engine
from hpcmarl.roles.base import Context, Interval
from hpcmarl.roles.efficiency import Efficiency
from hpcmarl.roles.reports import ActorReport, LearnerReport
from hpcmarl.roles.server.operations import count_operations
from hpcmarl.roles.server.progress import Display
from hpcmarl.roles.statistics import LearnerMeans, SlotsHeard
from hpcmarl.roles.timing import GroupTimes
from hpcmarl.types import Gradient

logger = logging.getLogger(__name__)
GRADIENT_TOTALS = ("env_steps", "agent_steps", "staleness", "trajectories")
LEARNERS_TIME = ("learning_seconds", "waiting_seconds")
LEARNER_TOTALS = (
    "late",
    "overflow",
    "repeated",
    "unused_steps",
    "bad_gradients",
    "learned_steps",
    "dense_gradient_steps",
    *LEARNERS_TIME,
)
RECENT_EPISODES = 100
OF_THIS_START = ("quarantined", "trajectory_bytes", "trajectory_shards")  # counters of what is there now
EPISODES_AHEAD = 100_000  # more than an actor can have played before anybody heard of them


def keep_summary(context: Context, summary: dict[str, Any]) -> None:
    """Write summary.json. Where the disk fails: raises StorageError, or says so, as checkpoint.on_error
    wants.
    """
    try:
        write_summary(context.run_directory, summary)
    except StorageError as problem:
        if context.config.checkpoint.on_error == "stop":
            raise
        logger.error("%s; the run has ended, the figures are in the last row of the metrics", problem)


class Recorder:
    """Counts over the whole run, resumptions included; `seconds` is training time, without start-up and final
    evaluation.

    `watch`: called at the end of every round, by benchmarks.
    """

    def __init__(self, context: Context, algorithm: Model) -> None:
        self.context, self.algorithm = context, algorithm
        self.config = context.config
        self.metrics = MetricsWriter(
            context.run_directory, guard=None if context.lock is None else context.lock.watch
        )
        self.display = Display(context)
        self.efficiency = Efficiency(context.config, context.topology)
        self.totals: dict[str, float] = dict.fromkeys(
            (*GRADIENT_TOTALS, *LEARNER_TOTALS, "episodes", "seconds_before"), 0.0
        )
        self.actors: dict[str, dict[str, float]] = {}
        self.group_counts = [0] * len(context.topology.groups)
        self.recent: deque[float] = deque(maxlen=RECENT_EPISODES)
        self.recent_wins: deque[float] = deque(maxlen=RECENT_EPISODES)
        self.recent_by_policy: dict[str, deque[float]] = {}
        # all slots at every version: what counts is the rule's matter
        restarts_together = context.whole_episodes and algorithm.on_policy
        actors = sum(len(group.actors) for group in context.topology.groups)
        self.heard = SlotsHeard(
            0 if restarts_together else actors * self.config.topology.environments_per_actor
        )
        self.best: float | None = None
        self.counters_before: dict[
            str, float
        ] = {}  # of actors: what processes that are gone, or earlier starts, had counted
        self.lost: list[
            dict[str, Any]
        ] = []  # of this start of the run: a resumed one has all its ranks again
        self.evaluation: dict[str, Any] = {}
        self.means = LearnerMeans()
        self.watch: Callable[[Recorder, Engine], None] | None = None
        slots, cancels = (
            self.config.topology.environments_per_actor,
            algorithm.on_policy and self.config.rounds.late == "cancel",
        )
        self.times = GroupTimes(context.topology, slots, on_policy=algorithm.on_policy, cancels=cancels)
        self.row_due = Interval(self.config.logging.every_seconds)
        # version, seconds, env_steps; and of the last row of an earlier version
        self.last_row = self.row_before = (
            -1,
            0.0,
            0.0,
        )
        self.fields: dict[str, Any] = {}
        self._began: float | None = None
        self._ended: float | None = None

    # ---- time and ends

    def begin(self) -> None:
        """Training starts."""
        self._began = time.monotonic()
        self.last_row = self.row_before = (-1, self.seconds, self.totals["env_steps"])
        if self.context.resume is not None:
            self.metrics.truncate(int(self.context.resume["engine"]["rule"]["round"]))
        else:  # what an earlier start wrote without a checkpoint is superseded
            earlier = f"start-{self.context.start_number - 1:04d}-metrics.csv"
            self.metrics.truncate(None, self.context.run_directory / "starts" / earlier)

    def end(self) -> None:
        """Training is over; what follows does not count as training time."""
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time so far."""
        if self._began is None:
            return self.totals["seconds_before"]
        return self.totals["seconds_before"] + (self._ended or time.monotonic()) - self._began

    def time_is_up(self) -> str | None:
        """Whether stop.seconds is reached, in words; all that can change between rounds."""
        limit = self.config.stop.seconds
        return f"stop.seconds {limit:g} reached" if limit is not None and self.seconds >= limit else None

    def stop_reason(self, version: int) -> str | None:
        """Which of `stop`'s limits is reached, in words."""
        stop = self.config.stop
        if (reason := self.time_is_up()) is not None:
            return reason
        if stop.updates is not None and version >= stop.updates:
            return f"stop.updates {stop.updates} reached"
        if stop.env_steps is not None and self.totals["env_steps"] >= stop.env_steps:
            return f"stop.env_steps {stop.env_steps} reached"
        if stop.return_mean is not None and self._settled() and np.mean(self.recent) >= stop.return_mean:
            return f"stop.return_mean {stop.return_mean:g} reached"
        return None

    # ---- what comes in

    def on_gradient(self, gradient: Gradient) -> None:
        self.totals["env_steps"] += gradient.env_steps
        self.totals["agent_steps"] += gradient.agent_steps
        self.totals["staleness"] += gradient.staleness
        self.totals["trajectories"] += gradient.count
        self.group_counts[gradient.group] += gradient.count
        self.times.arrived(gradient.group, gradient.version, gradient.count)

    def on_accept(self, age: int) -> None:
        """A gradient was taken; `age`: versions that the newest parameters were ahead of it, times its
        trajectories.
        """
        self.totals["staleness"] += age

    def on_actor_report(self, report: ActorReport) -> None:
        """Take over the counters of an actor."""
        self.actors[str(report.actor)] = report.counters
        self.times.on_actor(report.actor, report.times)
        self.efficiency.bare = report.bare or self.efficiency.bare

    def on_learner_report(self, report: LearnerReport) -> None:
        """Add what a learner has done since its last report."""
        self.means.add(report.statistics)
        self.times.on_learner(report.group, report.statistics)
        for name in LEARNER_TOTALS:
            self.totals[name] += vars(report)[name]
        self.means.warn(report.warnings)
        episodes = report.episodes
        if not episodes:
            return
        self.heard.add(episodes["slot"].tolist())
        self.totals["episodes"] += len(episodes["return_mean"])
        self.recent.extend(episodes["return_mean"].tolist())
        self.recent_wins.extend(win for win in episodes["win"].tolist() if np.isfinite(win))
        for policy, returns in episodes["returns"].items():
            self.recent_by_policy.setdefault(policy, deque(maxlen=RECENT_EPISODES)).extend(returns.tolist())
        mean = float(np.mean(self.recent))
        if self._settled() and (self.best is None or mean > self.best):
            self.best = mean

    def _settled(self) -> bool:
        """Whether the newest episodes are enough, and no longer the short ones of those that began
        together.
        """
        return len(self.recent) == RECENT_EPISODES and self.heard.complete(self._over_actors("quarantined"))

    def on_lost(self, rank: int) -> None:
        """A rank has died or was given up; nothing new where it had been lost before and was not replaced."""
        if not any(entry["rank"] == rank for entry in self.missing):
            roles = "+".join(self.context.topology.roles_of(rank))
            self.heard.add(self._slots_of(rank))
            self.lost.append(
                {"rank": rank, "roles": roles, "seconds": round(self.seconds, 3), "replaced": False}
            )

    def _slots_of(self, rank: int) -> range:
        """The slots that end with a rank: its own, if it is an actor, and those of its actors if it is a
        learner.
        """
        topology, slots = self.context.topology, self.config.topology.environments_per_actor
        actors = [
            actor for group in topology.groups for actor in group.actors if rank in (actor, group.learner)
        ]
        indices = [topology.actor_index(actor) for actor in actors]
        return range(min(indices, default=0) * slots, (max(indices, default=-1) + 1) * slots)

    def on_replaced(self, rank: int) -> int:
        """A new process has a lost rank's place; returns an episode index that nobody has come to yet."""
        self.counters_before = self._counters_without(rank)
        for entry in self.missing:
            entry["replaced"] = entry["replaced"] or entry["rank"] == rank
        return int(self.totals["episodes"]) + EPISODES_AHEAD * len(self.lost)

    def _counters_without(self, rank: int) -> dict[str, float]:
        """Earlier counters and those of a lost actor's process; the new one counts from zero."""
        before = dict(self.counters_before)
        for name, value in self.actors.pop(str(self.context.topology.actor_index(rank)), {}).items():
            before[name] = before.get(name, 0.0) + value
        return before

    @property
    def missing(self) -> list[dict[str, Any]]:
        """The lost ranks in whose place there is nobody."""
        return [entry for entry in self.lost if not entry["replaced"]]

    def on_evaluation(self, result: dict[str, Any]) -> None:
        self.evaluation = result
        logger.info(
            "evaluation at version %d: return %.3f ± %.3f",
            result["version"],
            result["return_mean"],
            result["return_sem"],
        )

    def on_round(self, engine: Engine) -> None:
        """A round is complete; now and then a row of metrics."""
        if self.watch is not None:
            self.watch(self, engine)
        if self.row_due.due():
            self._row(engine)

    def tick(self, engine: Engine) -> None:
        """Called again and again: keeps the display alive while nothing else happens."""
        if self._began is not None and self._ended is None:
            self.display.update(lambda: self._shown(engine))

    # ---- what goes out

    def _shown(self, engine: Engine) -> dict[str, Any]:
        """What the live display shows."""
        more = {
            "groups": self.group_counts,
            "time_shares": self._time_shares(),
            "bare_env_steps_per_second": self.efficiency.all_bare,
        }
        return self._figures(engine) | more

    def _time_shares(self) -> dict[str, dict[str, float]]:
        return self.efficiency.times(self._counters(), self.totals, self.times.serving_seconds, self.seconds)

    def _figures(self, engine: Engine) -> dict[str, Any]:
        recent = np.array(self.recent) if self.recent else np.array([np.nan])
        wasted = engine.wasted + self.totals["late"]
        return {
            "version": engine.version,
            "seconds": self.seconds,
            "env_steps": int(self.totals["env_steps"]),
            "agent_steps": int(self.totals["agent_steps"]),
            "episodes": int(self.totals["episodes"]),
            "return_mean": float(recent.mean()),
            "return_std": float(recent.std()),
            "staleness_mean": self.totals["staleness"] / max(1.0, self.totals["trajectories"]),
            "used_gradients": engine.used,
            "wasted_gradients": int(wasted),
            "repeated_gradients": int(self.totals["repeated"]),
            "dropped_rollouts": int(self.totals["overflow"]),
            "direction_norm": engine.direction_norm,
            "lost_ranks": len(self.missing),
            "replaced_ranks": len(self.lost) - len(self.missing),
        }

    def _row(self, engine: Engine) -> None:
        row = self._figures(engine)
        if engine.version != self.last_row[0]:  # else the row replaces the last one
            self.row_before = self.last_row
        _, before_seconds, before_steps = self.row_before
        row["env_steps_per_second"] = (row["env_steps"] - before_steps) / max(
            1e-9, row["seconds"] - before_seconds
        )
        self.last_row = (engine.version, row["seconds"], row["env_steps"])
        row |= {
            f"return/{policy}": float(np.mean(returns))
            for policy, returns in self.recent_by_policy.items()
            if len(self.recent_by_policy) > 1
        }
        row |= self.means.row()
        row |= {f"actors/{name}": total for name, total in self._counters().items()}
        row |= self.times.row()
        if self.recent_wins:
            row["win_rate"] = float(np.mean(self.recent_wins))
        if self.evaluation:
            row |= {
                "eval_version": self.evaluation["version"],
                "eval_return_mean": self.evaluation["return_mean"],
            }
        self.metrics.append(row, {"trajectories": np.array(self.group_counts, float), **self.times.groups()})
        self.fields = row

    def _counters(self) -> dict[str, float]:
        """What actors have counted over the whole run, resumptions and replaced processes included."""
        totals = dict(self.counters_before)
        for counters in self.actors.values():
            for name, value in counters.items():
                totals[name] = totals.get(name, 0.0) + value
        return dict(sorted(totals.items()))

    def finish(self, engine: Engine, status: str, error: str | None) -> None:
        """The last row of metrics and summary.json."""
        # else nothing was trained, and the rows of earlier starts stay as they are
        if self._began is not None:
            self._row(engine)
        figures = self._figures(engine)
        speed = figures["env_steps"] / max(1e-9, figures["seconds"])
        unused = self.totals["unused_steps"] + self._over_actors("dropped_steps")
        topology = self.context.topology
        evaluated = self.evaluation.get("version") == engine.version
        summary = {
            "status": status,
            **{name: figures[name] for name in ("env_steps", "agent_steps", "episodes")},
            "updates": engine.version,
            "seconds": figures["seconds"],
            "env_steps_per_second": speed,
            **self.efficiency.figures(
                speed,
                unused,
                figures["env_steps"],
                self.fields.get("learner/replay_shortfall"),
                self._time_shares(),
            ),
            "return_mean": figures["return_mean"],
            "return_std": figures["return_std"],
            "best_return_mean": self.best,
            "returns": {policy: float(np.mean(returns)) for policy, returns in self.recent_by_policy.items()},
            "win_rate": float(np.mean(self.recent_wins)) if self.recent_wins else None,
            "eval_win_rate": self.evaluation.get("win_rate") if evaluated else None,
            "eval_return_mean": self.evaluation.get("return_mean") if evaluated else None,
            "evaluation": self.evaluation if evaluated else None,
            "resumed_from": (self.context.resume or {}).get("path"),
            "ranks": topology.size,
            "roles": [row["roles"] for row in topology.table()],
            "staleness_mean": figures["staleness_mean"],
            "used_gradients": figures["used_gradients"],
            "wasted_gradients": figures["wasted_gradients"],
            "repeated_gradients": figures["repeated_gradients"],
            "dropped_rollouts": figures["dropped_rollouts"],
            "bad_gradients": int(self.totals["bad_gradients"]),
            "lost_ranks": self.lost,
            "trajectories_by_group": self.group_counts,
            "environment_batched": is_batched(self.config.env),
            **{
                f"environment_{name}": self._over_actors(name)
                for name in ("restarts", "hangs", "quarantined", "bad_numbers")
            },
            **count_operations(
                self.algorithm,
                engine.optimizer.topology,
                self.totals["learned_steps"],
                self.totals["dense_gradient_steps"],
            ),
            "checkpoint_error": error,
            "versions": self.context.versions(),
        }
        self.metrics.close()
        keep_summary(self.context, summary)
        self.display.finish(summary)

    def _over_actors(self, name: str) -> int:
        return int(self._counters().get(name, 0))

    def close(self) -> None:
        self.display.close()
        self.metrics.close()

    def state_dict(self) -> dict[str, Any]:
        """Counters and the newest returns, so that a resumed run goes on counting."""
        totals = {**self.totals, "seconds_before": self.seconds}
        counted = {
            "groups": list(self.group_counts),
            "times": self.times.state_dict(),
            "counters": self._counters(),
        }
        return {"totals": totals, "recent": np.array(self.recent), "best": self.best, **counted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.totals.update(state["totals"])
        self.recent.extend(np.asarray(state["recent"]).tolist())
        self.best = state["best"]
        self.counters_before = {
            name: float(value)
            for name, value in state.get("counters", {}).items()
            if name not in OF_THIS_START
        }
        if "times" in state:  # checkpoints of earlier versions have none
            self.times.load_state_dict(state["times"])
        if len(state["groups"]) == len(self.group_counts):
            self.group_counts = [int(count) for count in state["groups"]]
