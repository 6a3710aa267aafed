"""Predict the throughput of each round rule for other numbers or mixes of nodes from a measured run.

`fit` reads the columns of a run's metrics (written by roles/timing.py); `predict` drives the simulator with
them. One worker of the simulator stands for one group. One of its trajectories stands for as many
trajectories as the smallest group makes at once, because slots that are stepped together finish together.

Symbol -> name: h_i -> seconds per trajectory of group i, kappa_i -> exchange_seconds, M -> batch, n ->
groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcmarl.config import Config, batch_of, counts_episodes
from hpcmarl.config.simulation import SimulationConfig
from hpcmarl.errors import UsageError
from hpcmarl.sim.cluster import Cluster
from hpcmarl.sim.continuing import Continuing
from hpcmarl.sim.running import run_one
from hpcmarl.types import Array

FEWEST = 3  # timed trajectories that each group needs
# coefficient of variation up to which times count as constant
SMALLEST_VARIATION = 0.005
# first fraction of a run that its own throughput leaves out, because start-up is not part of a steady state
WARM_UP = 0.2
ROUNDS, EVENTS = 400, 300_000  # approximate upper limits for the length of a simulation
# a plainer rule is preferred if its rate is within this fraction of the best
MARGIN = 0.05
PLAIN_FIRST = ("sync", "rennala", "afedpg")
REMEDY = (
    "record a longer run with this version and rounds.rule: sync, in which every group finishes trajectories"
)


@dataclass(frozen=True)
class GroupTime:
    """Measured times of one group.

    Attributes:
        slots: Trajectories that the group makes at once.
        trajectory_seconds: Mean time of a trajectory in one slot.
        spread_seconds: Standard deviation of that time.
        gradient_seconds: Time of the learner for the gradient of one trajectory.
        exchange_seconds: Round trip between group and server, kappa.
    """

    slots: int
    trajectory_seconds: float
    spread_seconds: float
    gradient_seconds: float
    exchange_seconds: float

    @property
    def seconds(self) -> float:
        """Seconds per trajectory (h): of all slots together, or of the learner if it is slower."""
        return max(self.trajectory_seconds / self.slots, self.gradient_seconds)


@dataclass(frozen=True)
class Measured:
    """Measured times and settings of a run.

    Attributes:
        groups: Times of each group.
        server_seconds: Time of the server for one gradient.
        rule: `rounds.rule` of the run.
        share: Trajectories per group and round.
        late: `rounds.late` of the run.
        admission: `rounds.admission` of the run.
        continues: Off-policy: unfinished work continues when a new point arrives.
        differ: Groups have different environments.
        rate: Trajectories per second of the run itself; NaN if it has too few rows.
        round_seconds: Seconds per round of the run itself; NaN if it has too few rows.
    """

    groups: tuple[GroupTime, ...]
    server_seconds: float
    rule: str
    share: float
    late: str
    admission: str
    continues: bool
    differ: bool
    rate: float
    round_seconds: float


@dataclass(frozen=True)
class Slow:
    """A fraction of the groups whose trajectories take `factor` times as long."""

    share: float
    factor: float

    @classmethod
    def parse(cls, text: str) -> Slow:
        """Parse a text such as "0.1:10x".

        Raises:
            UsageError: If the text is not SHARE:FACTORx with a share from 0 to 1 and a factor above 0.
        """
        share, colon, factor = text.partition(":")
        try:
            slow = cls(float(share), float(factor.removesuffix("x")))
        except ValueError:
            slow = cls(math.nan, math.nan)
        if not (colon and 0 <= slow.share <= 1 and 0 < slow.factor < math.inf):
            raise UsageError(
                f"--slow {text}: allowed: SHARE:FACTORx with a share from 0 to 1 and a factor above 0, for "
                "instance 0.1:10x"
            )
        return slow


def fit(
    columns: Mapping[str, Array], config: Config, source: str, figures: Mapping[str, Array], versions: Array
) -> Measured:
    """Read the times of a run from its metrics.

    Args:
        columns: Columns of metrics.csv.
        config: Configuration of the run.
        source: Name of the run, with which errors begin.
        figures: Figures of single groups in metrics.h5, [R, G].
        versions: Versions of the rows of `figures`, [R].

    Returns:
        The measured times and the settings that predictions need.

    Raises:
        UsageError: If the run has no or too few timed trajectories. Also if gradients are made of replayed
            episodes: the rate of new episodes then says little about the rate of rounds.
    """
    if config.algo.replay_section is not None:
        raise UsageError(
            f"{source}: no prediction is possible: with algo.name: {config.algo.name} rounds consist of "
            "replayed episodes, not of new ones; predict from a run of an algorithm without replay"
        )
    names = (
        "slots",
        "trajectory_seconds",
        "trajectory_spread_seconds",
        "gradient_seconds",
        "exchange_seconds",
        "timed_trajectories",
    )
    count = len(config.topology.group_list)
    table = {name: [_newest(_of_group(figures, name, group)) for group in range(count)] for name in names}
    for group, timed in enumerate(table["timed_trajectories"]):
        if not timed >= FEWEST or not all(table[name][group] > 0 for name in names[:2]):
            have = "no" if math.isnan(timed) else f"only {timed:.0f}"
            raise UsageError(
                f"{source}: no timing data to predict from: {have} finished trajectories of group {group} "
                f"were timed; {REMEDY}"
            )
    known = [value for value in table["exchange_seconds"] if math.isfinite(value)]
    if not known:
        raise UsageError(
            f"{source}: no timing data to predict from: no group has sent a gradient for a new version; "
            f"{REMEDY}"
        )
    rounds, batch = config.rounds, batch_of(config, [int(slots) for slots in table["slots"]])
    # algorithms with unrolls correct for staleness; those with whole episodes do not
    continues = not counts_episodes(config)
    exchanges = [
        value if math.isfinite(value) else float(np.mean(known)) for value in table["exchange_seconds"]
    ]
    # The others wait for a slow group, which therefore has no trajectory ready: even its shortest exchange
    # includes one. So the shortest exchange of all groups counts.
    if continues or rounds.late == "ignore":
        exchanges = [min(known)] * count
    groups = tuple(
        GroupTime(int(slots), seconds, np.nan_to_num(spread), np.nan_to_num(learning), exchange)
        for slots, seconds, spread, learning, exchange in zip(
            *(table[name] for name in names[:4]), exchanges, strict=True
        )
    )
    share = float(batch) if rounds.rule == "afedpg" else batch / count
    differ = any(group.env != config.topology.group_list[0].env for group in config.topology.group_list)
    # a gradient consists of at least one trajectory, or of one unroll of each environment of an actor
    share = max(share, config.topology.environments_per_actor if continues else 1.0)
    server = float(np.nan_to_num(_newest(columns.get("server/gradient_seconds", ()))))
    return Measured(
        groups,
        server,
        str(rounds.rule),
        share,
        rounds.late,
        rounds.admission,
        continues,
        differ,
        *_own_figures(columns, figures, versions),
    )


def _of_group(figures: Mapping[str, Array], name: str, group: int) -> Array:
    """Return the column of one group; empty if the figure does not exist for it."""
    column = np.asarray(figures.get(name, np.empty((0, 0))))
    return column[:, group] if group < column.shape[1] else np.empty(0)


def _newest(column: Any) -> float:
    """Return the last finite value of a column; NaN if none exists."""
    values = np.asarray(column, dtype=np.float64)
    values = values[np.isfinite(values)]
    return float(values[-1]) if values.size else math.nan


def _own_figures(
    columns: Mapping[str, Array], figures: Mapping[str, Array], group_versions: Array
) -> tuple[float, float]:
    """Measure the throughput of the run itself, after its warm-up and once every group has delivered.

    Returns:
        Trajectories per second and seconds per round; NaN if the run has too few rows.
    """
    rows = [
        np.asarray(columns.get(name, ()), dtype=np.float64)
        for name in ("seconds", "version", "used_trajectories")
    ]
    if min(map(len, rows)) < 2:
        return math.nan, math.nan
    seconds, versions, used = rows
    complete = -math.inf  # version by which every group has delivered
    if "trajectories" in figures:
        delivered = np.asarray(figures["trajectories"]).min(axis=1) > 0
        complete = float(group_versions[int(np.argmax(delivered))]) if delivered.any() else math.inf
    warm = (seconds >= WARM_UP * seconds[-1]) & (versions >= complete)
    first = min(int(np.argmax(warm)), len(seconds) - 2) if warm.any() else len(seconds) - 2
    # The last row is written at the end of the run, possibly in the middle of a round. All other rows are
    # written at the end of a round.
    last = len(seconds) - (2 if len(seconds) - first > 2 else 1)
    passed, rounds = seconds[last] - seconds[first], versions[last] - versions[first]
    if passed <= 0 or rounds <= 0:
        return math.nan, math.nan
    return float((used[last] - used[first]) / passed), float(passed / rounds)


def seconds_of(measured: Measured, groups: int, slow: Slow | None) -> Array:
    """Return the seconds per trajectory of each group of a planned run, [groups].

    Args:
        measured: Times of the measured run, whose groups are repeated in turn.
        groups: Number of groups.
        slow: Share of slower groups, rounded, at least one group; the last groups are slowed.
    """
    seconds = np.array([measured.groups[index % len(measured.groups)].seconds for index in range(groups)])
    if slow is not None and slow.share > 0:
        seconds[groups - max(1, round(slow.share * groups)) :] *= slow.factor
    return seconds


def simulation(measured: Measured, rule: str, seconds: Array) -> tuple[SimulationConfig, float]:
    """Make the configuration of the simulation that predicts one rule.

    Args:
        measured: Times and settings of the measured run.
        rule: Round rule to predict.
        seconds: Seconds per trajectory of each group, [groups].

    Returns:
        The configuration, and the number of trajectories for which one simulated trajectory stands.
    """
    groups, share = len(seconds), measured.share
    together = min(group.slots for group in measured.groups)
    each = max(1, math.ceil(share / together - 1e-9))
    trajectories = {"sync": groups * math.ceil(share - 1e-9), "afedpg": math.ceil(share - 1e-9)}.get(
        rule, math.ceil(share * groups - 1e-9)
    )
    batch = {"sync": groups * each, "afedpg": each}.get(rule, max(1, math.ceil(trajectories / together)))
    batch = max(batch, groups) if rule == "malenia" else batch
    queue = 0.0 if rule == "afedpg" else measured.server_seconds * (groups - len(measured.groups))
    exchanges = [
        max(0.0, measured.groups[index % len(measured.groups)].exchange_seconds + queue)
        for index in range(groups)
    ]
    block = together * seconds
    variation = float(
        np.sqrt(
            np.mean([(group.spread_seconds / group.trajectory_seconds) ** 2 for group in measured.groups])
        )
    )
    noise = (
        {"noise": "lognormal", "noise_spread": math.sqrt(math.log1p(variation**2))}
        if variation > SMALLEST_VARIATION
        else {}
    )
    longest = each * float(block.max()) + max(exchanges)
    time = max(20 * longest, min(ROUNDS * longest, EVENTS / float(np.sum(1.0 / block))))
    sim = {
        "workers": groups,
        "compute_times": {"values": block.tolist(), **noise},
        "communication_times": {"values": exchanges},
        "stop": {"time": time},
    }
    late = "cancel" if measured.continues else measured.late
    rounds = {"rule": rule, "batch": batch, "late": late} | (
        {"admission": measured.admission} if rule == "rennala" else {}
    )
    config = SimulationConfig.model_validate({"rounds": rounds, "sim": sim})
    return config, trajectories / batch


def predict(
    measured: Measured, groups: int, rules: Sequence[str], slow: Slow | None = None
) -> dict[str, Any]:
    """Predict the throughput of each rule.

    Args:
        measured: Times and settings of the measured run.
        groups: Number of groups.
        rules: Rules to predict.
        slow: Share of slower groups; None: all groups keep their speed.

    Returns:
        By rule: trajectories_per_second, round_seconds, and efficiency (relative to the rate of all groups if
        none ever waited).
    """
    seconds = seconds_of(measured, groups, slow)
    possible = float(np.sum(1.0 / seconds))
    predictions: dict[str, Any] = {}
    for rule in rules:
        config, worth = simulation(measured, rule, seconds)
        figures = run_one(config, 0, kind=Continuing if measured.continues else Cluster).figures
        rate, round_seconds = worth * figures["gradients_per_time"], figures["round_time_mean"]
        # Rounds of afedpg overlap, so the time between steps counts. The server makes one step at a time.
        if rule == "afedpg":
            steps = figures["rounds"] / figures["time"]
            bounded = min(steps, 1.0 / measured.server_seconds) if measured.server_seconds else steps
            rate, round_seconds = rate * bounded / steps, 1.0 / bounded
        predictions[rule] = {
            "trajectories_per_second": rate,
            "round_seconds": round_seconds,
            "efficiency": rate / possible,
        }
    return predictions


def best_rule(found: Mapping[str, Mapping[str, float]], *, differ: bool) -> tuple[str, str]:
    """Return the recommended rule and the reason in one line.

    Only rules that maximise the right objective are candidates. Among those within MARGIN of the highest
    rate, the plainest wins.

    Args:
        found: Result of `predict`.
        differ: Groups have different environments.
    """
    if differ:
        fair = [rule for rule in ("sync", "malenia") if rule in found] or list(found)
        reason = "groups have different environments, and only sync and malenia weight them equally"
    else:
        fair = [rule for rule in PLAIN_FIRST if rule in found] or list(found)
        reason = "all groups have the same environment, so malenia has nothing to balance"
    rates = {rule: found[rule]["trajectories_per_second"] for rule in fair}
    fastest = max(rates.values())
    chosen = next(rule for rule in fair if rates[rule] >= (1.0 - MARGIN) * fastest)
    comparison = (
        "the highest rate"
        if rates[chosen] == fastest
        else f"within {100 * MARGIN:.0f} % of the highest rate, with a plainer rule"
    )
    return chosen, f"{reason}; {rates[chosen]:.4g} trajectories per second are {comparison}"
