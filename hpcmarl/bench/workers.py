"""Compare actors that step their environments themselves with actors and workers, on equal ranks.

One MPI job for each number of workers plays short runs. The server and the learner have ranks of their own,
and the learner drops all rollouts, so that only acting is measured. With W workers, 1 + W ranks act:

    fused    1 + W actors with the same number of environments each
    workers  one actor whose W workers step the same number of environments in all

The actor with workers infers once with each library: numpy, torch, and torch on `device` if --device names
one. Figures without the name of a library are those of topology.inference: auto.

The bare rate is that of W ranks that only step environments, all at once.

A second table slows the learner or the workers ten times and shows the rates of interaction and updates.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.bench.faults.jobs import Job
from hpcmarl.bench.runs import Stage, on_stage
from hpcmarl.config import Config, InferenceSetting
from hpcmarl.config.file import load_config
from hpcmarl.envs import Seeds
from hpcmarl.envs.bare import make_bare, step_bare
from hpcmarl.errors import HpcmarlError, UsageError
from hpcmarl.placement import wants_cuda
from hpcmarl.roles.efficiency import BARE_SEED
from hpcmarl.training import join_world

NETWORKS = {
    "mlp-64-64": "{hidden: [64, 64], body: mlp}",
    "gru-256": "{hidden: [256], body: gru}",
    "mlp-1024-1024": "{hidden: [1024, 1024], body: mlp}",
}
COSTLY = "hpcmarl.envs.games.costly:parallel_env"
ENVIRONMENTS = {
    "busy-10us": "{seconds: 10.0e-6}",
    "busy-300us": "{seconds: 300.0e-6}",
    "waiting-5ms": "{seconds: 5.0e-3, waits: true}",
    "waiting-1-to-50ms": "{seconds: 1.0e-3, longest: 50.0e-3, waits: true}",
}
SPREAD = "simple-spread"  # natively batched
SERVERS = 2  # ranks that do not act: server and learner
BASE = """
name: bench-workers
algo: {name: ma_trace, unroll: 4, critic: independent, critic_network: {hidden: [8]}}
rounds: {rule: sync, batch: 1000000}
trajectories: {enabled: false}
eval: {episodes: 0}
checkpoint: {every_seconds: null}
logging: {progress: false, level: warning}
topology: {server: dedicated, heartbeat_timeout_seconds: null, actors_per_learner: 1}
"""
START_SECONDS = 300.0  # most time for the ranks of a job to start and to end
WARM_UP = 0.3  # share of a run that is not counted
DECOUPLED = {
    "off-policy (qmix)": (
        "algo={name: qmix, network: {hidden: [64], body: mlp}, replay: {learning_starts: 64}}",
        "rounds.batch=32",
    ),
    "on-policy (ma_trace, rounds.backpressure)": (
        "algo={name: ma_trace, unroll: 25}",
        "rounds={batch: 32, backpressure: true}",
    ),
}
SLOWNESS = 10


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        network: Key of NETWORKS.
        environment: Key of ENVIRONMENTS, or SPREAD.
        workers: Number of workers, W.
        environments: Environments for each rank that acts.
        device: Value of the key `device`.
    """

    network: str
    environment: str
    workers: int
    environments: int
    device: str = "cpu"

    @property
    def libraries(self) -> tuple[InferenceSetting, ...]:
        """Values of topology.inference that are compared."""
        return ("numpy", "torch", "device") if wants_cuda(self.device) else ("numpy", "torch")

    def config(self, seconds: float, *, with_workers: bool, inference: InferenceSetting = "auto") -> Config:
        """Return the configuration of a run.

        Args:
            seconds: Duration of the run.
            with_workers: Whether workers step the environments.
            inference: Value of topology.inference.
        """
        acting = 1 + self.workers
        return settings(
            self.environment,
            seconds,
            f"algo.network={NETWORKS[self.network]}",
            f"device={self.device}",
            f"topology.inference={inference}",
            *(
                (
                    f"topology.workers_per_actor={self.workers}",
                    f"topology.environments_per_actor={self.environments * acting}",
                )
                if with_workers
                else (
                    f"topology.actors_per_learner={acting}",
                    f"topology.environments_per_actor={self.environments}",
                )
            ),
        )


def settings(environment: str, seconds: float, *changes: str) -> Config:
    """Return the configuration of a run in one of the environments."""
    env = (
        "env={id: mpe2.simple_spread_v3}"
        if environment == SPREAD
        else f'env={{id: "{COSTLY}", kwargs: {ENVIRONMENTS[environment]}}}'
    )
    return load_config(BASE, [env, f"stop.seconds={seconds}", *changes])


def cases(
    networks: Sequence[str],
    environments: Sequence[str],
    workers: Sequence[int],
    slots: int,
    device: str = "cpu",
) -> list[Case]:
    """Return the rows for names, numbers and a device.

    Raises:
        UsageError: A name is unknown.
    """
    for option, names, known in (
        ("--networks", networks, [*NETWORKS]),
        ("--environments", environments, [*ENVIRONMENTS, SPREAD]),
    ):
        if wrong := [name for name in names if name not in known]:
            raise UsageError(f"{option}: {wrong[0]!r} is unknown; allowed: {', '.join(known)}")
    return [
        Case(network, environment, number, slots, device)
        for network in networks
        for environment in environments
        for number in workers
    ]


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row for a table, with four digits of each number."""
    return {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}


def measure(
    rows: Sequence[Case],
    seconds: float,
    say: Callable[[str], None],
    *,
    decoupled: bool,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure every row in jobs of this benchmark's own.

    Args:
        rows: The rows.
        seconds: Seconds of each run.
        say: Called with a line about each job before it starts.
        decoupled: Whether to measure slow learners and workers, too.
        on_progress: Called before each job, with the numbers of jobs done and of all.

    Returns:
        `rows`, `decoupled` and `seconds`.

    Raises:
        HpcmarlError: A job fails.
    """
    result: dict[str, Any] = {"rows": [], "decoupled": [], "seconds": seconds}
    jobs = [(number, False) for number in sorted({row.workers for row in rows})]
    jobs += [(1, True)] if decoupled else []
    with tempfile.TemporaryDirectory(prefix="hpcmarl-workers-", ignore_cleanup_errors=True) as folder:
        for place, (number, slowed) in enumerate(jobs):
            on_progress(place, len(jobs))
            own = [] if slowed else [row for row in rows if row.workers == number]
            say(f"{ranks_for(number)} ranks: {'slow learners and workers' if slowed else f'{len(own)} rows'}")
            named = {
                "--networks": dict.fromkeys(row.network for row in own),
                "--environments": dict.fromkeys(row.environment for row in own),
            }
            arguments = [word for option, names in named.items() for word in (option, ",".join(names))]
            slots = own[0].environments if own else 1
            arguments += ["--workers", str(number), "--slots", str(slots), "--seconds", str(seconds)]
            arguments += ["--device", own[0].device if own else "cpu"]
            arguments += ["--decoupled" if slowed else "--no-decoupled", "--in-one-world", "--json"]
            job = Job(["bench", "workers", *arguments], Path(folder) / f"{number}-{slowed}.txt")
            code = job.wait(START_SECONDS + (5 * len(own) + 6) * (seconds + 30.0))
            if code != 0:
                raise HpcmarlError(f"bench workers: exit code {code}: {job.closing_lines()}")
            found = _result_in(job.output.read_text(errors="replace"))
            result = {**result, **{name: [*result[name], *found[name]] for name in ("rows", "decoupled")}}
    return result


def _result_in(output: str) -> dict[str, Any]:
    """Return the tables that a job printed.

    Raises:
        HpcmarlError: The output holds none.
    """
    for line in output.splitlines():
        if line.startswith('{"rows"'):
            found: dict[str, Any] = json.loads(line)
            return found
    raise HpcmarlError(f"bench workers: a job printed no result: {output[-500:]}")


def ranks_for(workers: int) -> int:
    """Return the number of ranks of the job for a number of workers."""
    return SERVERS + 1 + workers


def run(rows: Sequence[Case], seconds: float, *, decoupled: bool) -> dict[str, Any] | None:
    """Measure rows of one number of workers on the ranks of this world. Collective.

    Args:
        rows: The rows.
        seconds: Seconds of each run.
        decoupled: Whether to measure slow learners and workers, too.

    Returns:
        The tables on rank 0; None on other ranks.
    """
    transport = join_world()
    result: dict[str, Any] = {"rows": [], "decoupled": [], "seconds": seconds}
    with on_stage(transport) as stage:
        for row in rows:
            result["rows"].append(_measured(stage, row, seconds))
        if decoupled:
            for name in DECOUPLED:
                result["decoupled"] += _slowed(stage, name, seconds)
    return result if transport.rank == 0 else None


def _measured(stage: Stage, case: Case, seconds: float) -> dict[str, Any]:
    """Return one row; its figures are right on rank 0 only. Collective."""
    from hpcmarl.bench.watched_roles import IdleLearner, TimedWorker

    bare = _bare(stage, case, seconds / 3)
    rates, exchange = [], 0.0
    for with_workers in (False, True):
        config = case.config(seconds, with_workers=with_workers)
        stage.play(config, {"learner": IdleLearner, "worker": TimedWorker})
        rates.append(_sum(stage, _rate(stage, seconds)))
        if with_workers:
            exchange = _exchange(stage)
    of_libraries = {}
    for library in case.libraries:
        config = case.config(seconds, with_workers=True, inference=library)
        stage.play(config, {"learner": IdleLearner, "worker": TimedWorker})
        of_libraries[f"workers_{library}_env_steps_per_second"] = _sum(stage, _rate(stage, seconds))
    return {
        "network": case.network,
        "environment": case.environment,
        "workers": case.workers,
        "environments": case.environments * (1 + case.workers),
        "bare_env_steps_per_second": bare,
        "fused_env_steps_per_second": rates[0],
        "workers_env_steps_per_second": rates[1],
        **of_libraries,
        "workers_to_bare": rates[1] / bare if bare else 0.0,
        "workers_to_fused": rates[1] / rates[0] if rates[0] else 0.0,
        "exchange_us_per_worker_step": exchange,
    }


def _bare(stage: Stage, case: Case, seconds: float) -> float:
    """Return the summed rate of as many ranks as there are workers, which only step. Collective."""
    transport = stage.transport
    steps = SERVERS < transport.rank + 1 <= SERVERS + case.workers
    config = case.config(seconds, with_workers=False)
    seeds = Seeds(config.seed, BARE_SEED + transport.rank)
    slots = max(1, case.environments * (1 + case.workers) // (2 * case.workers))
    bare = make_bare(config.env, slots, seeds) if steps else None
    transport.broadcast(b"bare" if transport.rank == 0 else None)  # all ranks start together
    count, took = step_bare(bare, seconds)
    if bare is not None:
        bare.close()
    return _sum(stage, count / took)


def _rate(stage: Stage, seconds: float) -> float:
    """Return the environment steps per second of the last run on the learner's rank; 0 on other ranks."""
    learner: Any = stage.rank.roles.get("learner") if stage.rank is not None else None
    return 0.0 if learner is None else float(learner.rate(WARM_UP * seconds))


def _exchange(stage: Stage) -> float:
    """Return the microseconds of a worker's exchange for each step, of all workers. Collective."""
    worker: Any = stage.rank.roles.get("worker") if stage.rank is not None else None
    spent = 0.0 if worker is None else worker.exchange_seconds
    steps = 0 if worker is None else worker.steps
    return 1e6 * _sum(stage, spent) / max(1.0, _sum(stage, float(steps)))


def _sum(stage: Stage, value: float) -> float:
    """Return the sum of a number over all ranks. Collective."""
    parts = stage.transport.gather(np.float64(value).tobytes())
    return sum(float(np.frombuffer(part, np.float64)[0]) for part in parts)


def _slowed(stage: Stage, name: str, seconds: float) -> list[dict[str, Any]]:
    """Return the rates of one arrangement: nothing slowed, the learner slowed, the workers slowed."""
    from hpcmarl.bench.watched_roles import CountingLearner, SlowLearner, TimedWorker

    rows, delay = [], 0.0
    for slowed in ("nothing", "learner", "workers"):
        config = settings(
            SPREAD,
            seconds,
            *DECOUPLED[name],
            "topology.workers_per_actor=1",
            "topology.environments_per_actor=32",
            f"topology.workers=[{{delay: {{step: {delay if slowed == 'workers' else 0.0}}}}}]",
        )
        learner = SlowLearner if slowed == "learner" else CountingLearner
        began = time.monotonic()
        stage.play(config, {"learner": learner, "worker": TimedWorker})
        if slowed == "nothing":
            delay = (SLOWNESS - 1) * _seconds_per_step(stage, time.monotonic() - began)
        rate = _sum(stage, _rate(stage, seconds))
        recorder = stage.recorder
        updates = 0.0 if recorder is None else recorder.last_row[0] / max(1e-9, recorder.last_row[1])
        rows.append(
            {
                "arrangement": name,
                "slowed": slowed,
                "env_steps_per_second": rate,
                "updates_per_second": _sum(stage, updates),
            }
        )
    return rows


def _seconds_per_step(stage: Stage, seconds: float) -> float:
    """Return the seconds between two steps of a worker in the last run. Collective.

    Raises:
        HpcmarlError: No worker has made a step.
    """
    worker: Any = stage.rank.roles.get("worker") if stage.rank is not None else None
    steps = _sum(stage, 0.0 if worker is None else float(worker.steps))
    if steps == 0:
        raise HpcmarlError("the workers have made no step: raise --seconds")
    return seconds / steps
