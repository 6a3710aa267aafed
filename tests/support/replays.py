"""Gradients recorded at the server of a run, and replayed to an engine or to AllReduce replicas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from hpcmarl.config import AdamConfig, NigtConfig
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.base import Optimizer
from hpcmarl.optim.rounds import Accept, Engine, Publish, RoundRule, make_rule
from hpcmarl.roles.learner.optimizer_replica import OptimizerReplica
from hpcmarl.types import Gradient, Part
from tests.support.worlds import run_world

OPTIMIZERS = {
    "rennala": NigtConfig(critic_step_size=0.1),
    "malenia": NigtConfig(normalise="policy"),
    "sync": AdamConfig(critic_step_size=0.003, max_gradient_norm=0.1, critic_max_gradient_norm=0.05),
}


@dataclass
class Trace:
    """Input of a rule: the gradients in their order of arrival, and the initial parameters."""

    rule: str
    groups: int
    batch: int
    gradients: list[Gradient]
    start: np.ndarray

    def new_rule(self) -> RoundRule:
        """Return the rule in its initial state."""
        return make_rule(self.rule, self.groups, self.batch)

    def save(self, path: Path) -> None:
        """Write the trace to a file for other processes."""
        rows = [(each.group, each.version, each.count) for each in self.gradients]
        vectors = np.array([each.vector for each in self.gradients])
        np.savez(
            path,
            rule=self.rule,
            groups=self.groups,
            batch=self.batch,
            rows=rows,
            vectors=vectors,
            start=self.start,
        )


def load_trace(path: str) -> Trace:
    """Read a trace from a file of `Trace.save`."""
    held = np.load(path)
    rows = zip(held["rows"].tolist(), held["vectors"], strict=True)
    gradients = [
        Gradient(group, version, count, vector, 0, 0, 0.0) for (group, version, count), vector in rows
    ]
    return Trace(str(held["rule"]), int(held["groups"]), int(held["batch"]), gradients, held["start"])


def record(directory: Path, rule: str, groups: int, batch: int, updates: int = 6) -> Trace:
    """Record the gradients that reach the rule of a server.

    The run has virtual ranks: a dedicated server, and one learner without actors per group.
    """
    trace = Trace(rule, groups, batch, [], np.empty(0))
    handle = Engine.on_gradient

    def keep(engine: Engine, gradient: Gradient) -> Any:
        trace.start = trace.start if trace.start.size else engine.optimizer.parameters.copy()
        trace.gradients.append(replace(gradient, vector=np.array(gradient.vector)))
        return handle(engine, gradient)

    changes = (
        f"rounds.rule={rule}",
        f"rounds.batch={batch}",
        f"topology.groups={groups}",
        f"stop.updates={updates}",
    )
    with mock.patch.object(Engine, "on_gradient", keep):
        run_world(
            groups + 1,
            directory,
            *changes,
            "topology.actors_per_learner=0",
            "topology.server=dedicated",
            order=4,
        )
    return trace


def new_optimizer(trace: Trace, dtype: Any) -> Optimizer:
    """Return an optimizer at the start of the trace.

    The first half of the parameters belongs to two actors, the second half to a critic.
    """
    size = trace.start.size
    places = (slice(0, size // 4), slice(size // 4, size // 2), slice(size // 2, size))
    parts = [
        Part("one", "actor", places[0]),
        Part("other", "actor", places[1]),
        Part("other", "critic", places[2]),
    ]
    return make_optimizer(OPTIMIZERS[trace.rule], trace.start.astype(dtype), parts)


def server_result(trace: Trace, dtype: Any) -> np.ndarray:
    """Return the parameters after the trace if a server sums the gradients."""
    engine = Engine(trace.new_rule(), new_optimizer(trace, dtype))
    for gradient in trace.gradients:
        engine.on_gradient(gradient)
    assert engine.version > 0
    return engine.optimizer.parameters


def new_replica(trace: Trace, group: int, start_sum: Any, dtype: Any, device: Any = None) -> OptimizerReplica:
    """Return the replica of a learner outside a run.

    Its gradients are summed on `device`; None: as arrays.
    """
    context: Any = SimpleNamespace(
        transport=SimpleNamespace(start_sum=start_sum, sum_device=device),
        trace=None,
        rule=trace.new_rule,
        optimizer=lambda _: new_optimizer(trace, dtype),
    )
    algorithm: Any = SimpleNamespace(size=trace.start.size, device=device)
    return OptimizerReplica(context, algorithm, group)


def play(trace: Trace, replica: OptimizerReplica) -> Iterator[None]:
    """Pass the gradients of its group to a replica; yield while it waits for the other groups."""
    rule = trace.new_rule()
    for gradient in trace.gradients:
        for command in rule.on_gradient(gradient.group, gradient.version, gradient.count):
            if isinstance(command, Accept) and gradient.group == replica.group:
                replica.add(gradient.vector, gradient.count)
            elif isinstance(command, Publish):
                replica.close_round(command.version)
                while replica.poll() is None:
                    yield


def idle_learners(trace: Trace) -> int:
    """Count the (round, group) pairs in which a learner had no gradient to add."""
    rule, busy, idle = trace.new_rule(), set(), 0
    for gradient in trace.gradients:
        for command in rule.on_gradient(gradient.group, gradient.version, gradient.count):
            if isinstance(command, Accept):
                busy.add(gradient.group)
            elif isinstance(command, Publish):
                idle += trace.groups - len(busy)
                busy.clear()
    return idle
