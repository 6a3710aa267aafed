"""Measure the cost of one more group on real ranks, and of one more virtual worker.

`hpcmarl bench costs -n RANKS` starts a server and RANKS - 1 groups. Each group is a learner with an actor on
one rank. It sleeps UNIT seconds for every trajectory, so that all other time and CPU time is cost. Memory is
measured as well. `hpcmarl bench costs` starts no ranks. It times the round rules and the simulator with
virtual workers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.bench.runs import Moment, Stage, ends, on_stage
from hpcmarl.bench.stragglers import case
from hpcmarl.config.file import load_simulation
from hpcmarl.errors import UsageError
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.rounds import RULES, Engine, make_rule
from hpcmarl.roles.learner.learner import Learner
from hpcmarl.roles.learner.rollout_source import GradientBatch
from hpcmarl.sim.cluster import Cluster
from hpcmarl.training import join_world
from hpcmarl.types import Array, Gradient

UNIT = 0.2  # seconds of a trajectory
WARM_UP = 4 * UNIT
MEASURED = ("sync", "rennala", "malenia", "afedpg")
VIRTUAL = (10, 100, 1000, 10_000)  # numbers of virtual workers
PARAMETERS = 1000  # length of a virtual worker's gradient
# Virtual workers make at least this many gradients, and at least this many rounds.
LEAST_EVENTS = 20_000
ROUNDS = 3
WORKERS = """name: costs
objective: {name: none}
sim: {compute_times: sqrt, stop: {gradients: 1000000000}}
"""


class MeteredLearner(Learner):
    """Learner that counts its CPU seconds and gradients from the first parameters on.

    Attributes:
        first: Seconds and CPU seconds of this process when the first parameters arrived.
        last: The same at the latest step.
        gradients: Number of gradients so far, one for each trajectory.
    """

    first: tuple[float, float] | None = None
    last = (0.0, 0.0)
    gradients = 0

    def work(self) -> bool:
        if self.version >= 0 and not self.stopping:
            self.last = (time.perf_counter(), time.process_time())
            self.first = self.first or self.last
        return super().work()

    def _learn(self, work: GradientBatch) -> None:
        self.gradients += work.count  # one for each trajectory, as on the server
        super()._learn(work)


def real(seconds: float) -> dict[str, Any] | None:
    """Measure every rule of MEASURED for `seconds` on the ranks of this world. Collective.

    Returns:
        The result on rank 0; None on other ranks.

    Raises:
        UsageError: The world has only one rank.
    """
    transport = join_world()
    if transport.size < 2:
        raise UsageError(
            "bench costs measures a server and at least one group: start two ranks or more: hpcmarl bench "
            "costs -n 4"
        )
    compute = [UNIT] * (transport.size - 1)
    with on_stage(transport) as stage:
        # The first run imports all modules that are loaded late.
        stage.play(case("afedpg", "ma_trace", compute, 60.0, f"stop.updates={2 * transport.size}"))
        rules = {rule: _measure(stage, rule, compute, seconds) for rule in MEASURED}
    if transport.rank != 0:
        return None
    return {"ranks": transport.size, "trajectory_seconds": UNIT, "seconds": seconds, "rules": rules}


def _measure(stage: Stage, rule: str, compute: Sequence[float], seconds: float) -> dict[str, Any]:
    moments = stage.play(case(rule, "ma_trace", compute, seconds), {"learner": MeteredLearner})
    learner: Any = stage.rank.roles.get("learner") if stage.rank is not None else None
    own_sums = np.zeros(3)  # seconds, CPU seconds, gradients
    if learner is not None and learner.first is not None:
        own_sums[:] = (
            learner.last[0] - learner.first[0],
            learner.last[1] - learner.first[1],
            learner.gradients,
        )
    everyone = np.frombuffer(b"".join(stage.transport.gather(own_sums.tobytes()))).reshape(-1, 3)
    return (
        figures(moments, everyone[1:], min(compute)) | {"server_resident_megabytes": resident_megabytes()}
        if moments
        else {}
    )


def figures(moments: Sequence[Moment], learners: Array, unit: float) -> dict[str, float]:
    """Return the figures of one rule.

    Args:
        moments: Ends of rounds on the server.
        learners: Seconds, CPU seconds and gradients of each learner, shape [learners, 3].
        unit: Seconds of a trajectory.

    Returns:
        Rates and CPU shares. `round_overhead_seconds` is the time of a round beyond `unit` for each
        trajectory that it needs from a group.

    Raises:
        HpcmarlError: As `ends` does.
    """
    first, last = ends(moments, WARM_UP)
    elapsed, used, rounds = (
        last.seconds - first.seconds,
        last.used - first.used,
        len([m for m in moments if m.seconds > first.seconds]),
    )
    cpu = last.cpu_seconds - first.cpu_seconds
    seconds, busy, gradients = learners.sum(0)
    return {
        "gradients_per_second": used / elapsed,
        "round_seconds": elapsed / rounds,
        "round_overhead_seconds": elapsed / rounds - unit * used / rounds / len(learners),
        "server_cpu_share": cpu / elapsed,
        "server_cpu_milliseconds_per_gradient": 1e3 * cpu / used,
        "learner_cpu_share": busy / seconds,
        "learner_cpu_milliseconds_per_gradient": 1e3 * busy / gradients,
    }


def resident_megabytes() -> float | None:
    """Return the physical memory of this process (MB); None on systems other than Linux."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next(float(line.split()[1]) * 1.024e-3 for line in status.splitlines() if line.startswith("VmRSS"))


def virtual() -> dict[str, Any]:
    """Time the server's engine and the simulator for each rule and number of virtual workers.

    Returns:
        Rows with microseconds of one gradient: "engine" and "simulator".
    """
    return {
        "engine": [_engine(rule, workers) for rule in RULES for workers in VIRTUAL],
        "simulator": [_cluster(r, n) for r in RULES for n in VIRTUAL],
    }


def _engine(rule: str, workers: int) -> dict[str, Any]:
    """Time the real rule, sum and optimizer with gradients of all workers in turn.

    A round has four trajectories of each worker (sync: one, afedpg: one in all).
    """
    batch = _batch(rule, workers)
    engine = Engine(
        make_rule(rule, workers, batch, None),
        make_optimizer(load_simulation(WORKERS).optimizer, np.zeros(PARAMETERS, np.float32)),
    )
    gradient = Gradient(0, 0, 1, np.ones(PARAMETERS, np.float32))
    events = max(LEAST_EVENTS, ROUNDS * batch)
    began = time.perf_counter()
    for number in range(events):
        gradient.group, gradient.version = number % workers, engine.version
        engine.on_gradient(gradient)
    return _row(rule, workers, events, engine.version, time.perf_counter() - began)


def _cluster(rule: str, workers: int) -> dict[str, Any]:
    """Time the simulator with workers that only count; worker i takes sqrt(i)."""
    batch = _batch(rule, workers)
    changes = [f"rounds.rule={rule}", f"rounds.batch={batch}", f"sim.workers={workers}"]
    cluster = Cluster(load_simulation(WORKERS, changes), 0)
    began = time.perf_counter()
    cluster.run(max(LEAST_EVENTS, ROUNDS * batch))
    return _row(rule, workers, cluster.events, cluster.engine.version, time.perf_counter() - began)


def _batch(rule: str, workers: int) -> int:
    return {"sync": workers, "afedpg": 1}.get(rule, 4 * workers)


def _row(rule: str, workers: int, events: int, rounds: int, seconds: float) -> dict[str, Any]:
    each = {
        "microseconds_per_gradient": 1e6 * seconds / events,
        "milliseconds_per_round": 1e3 * seconds / max(1, rounds),
    }
    return {"rule": rule, "workers": workers, "gradients": events, "rounds": rounds, **each}
