"""The server: round rule, optimizer steps, versions and the sequence of a run.

    GRADIENT ──► engine (rule, optimizer) ──► round complete ──► new version ──► PARAMETERS to the groups
    periodic:    CHECKPOINT_REQUEST ──► STATE of every role ──► checkpoint;   evaluation;   row of metrics
    at the end:  STOP ──► last STATE of every role ──► final checkpoint ──► final evaluation
                      ──► summary ──► EXIT

The rule names the groups that receive new parameters. The server writes all metrics and checkpoints of a run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from hpcmarl.callbacks import Moment
from hpcmarl.comm.protocol import Flags, Kind, vector_message, vector_of
from hpcmarl.comm.transport import LatestLink, Message
from hpcmarl.envs import has_fixed_length
from hpcmarl.errors import EXIT_FAILURE, EXIT_SUCCESS, EXIT_TRY_AGAIN
from hpcmarl.optim.rounds import Accept, Close, Command, Engine, Publish
from hpcmarl.packing import unpack
from hpcmarl.roles.base import Context, Interval, Role
from hpcmarl.roles.evaluator import Evaluator
from hpcmarl.roles.reports import ActorReport, LearnerReport
from hpcmarl.roles.server.callbacks import CallbackRunner, moment_of
from hpcmarl.roles.server.checkpointing import CheckpointCoordinator
from hpcmarl.roles.server.recorder import Recorder
from hpcmarl.roles.server.stragglers import StragglerMonitor
from hpcmarl.tracing.spans import Span
from hpcmarl.types import Gradient

logger = logging.getLogger(__name__)
FINAL_STATE_TIMEOUT = 20.0  # seconds to wait for the last states before the run ends without them
# Rollout numbers of a replacement process start this far beyond those of the process that died.
ROLLOUTS_AHEAD = 1 << 40


class Server(Role):
    """The role of rank 0. The evaluator runs on the same rank.

    Attributes:
        phase: Stage of the run: "start", "train", "stop", "evaluate" or "done", in this order.
        status: Outcome of the run: "finished" or "interrupted".
        behind: Groups whose newest parameters may still wait for their link.
        requested_stop: Status with which the run is to stop at the next round or start; None: no stop is
            pending.
        stop_reason: Cause of the end, in words; empty before it.
        stop_at: Time at which the run stops because its Slurm job ends, in seconds since 1970; None: never.
    """

    name = "server"

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        super().__init__(context, neighbours)
        config = context.config
        evaluator = neighbours["evaluator"]
        assert isinstance(evaluator, Evaluator)
        self.evaluator = evaluator
        algorithm = evaluator.algorithm
        self.engine = Engine(context.rule(), context.optimizer(algorithm))
        if self.trace is not None:
            self.engine.on_step = partial(self.trace.add, Span.OPTIMIZER)
        self.links = [LatestLink(self.transport, group.learner) for group in context.topology.groups]
        # Each step flushes only the links of these groups, not all links.
        self.behind: set[int] = set()
        self.stragglers = StragglerMonitor(self.engine.rule, context.topology)
        self.recorder = Recorder(context, algorithm)
        self.callbacks = CallbackRunner(config)
        self.stop_reason = ""
        self.checkpoints = CheckpointCoordinator(context)
        self.phase = "start"  # start → train → stop → evaluate → done
        self.status = "finished"
        self.requested_stop: str | None = None
        self.evaluate_every = Interval(config.eval.every_seconds) if config.eval.every_seconds else None
        self.checkpoint_every = (
            Interval(config.checkpoint.every_seconds) if config.checkpoint.every_seconds else None
        )
        self.final_state_timeout = Interval(FINAL_STATE_TIMEOUT)
        self.stop_at = self._time_to_stop()

    # ---- messages

    def on_message(self, message: Message) -> None:
        """Process a gradient, a report, a state, the end of a group's work or an interrupt."""
        if message.kind is Kind.GRADIENT:
            self._on_gradient(message)
        elif message.kind is Kind.REPORT:
            if message.header.role == "actor":
                self.recorder.on_actor_report(ActorReport.unpack(message.payload))
            else:
                self.recorder.on_learner_report(LearnerReport.unpack(message.payload))
        elif message.kind is Kind.STATE:
            final = bool(message.header.flags & Flags.FINAL)
            self.checkpoints.on_state(
                message.header.role, message.source, unpack(message.payload), final=final
            )
        elif message.kind is Kind.CLOSED and self.phase == "train":
            self._execute(self.engine.on_closed(message.header.group, message.header.version))
        elif message.kind is Kind.INTERRUPT:
            self.ask_to_stop("interrupted")
        message.release()

    def _on_gradient(self, message: Message) -> None:
        header = message.header
        gradient = Gradient(
            header.group,
            header.version,
            header.trajectories,
            vector_of(message.buffer, self.engine.optimizer.parameters.size),
            header.env_steps,
            header.agent_steps,
            header.staleness,
            summed=bool(header.flags & Flags.SUMMED),
        )
        self.recorder.on_gradient(gradient)
        if self.phase != "train":
            self.engine.on_last(gradient)
            return
        began = time.perf_counter()
        commands = self.engine.on_gradient(gradient)
        if isinstance(commands[0], Accept):
            self.recorder.on_accept(commands[0].age * gradient.count)
        elif not gradient.summed and not self.evaluator.algorithm.on_policy:
            self.send(
                self.context.topology.groups[gradient.group].learner, Kind.LATE, version=gradient.version
            )
        self._execute(commands)
        ended = time.perf_counter()
        self.recorder.times.served(ended - began)
        if self.trace is not None:
            self.trace.add(Span.SERVE, began, ended, gradient.version)

    def _execute(self, commands: Sequence[Command]) -> None:
        """Execute the engine's commands that need communication."""
        for command in commands:
            if isinstance(command, Publish) and self.phase == "train":
                self._after_round(command)
            elif isinstance(command, Close):
                for group in command.groups:
                    self.send(
                        self.context.topology.groups[group].learner, Kind.CLOSE, version=command.version
                    )

    def _after_round(self, publish: Publish) -> None:
        """Record a completed round, then stop, or start a due checkpoint or evaluation and publish."""
        config, version = self.context.config, publish.version
        self.recorder.activity.evaluating = self.evaluator.seconds
        self.recorder.on_round(self.engine)
        self.stragglers.round_ended()
        wish = self.callbacks.call("on_update", self._moment)
        if (reason := self.recorder.stop_reason(version) or wish) or self.requested_stop is not None:
            self.stop_reason = self.stop_reason or reason or self.requested_stop or ""
            logger.info("stopping at version %d: %s", version, self.stop_reason)
            self._begin_stop(self.requested_stop or "finished")
            if config.rounds.collective:
                self._publish(publish)  # the learners still have to close this round
            return
        due = self.checkpoint_every is not None and self.checkpoint_every.due()
        if due or (config.checkpoint.every_updates and version % config.checkpoint.every_updates == 0):
            self.checkpoints.request(version, self._state())
        due = self.evaluate_every is not None and self.evaluate_every.due()
        if due or (config.eval.every_updates and version % config.eval.every_updates == 0):
            self._evaluate(version)
        self._publish(publish)
        self.recorder.times.published(version, publish.groups)

    def _publish(self, publish: Publish) -> None:
        """Offer the new query point to the groups of a command.

        A newer message on a link replaces one that waits. Under AllReduce, groups receive only the notice
        that the round has ended; such notices are never replaced.
        """
        fields: dict[str, Any] = {
            "source": self.context.rank,
            "role": self.name,
            "version": publish.version,
        }
        fields["env_steps"] = int(self.recorder.totals["env_steps"])
        if self.context.config.rounds.collective:
            for group in publish.groups:
                self.transport.send(
                    self.context.topology.groups[group].learner,
                    vector_message(Kind.PARAMETERS, None, **fields),
                )
            return
        topology = self.engine.optimizer.topology
        message = vector_message(
            Kind.PARAMETERS,
            self.engine.optimizer.query_point(),
            None if topology is None else topology.mask,
            **fields,
        )
        for group in publish.groups:
            self.links[group].offer(message)
        self.behind.update(publish.groups)

    def _evaluate(self, version: int) -> None:
        """Request an evaluation of the current parameters.

        Under AllReduce the server has no parameters, so they are taken from a new checkpoint. No evaluation
        takes place if another checkpoint is being collected.
        """
        if not self.context.config.rounds.collective:
            self.evaluator.request(self.engine.optimizer.parameters, version, self._on_evaluation)
        elif self.checkpoints.request(version, self._state()):
            self.checkpoints.when_complete = lambda state: self.evaluator.request(
                state["engine"]["optimizer"]["parameters"], version, self._on_evaluation
            )

    def _on_evaluation(self, result: dict[str, Any]) -> None:
        """Record the result of an evaluation, and tell the callbacks."""
        self.recorder.on_evaluation(result)
        self._notify("on_evaluation")

    def _notify(self, method: str) -> None:
        """Call the callbacks between rounds; stop training if one of them wishes it."""
        reason = self.callbacks.call(method, self._moment)
        if reason is not None and self.phase == "train":
            self.stop_reason = self.stop_reason or reason
            logger.info("stopping at version %d: %s", self.engine.version, reason)
            self._want_stop("finished")

    def _moment(self) -> Moment:
        status = self.status if self.phase in ("stop", "evaluate") else ""
        return moment_of(
            self.recorder, self.engine.version, self.checkpoints.writer.last_path, status, self.stop_reason
        )

    def on_lost(self, rank: int, groups: Sequence[int]) -> None:
        """Stop waiting for a lost rank. The run continues with the remaining groups or stops.

        It stops if no group remains, if `rounds.on_loss` demands it, or if the run is deterministic.
        """
        self.recorder.on_lost(rank)
        led = [group for group in self.context.topology.groups if group.learner == rank]
        orphans = [actor for group in led for actor in group.actors]
        for gone in (rank, *orphans):
            self.checkpoints.forget(gone)
        rule, wanted = self.engine.rule, self.context.config.rounds.on_loss
        if self.phase not in ("start", "train"):
            return
        if set(rule.present) <= set(groups):
            logger.warning("stopping at version %d: no group is left", self.engine.version)
            self._stop_after_loss()
        elif self.context.config.deterministic or (
            groups and (wanted == "stop" or (wanted == "auto" and not rule.pooled))
        ):
            logger.warning(
                "stopping at version %d: a rank was lost (rounds.on_loss: %s)", self.engine.version, wanted
            )
            self._stop_after_loss()
        else:
            for group in set(groups) - rule.lost:
                self._execute(self.engine.on_lost(group))

    def _stop_after_loss(self) -> None:
        """Stop at once. In the start phase, the run first loads the state that it resumes from."""
        if self.phase == "start":
            self.requested_stop = "interrupted"
        else:
            self._begin_stop("interrupted")

    def on_replaced(self, rank: int) -> None:
        """Start the process that replaces a dead actor, with random numbers and episodes not used before.

        The actor of a replaced worker starts it.
        """
        episode = self.recorder.on_replaced(rank)
        if self.phase == "train" and rank in self.context.topology.actors:
            self.checkpoints.expect_again(rank)
            state = {
                "version": self.engine.version,
                "first_episode": episode,
                "first_rollout": len(self.recorder.lost) * ROLLOUTS_AHEAD,
            }
            self.send(rank, Kind.START, state, version=self.engine.version, addressee="actor")

    # ---- work

    def work(self) -> bool:
        """Advance the run: flush links, write due checkpoints, check the limits, change the phase."""
        if self.behind:
            self.behind = {group for group in self.behind if not self.links[group].flush()}
        worked = self.checkpoints.poll()
        if self.checkpoints.newly_written():
            self._notify("on_checkpoint")
        self.recorder.tick(self.engine)
        if self.phase == "train":
            self.stragglers.poll()
        if self.phase == "start":
            self._start()
            return True
        if (
            self.phase == "train"
            and self.requested_stop is None
            and (reason := self.recorder.time_is_up()) is not None
        ):
            self.stop_reason = reason
            logger.info("stopping at version %d: %s", self.engine.version, reason)
            self._want_stop("finished")
            return True
        if (
            self.phase == "train"
            and self.requested_stop is None
            and self.stop_at is not None
            and time.time() > self.stop_at
        ):
            logger.info(
                "stopping at version %d: the Slurm job ends soon (stop.seconds_before_limit)",
                self.engine.version,
            )
            self._want_stop("interrupted")
            return True
        if self.phase == "stop" and self._all_is_said():
            self._after_stop()
            return True
        if self.phase == "evaluate" and self.stop_at is not None and time.time() > self.stop_at:
            self.ask_to_stop("interrupted")
        if self.phase == "evaluate" and self.evaluator.idle:
            self._finish()
            return True
        return worked

    def _start(self) -> None:
        """Send every role its state, then send the learners the first parameters."""
        resume = self.context.resume
        states = self.checkpoints.distribute(resume)
        if resume is not None:
            self.engine.load_state_dict(resume["engine"])
            self.recorder.load_state_dict(resume["recorder"])
            self.callbacks.load_state_dict(resume.get("callbacks", {}))
        for role, rank, state in states:
            fields = {
                "version": self.engine.version,
                "env_steps": int(self.recorder.totals["env_steps"]),
                "addressee": role,
            }
            self.send(rank, Kind.START, state, **fields)
        if not self.context.config.rounds.collective:
            self._publish(Publish(self.engine.version, tuple(range(len(self.links)))))
        if self.requested_stop is not None:  # the stop was requested before training began
            self._begin_stop(self.requested_stop)
            return
        self.recorder.begin()
        self._warn_of_length_bias()
        self.phase = "train"
        if (reason := self.recorder.stop_reason(self.engine.version)) is not None:
            self.stop_reason = reason
            logger.info("nothing left to do: %s", reason)
            self._begin_stop("finished")

    def _warn_of_length_bias(self) -> None:
        """Warn if a round counts the first episodes to finish, which over-weights short episodes."""
        config, rule = self.context.config, self.engine.rule
        drops_episodes = self.context.whole_episodes and config.algo.is_on_policy
        if (
            drops_episodes
            and not rule.in_order
            and not config.rounds.counts_all_begun
            and not has_fixed_length(config.env)
        ):
            logger.warning(
                "rounds.rule: rennala counts the first %d episodes to finish, which gives short episodes too "
                "much weight if lengths vary; set rounds.admission: all_begun, or rounds.rule: sync",
                rule.batch,
            )

    def _time_to_stop(self) -> float | None:
        """Return the time to stop before the Slurm job ends, in seconds since 1970; None: no limit.

        The margin is at most a quarter of the remaining time. Otherwise a short, requeued job would make no
        progress.
        """
        end, margin = self.context.job_end, self.context.config.stop.seconds_before_limit
        return (
            None if end is None or margin is None else end - min(margin, 0.25 * max(0.0, end - time.time()))
        )

    def ask_to_stop(self, status: str) -> None:
        """Request the end of the run. A repeated request has no effect unless it interrupts an evaluation.

        Args:
            status: "interrupted" if the run can be resumed later, or "finished".
        """
        if self.phase == "start":
            self.requested_stop = self.requested_stop or status  # _start loads the resumed state first
        elif self.phase == "train":
            self._want_stop(status)
        elif (
            status == "interrupted"
            and self.phase in ("stop", "evaluate")
            and self.status == "finished"
            and self._evaluates()
        ):
            logger.info("interrupted: the evaluation is cancelled; resume the run to repeat it")
            self.status = status
            self.evaluator.cancel()
        elif status == "interrupted":
            self.evaluator.videos.cancel()  # only a video is still being made

    def _evaluates(self) -> bool:
        """Return whether an evaluation is running or still to come."""
        return bool(self.evaluator.jobs) or (self.phase == "stop" and self.context.config.eval.episodes > 0)

    def _want_stop(self, status: str) -> None:
        """Stop now, or at the end of the round in a deterministic run, so that it resumes bit for bit."""
        if self.context.config.deterministic and self.phase == "train":
            self.requested_stop = self.requested_stop or status
        else:
            self._begin_stop(status)

    def _begin_stop(self, status: str) -> None:
        """Enter the stop phase and request the last state of every role."""
        self.status, self.phase = status, "stop"
        self.stop_reason = self.stop_reason or status
        if status == "interrupted":
            self.evaluator.cancel()  # it may take longer than the time left after the signal
        self.recorder.end()
        self.checkpoints.expect_final()
        for group in self.context.topology.groups:
            self.send(group.learner, Kind.STOP, version=self.engine.version)
        self.final_state_timeout = Interval(FINAL_STATE_TIMEOUT)

    def _all_is_said(self) -> bool:
        """Return whether all last states have arrived, or waiting for the missing ones has timed out."""
        snapshots = self.checkpoints
        return snapshots.all_final() or (
            self.final_state_timeout.due() and not snapshots.needs_more_final(self.engine.version)
        )

    def _after_stop(self) -> None:
        """Write the final checkpoint and begin the final evaluation."""
        missing = self.checkpoints.missing_final()
        if missing:
            logger.warning(
                "no final state arrived from %s within %.0f s", ", ".join(missing), FINAL_STATE_TIMEOUT
            )
        state = self.checkpoints.write_final(self.engine.version, self._state())
        self.phase = "evaluate"
        self.evaluator.videos.end_training(finished=self.status == "finished")
        if state is not None and self.context.config.eval.episodes and self.status == "finished":
            self.evaluator.request(
                state["engine"]["optimizer"]["parameters"], self.engine.version, self._on_evaluation
            )

    def _finish(self) -> None:
        """Write the summary and send every rank its exit code."""
        error = self.checkpoints.close()
        if self.checkpoints.newly_written():
            self._notify("on_checkpoint")
        self._notify("on_end")
        self.recorder.finish(self.engine, self.status, error, self.callbacks.errors)
        code = self._exit_code(error)
        if error is not None and error != self.checkpoints.not_written:  # not_written is already logged
            kept = self.checkpoints.writer.last_version
            kept = self.checkpoints.resumed_version if kept is None else kept
            good = "no good one exists" if kept is None else f"the last good one is of version {kept}"
            logger.error("the last checkpoint is not written, %s: %s", good, error)
        # The EXIT of a replaced worker is relayed by its actor's rank, that of an actor by its learner's.
        order: dict[tuple[str, ...], int] = {("worker",): 0, ("actor",): 1}
        roles_of = self.context.topology.roles_of
        for rank in sorted(
            range(self.context.topology.size), key=lambda rank: order.get(roles_of(rank), len(order))
        ):
            self.send(rank, Kind.EXIT, exit_code=code)
        self.phase, self.finished = "done", True

    def _exit_code(self, error: str | None) -> int:
        """Return the exit code of the job.

        EXIT_SUCCESS means that nothing was lost. EXIT_TRY_AGAIN means that a good checkpoint exists to resume
        from.
        """
        if self.status == "finished":
            return EXIT_SUCCESS if error is None else EXIT_FAILURE
        if error is None or (self.checkpoints.writer.last_error is None and self.checkpoints.resumable):
            return EXIT_TRY_AGAIN
        return EXIT_FAILURE

    def _state(self) -> dict[str, Any]:
        state = {"engine": self.engine.state_dict(), "recorder": self.recorder.state_dict()}
        own = self.callbacks.state_dict()
        return state | {"callbacks": own} if own else state

    def close(self) -> None:
        self.recorder.close()
        self.checkpoints.close()
