"""Counters, metrics rows, the summary and the live display of a run."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpcmarl.algos.model import Model
from hpcmarl.envs import is_batched
from hpcmarl.io.metrics_writer import MetricsWriter
from hpcmarl.optim.rounds import Engine
from hpcmarl.roles.base import Context, Interval
from hpcmarl.roles.efficiency import Efficiency
from hpcmarl.roles.reports import ActorReport, LearnerReport
from hpcmarl.roles.server.columns import expected_columns
from hpcmarl.roles.server.operations import count_operations
from hpcmarl.roles.server.progress import Display
from hpcmarl.roles.server.rank_times import RankTimes, activity_file
from hpcmarl.roles.server.summary_file import keep_summary
from hpcmarl.roles.server.tracking import begin_tracking
from hpcmarl.roles.statistics import LearnerMeans, SlotsHeard
from hpcmarl.roles.timing import GroupTimes
from hpcmarl.roles.worker_plan import kinds_of_slots
from hpcmarl.rollouts.exchange import worker_of_slots
from hpcmarl.tracking import Trackers
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
SUMMARISED = (
    "staleness_mean",
    "used_trajectories",
    "wasted_gradients",
    "repeated_gradients",
    "dropped_rollouts",
)
RECENT_EPISODES = 100
# Counters of the present start only; a resumed run starts them at zero.
OF_THIS_START = ("quarantined", "trajectory_bytes", "trajectory_shards")
# Upper bound on the episodes that an actor can have played without having reported them.
EPISODES_AHEAD = 100_000


class Recorder:
    """Count, log and write the progress of a run. Lives on the server.

    Counters cover the whole run, including earlier starts.

    Attributes:
        totals: Sums over the whole run by name. `staleness` is summed over trajectories, in versions.
        actors: Newest counters of each actor by its number.
        counters_before: Counters of earlier starts and of actor processes that were replaced.
        group_counts: Trajectories delivered by each group, [groups].
        recent: Returns of the newest RECENT_EPISODES episodes; likewise recent_wins, recent_by_policy and
            recent_by_kind (kinds of workers).
        heard: Slots that have not finished an episode yet.
        best: Largest mean of recent returns so far.
        lost: Ranks lost in this start of the run. A resumed run has all its ranks again.
        evaluation: Result of the newest evaluation; empty before the first.
        activity: What each rank of this start has spent its time on.
        trackers: Other tools that show the metrics; they start with the training.
        expected: Columns that rows will have, in the heading from the first row on.
        watch: Called at the end of every round; used by benchmarks.
        last_row: Version, seconds and environment steps of the newest metrics row.
        row_before: The same of the newest row of an earlier version.
        fields: The newest metrics row.
    """

    def __init__(self, context: Context, algorithm: Model) -> None:
        self.context, self.algorithm = context, algorithm
        self.config = context.config
        self.activity = RankTimes(context.topology)
        guard = None if context.lock is None else context.lock.watch
        self.metrics = MetricsWriter(
            context.run_directory, guard=guard, activity=activity_file(context, self.activity)
        )
        self.trackers = Trackers()
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
        self.recent_by_kind: dict[int, deque[float]] = {}
        self.kinds = kinds_of_slots(context)
        # If all slots restart at every version, the rule decides which episodes count: wait for no slot.
        restarts_together = context.whole_episodes and algorithm.on_policy
        actors = sum(len(group.actors) for group in context.topology.groups)
        self.heard = SlotsHeard(
            0 if restarts_together else actors * self.config.topology.environments_per_actor
        )
        self.best: float | None = None
        self.counters_before: dict[str, float] = {}
        self.lost: list[dict[str, Any]] = []
        self.evaluation: dict[str, Any] = {}
        self.means = LearnerMeans()
        self.watch: Callable[[Recorder, Engine], None] | None = None
        slots, cancels = (
            self.config.topology.environments_per_actor,
            algorithm.on_policy and self.config.rounds.late == "cancel",
        )
        self.times = GroupTimes(context.topology, slots, on_policy=algorithm.on_policy, cancels=cancels)
        self.expected = expected_columns(self.config, [policy.name for policy in context.spec.policies])
        self.row_due = Interval(self.config.logging.every_seconds)
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
        """Begin to count training time, and remove metrics rows that this start supersedes."""
        self._began = time.monotonic()
        self.last_row = self.row_before = (-1, self.seconds, self.totals["env_steps"])
        resume = self.context.resume
        version = None if resume is None else int(resume["engine"]["rule"]["round"])
        self.display.begin(version or 0, int(self.totals["env_steps"]), self.seconds)
        self.trackers = begin_tracking(self.context, version, int(self.totals["env_steps"]))
        if version is not None:
            self.metrics.truncate(version)
        else:  # rows of an earlier start that has no checkpoint are superseded
            earlier = f"start-{self.context.start_number - 1:04d}-metrics.csv"
            self.metrics.truncate(None, self.context.run_directory / "starts" / earlier)
        self.activity.serving_before = self.times.serving_seconds
        self._note_activity()

    def end(self) -> None:
        """End the training time. The final checkpoint and evaluation do not count."""
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time of the whole run so far, without start-up and final evaluation."""
        if self._began is None:
            return self.totals["seconds_before"]
        return self.totals["seconds_before"] + (self._ended or time.monotonic()) - self._began

    def time_is_up(self) -> str | None:
        """Return "stop.seconds … reached" if that limit is reached, else None.

        It is the only limit that can be reached between rounds.
        """
        limit = self.config.stop.seconds
        return f"stop.seconds {limit:g} reached" if limit is not None and self.seconds >= limit else None

    def stop_reason(self, version: int) -> str | None:
        """Return which limit of `stop` is reached, as text; None if none is."""
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

    # ---- input

    def on_gradient(self, gradient: Gradient) -> None:
        """Add the counters of a gradient."""
        self.totals["env_steps"] += gradient.env_steps
        self.totals["agent_steps"] += gradient.agent_steps
        self.totals["staleness"] += gradient.staleness
        self.totals["trajectories"] += gradient.count
        self.group_counts[gradient.group] += gradient.count
        self.times.arrived(gradient.group, gradient.version, gradient.count)

    def on_accept(self, age: int) -> None:
        """Add the age of an accepted gradient to the staleness.

        Args:
            age: Versions between the gradient and the newest parameters, multiplied by its trajectories.
        """
        self.totals["staleness"] += age

    def on_actor_report(self, report: ActorReport) -> None:
        """Replace the counters of an actor by those of its newest report."""
        self.actors[str(report.actor)] = report.counters
        self.times.on_actor(report.actor, report.times)
        self.activity.on_actor(report)
        self.efficiency.bare = report.bare or self.efficiency.bare

    def on_learner_report(self, report: LearnerReport) -> None:
        """Add the counters, statistics and episodes of a learner's report."""
        self.means.add(report.statistics)
        self.times.on_learner(report.group, report.statistics)
        self.activity.on_learner(report)
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
        for kind in range(len(self.config.topology.workers)):
            own = episodes["return_mean"][self.kinds[episodes["slot"]] == kind]
            self.recent_by_kind.setdefault(kind, deque(maxlen=RECENT_EPISODES)).extend(own.tolist())
        mean = float(np.mean(self.recent))
        if self._settled() and (self.best is None or mean > self.best):
            self.best = mean

    def _settled(self) -> bool:
        """Return whether the recent episodes are enough for a mean without bias to short ones.

        The first episodes to finish are the short ones, until every slot has finished one.
        """
        return len(self.recent) == RECENT_EPISODES and self.heard.complete(self._over_actors("quarantined"))

    def on_lost(self, rank: int) -> None:
        """Record the loss of a rank, unless it is already recorded and was not replaced since."""
        if not any(entry["rank"] == rank for entry in self.missing):
            roles = "+".join(self.context.topology.roles_of(rank))
            self.heard.add(self._slots_of(rank))
            self.lost.append(
                {"rank": rank, "roles": roles, "seconds": round(self.seconds, 3), "replaced": False}
            )

    def _slots_of(self, rank: int) -> Sequence[int]:
        """Return the slots lost with a rank: those of a worker, an actor, or all actors of a learner."""
        topology, slots = self.context.topology, self.config.topology.environments_per_actor
        actors = [
            actor for group in topology.groups for actor in group.actors if rank in (actor, group.learner)
        ]
        indices = [topology.actor_index(actor) for actor in actors]
        if "worker" in topology.roles_of(rank):
            actor = topology.actor_of(rank)
            workers = topology.workers_of(actor)
            own = worker_of_slots(slots, len(workers)) == workers.index(rank)
            return (np.flatnonzero(own) + topology.actor_index(actor) * slots).tolist()
        return range(min(indices, default=0) * slots, (max(indices, default=-1) + 1) * slots)

    def on_replaced(self, rank: int) -> int:
        """Record that a new process replaces a lost actor or worker.

        Args:
            rank: Rank of the actor or worker.

        Returns:
            An episode index that no actor has reached yet.
        """
        if rank in self.context.topology.actors:
            self.counters_before = self._counters_without(rank)
        for entry in self.missing:
            entry["replaced"] = entry["replaced"] or entry["rank"] == rank
        return int(self.totals["episodes"]) + EPISODES_AHEAD * len(self.lost)

    def _counters_without(self, rank: int) -> dict[str, float]:
        """Return the counters of former processes and of a lost actor, whose successor starts at zero."""
        before = dict(self.counters_before)
        for name, value in self.actors.pop(str(self.context.topology.actor_index(rank)), {}).items():
            before[name] = before.get(name, 0.0) + value
        return before

    @property
    def missing(self) -> list[dict[str, Any]]:
        """The lost ranks that have not been replaced."""
        return [entry for entry in self.lost if not entry["replaced"]]

    def on_evaluation(self, result: dict[str, Any]) -> None:
        """Keep and log the result of an evaluation."""
        self.evaluation = result
        logger.info(
            "evaluation at version %d: return %.3f ± %.3f",
            result["version"],
            result["return_mean"],
            result["return_sem"],
        )

    def on_round(self, engine: Engine) -> None:
        """Record a completed round; write a metrics row if due."""
        if self.watch is not None:
            self.watch(self, engine)
        if self.row_due.due():
            self._row(engine)

    def tick(self, engine: Engine) -> None:
        """Update the live display. Called in every step of the server."""
        if self._began is not None and self._ended is None:
            self.display.update(lambda: self._shown(engine))

    # ---- output

    def _shown(self, engine: Engine) -> dict[str, Any]:
        """Return the figures of the live display."""
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
            "used_trajectories": engine.used,
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
        row |= {
            f"return_worker_kind/{kind}": float(np.mean(returns))
            for kind, returns in self.recent_by_kind.items()
            if returns
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
            if self.evaluation.get("win_rate") is not None:
                row["eval_win_rate"] = self.evaluation["win_rate"]
        groups = {"trajectories": np.array(self.group_counts, float), **self.times.groups()}
        self.metrics.append({**row, **{name: np.nan for name in self.expected if name not in row}}, groups)
        self._note_activity()
        self.trackers.row(row)
        self.fields = row

    def _note_activity(self) -> None:
        self.metrics.note_activity(self.seconds, self.activity.spent(self.times.serving_seconds))

    def _counters(self) -> dict[str, float]:
        """Return the sums of the actors' counters over the whole run.

        They include earlier starts and replaced processes.
        """
        totals = dict(self.counters_before)
        for counters in self.actors.values():
            for name, value in counters.items():
                totals[name] = totals.get(name, 0.0) + value
        return dict(sorted(totals.items()))

    def finish(
        self, engine: Engine, status: str, error: str | None, callback_errors: Sequence[str] = ()
    ) -> None:
        """Write the last metrics row, if there was training, and summary.json; show the results.

        Args:
            engine: Rule and optimizer, for the version and counters.
            status: "finished" or "interrupted".
            error: Why the last checkpoint was not written; None: it was.
            callback_errors: One line for each callback that has failed.
        """
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
            "returns_by_worker_kind": [
                float(np.mean(returns)) if returns else None for returns in self.recent_by_kind.values()
            ],
            "win_rate": float(np.mean(self.recent_wins)) if self.recent_wins else None,
            "eval_win_rate": self.evaluation.get("win_rate") if evaluated else None,
            "eval_return_mean": self.evaluation.get("return_mean") if evaluated else None,
            "evaluation": self.evaluation if evaluated else None,
            "resumed_from": (self.context.resume or {}).get("path"),
            "ranks": topology.size,
            "roles": [row["roles"] for row in topology.table()],
            **{name: figures[name] for name in SUMMARISED},
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
            "callback_errors": list(callback_errors),
            "versions": self.context.versions(),
        }
        self.metrics.close()
        keep_summary(self.context, summary)
        self.trackers.close(summary)  # waits for slow trackers, so summary.json comes first
        self.display.finish(summary)

    def _over_actors(self, name: str) -> int:
        return int(self._counters().get(name, 0))

    def close(self) -> None:
        self.display.close()
        self.metrics.close()
        self.trackers.close()

    def state_dict(self) -> dict[str, Any]:
        """Return counters and newest returns, so that a resumed run continues to count."""
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
