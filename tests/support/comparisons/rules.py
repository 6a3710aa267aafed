"""Comparisons of the round rules: literal references, exact limits, counted times, and mean directions.

Mean directions come from whole runs of REINFORCE on virtual ranks in ShortOrLong. The gradient there is p (1
- p) (2 - 1), because a short episode earns 1 and a long one 2. The bound is four standard errors: the
estimate of one episode has the standard deviation 0.75, and a round of M averages at least M episodes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.config import SgdConfig
from hpcmarl.config.file import load_simulation
from hpcmarl.maths import round_times
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.rounds import Close, Engine, make_rule
from hpcmarl.sim.cluster import Cluster
from hpcmarl.types import Gradient
from tests.reference.rounds import Delivery, counted_time, directions
from tests.support.admission import TWO_GROUPS, slope
from tests.support.comparisons.base import compared

Pair = tuple[Any, Any]
# standard deviation of one episode's estimate: 2 · 0.5 for a long one, 1 · (-0.5) for a short one
DEVIATION = 0.75
SIZE, DELIVERIES = 3, 80

# ---- literal references


def _engine(rule: str, seed: int, *, all_begun: bool = False) -> Pair:
    """Pass random deliveries, some of them late, to an engine, and the same deliveries to the reference."""
    generator = np.random.default_rng(seed)
    groups = int(generator.integers(2 if all_begun else 1, 5))
    batch = int(generator.integers(groups, 13))
    engine = Engine(
        make_rule(rule, groups, batch, all_begun=all_begun),
        make_optimizer(SgdConfig(step_size=1.0), np.zeros(SIZE)),
    )
    played: list[Delivery] = []
    course = [engine.optimizer.parameters.copy()]

    def deliver(group: int, version: int) -> list[Any]:
        count, vector = int(generator.integers(1, 4)), generator.normal(size=SIZE)
        played.append(Delivery(group, version, count, vector))
        return engine.on_gradient(Gradient(group, version, count, vector))

    for _ in range(DELIVERIES):
        version, before = max(0, engine.version - int(generator.integers(0, 2))), engine.version
        closing = any(
            isinstance(command, Close) for command in deliver(int(generator.integers(groups)), version)
        )
        if closing:
            for group in generator.permutation(groups).tolist():
                for _ in range(int(generator.integers(0, 3))):
                    deliver(group, engine.version)
                played.append(Delivery(group, engine.version, 0, None))
                engine.on_closed(group, engine.version)
        if engine.version > before:
            course.append(engine.optimizer.parameters.copy())
    return np.diff(course, axis=0), np.array(
        directions(rule, groups, batch, played, all_begun=all_begun)
    ).reshape(-1, SIZE)


def _literal(rule: str, title: str, *, all_begun: bool = False) -> None:
    def literal(seed: int) -> Pair:
        return _engine(rule, seed, all_begun=all_begun)

    compared(
        "rule",
        title,
        "directions of a server's rounds",
        "`tests/reference/rounds.py`",
        bound=1e-12,
        cases=100,
        few=20,
    )(literal)


ALL_BEGUN = "rennala, all_begun"
for _rule in ("sync", "rennala", "malenia", "afedpg"):
    _literal(_rule, _rule)
_literal("rennala", ALL_BEGUN, all_begun=True)

# ---- exact limits


def quadratic_limit(rule: str, batch: int) -> float:
    """Return the point at which a simulated rule settles on two quadratics with optima 2 and 0.

    The workers take 1 and 10 units of time per gradient.
    """
    text = (
        "sim: {workers: 2, compute_times: [1, 10], stop: {time: 20000}}\nobjective: {name: quadratics, "
        "optima: [2, 0], start: 1.5}\n"
    )
    changes = (f"rounds={{rule: {rule}, batch: {batch}}}", "optimizer={name: sgd, step_size: 0.03}")
    cluster = Cluster(load_simulation(text, changes), 0)
    while cluster.ended is None:
        cluster.run(997)
    course = cluster.trace.arrays()
    return float(course["parameter_mean"][course["time"] > 15_000].mean())


LIMITS = {
    "sync": (4, 1.0, "1"),
    "malenia": (20, 1.0, "1"),
    "afedpg": (1, 20 / 11, "20/11"),
    "rennala": (20, 1.9, "19/10"),
}


def _limit(rule: str) -> None:
    batch, limit, name = LIMITS[rule]

    def settled(seed: int) -> Pair:
        return quadratic_limit(rule, batch), limit

    against = f"exact solution {name}: optima 2 and 0, workers that take 1 and 10"
    compared("rule", rule, "limit on two quadratics, simulated", against, bound=1e-3, unit="run")(settled)


for _rule in LIMITS:
    _limit(_rule)

# ---- times


def _workers(seed: int) -> tuple[list[float], int]:
    generator = np.random.default_rng(seed)
    compute = generator.uniform(0.05, 20.0, int(generator.integers(1, 9))).tolist()
    return compute, len(compute) + int(generator.integers(0, 41))


@compared(
    "rule",
    "rennala",
    "time of a round of fixed workers",
    "counting, trajectory by trajectory",
    bound=1e-12,
    cases=300,
    few=30,
)
def rennala_time(seed: int) -> Pair:
    """Compare the round time of Rennala with counting."""
    compute, batch = _workers(seed)
    return round_times.rennala_time(compute, batch), counted_time(
        compute, lambda counts: sum(counts) >= batch
    )


@compared(
    "rule",
    "malenia",
    "time of a round of fixed workers",
    "counting, trajectory by trajectory",
    bound=1e-12,
    cases=300,
    few=30,
)
def malenia_time(seed: int) -> Pair:
    """Compare the round time of Malenia with counting."""
    compute, batch = _workers(seed)
    n = len(compute)
    wanted = counted_time(
        compute,
        lambda counts: min(counts) > 0 and n / sum(1 / count for count in counts) >= batch / n * (1 - 1e-9),
    )
    return round_times.malenia_time(compute, batch), wanted


def _excess(time: float, bound: float) -> Pair:
    """Return a pair to compare: 1 plus the relative excess of a time over its bound, and 1.

    Without excess both are 1.
    """
    return [1.0 + max(0.0, time / bound - 1.0)], [1.0]


@compared(
    "rule",
    "rennala",
    "excess of the round time over its bound",
    "`min_m (M+m)/Σ_{i≤m} 1/h_i`",
    bound=1e-12,
    cases=300,
    few=30,
)
def rennala_bound(seed: int) -> Pair:
    """Compare the round time of Rennala with its bound."""
    compute, batch = _workers(seed)
    ordered = sorted(compute)
    bound = min((batch + m) / sum(1 / h for h in ordered[:m]) for m in range(1, len(ordered) + 1))
    return _excess(round_times.rennala_time(compute, batch), bound)


@compared(
    "rule",
    "malenia",
    "excess of the round time over its bound",
    "`max{h_n, 2(M/n)·mean(h)}`",
    bound=1e-12,
    cases=300,
    few=30,
)
def malenia_bound(seed: int) -> Pair:
    """Compare the round time of Malenia with its bound."""
    compute, batch = _workers(seed)
    return _excess(
        round_times.malenia_time(compute, batch),
        max(max(compute), 2 * batch / len(compute) * float(np.mean(compute))),
    )


# ---- mean directions of REINFORCE

CLOSED_FORM = "closed form p(1−p)(2−1) = 1/4"


def _direction(rule: str, title: str, size: int, batch: int, updates: int, *changes: str) -> None:
    """Add a comparison of the mean direction of a run's rounds with the gradient."""

    def measured(seed: int) -> Pair:
        with tempfile.TemporaryDirectory() as directory:
            overrides = (f"rounds.rule={rule}", f"rounds.batch={batch}", f"seed={seed}", *changes)
            return slope(Path(directory), size, *overrides, updates=updates, order=seed + 1)

    bound = 4 * DEVIATION / np.sqrt(batch * updates)
    quantity = "mean direction of REINFORCE, short and long episodes"
    compared(
        "rule", title, quantity, CLOSED_FORM, bound=bound, unit="episodes", each=batch * updates, runs=True
    )(measured)


_direction("sync", "sync", 3, 32, 60)
_direction("rennala", ALL_BEGUN, 2, 32, 40, TWO_GROUPS, "rounds.admission=all_begun")
_direction("malenia", "malenia", 2, 32, 60, TWO_GROUPS)
_direction("afedpg", "afedpg", 2, 1, 1000, TWO_GROUPS)


UNEQUAL = "topology.groups=[{}, {env: {kwargs: {reward: 4.0, steps: 3}}}]"
HALF = 16  # half a batch: the smallest harmonic mean of both groups' counts


@compared(
    "rule",
    "malenia",
    "mean direction of REINFORCE, groups of unequal games",
    "closed form ½ p(1−p)(2−1) + ½ p(1−p)(4−1) = 1/2",
    bound=4 * np.sqrt((DEVIATION**2 + 1.25**2) / (4 * HALF * 60)),
    unit="episodes",
    each=2 * HALF * 60,
    runs=True,
)
def malenia_unequal(seed: int) -> Pair:
    """Compare Malenia's mean direction for two groups with different games with the closed form.

    In one group, long episodes earn 4 after three steps, so more of its episodes arrive than of the other's.
    """
    with tempfile.TemporaryDirectory() as directory:
        changes = (UNEQUAL, "rounds.rule=malenia", f"rounds.batch={2 * HALF}", f"seed={seed}")
        found, _ = slope(Path(directory), 2, *changes, updates=60, order=seed + 1)
    return found, 0.5


@compared(
    "rule",
    "rennala, first_finished",
    "mean direction of REINFORCE; biased by design, the gradient is +1/4",
    "closed form −1/2: only short episodes count",
    bound=0.05,
    unit="episodes",
    each=240,
    runs=True,
)
def first_finished(seed: int) -> Pair:
    """Compare Rennala's biased mean direction with its closed form.

    32 episodes begin, and the first 4 to finish count. It is practically impossible that fewer than 4 of them
    are short.
    """
    with tempfile.TemporaryDirectory() as directory:
        found, _ = slope(
            Path(directory),
            2,
            TWO_GROUPS,
            "rounds.rule=rennala",
            "rounds.batch=4",
            f"seed={seed}",
            updates=60,
        )
    return found, -0.5
