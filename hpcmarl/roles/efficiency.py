"""Efficiency of a run: its speed compared with bare stepping, the time of its roles, and unused work."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcmarl.comm.topology import Topology
from hpcmarl.config import Config
from hpcmarl.envs import Seeds
from hpcmarl.envs.bare import make_bare, step_bare
from hpcmarl.io.judgement import judge, shares_of
from hpcmarl.roles.base import Context

logger = logging.getLogger(__name__)
BARE_SECONDS = 1.0
BARE_SEED = 1_000_000  # first slot number; beyond the slots of a run, so that no run has its seeds


def measure_bare(context: Context, actor: int, group: int) -> float | None:
    """Step a bare environment for a second.

    Only the first actor does so, in runs with `logging.progress`, without a league and without a wrapped
    environment.

    Args:
        context: The run.
        actor: Number of the actor.
        group: Number of the actor's group.

    Returns:
        Environment steps per second of one process with a core of its own. None if not measured, or if the
        environment fails.
    """
    config = context.config
    if actor != 0 or context.game is not None or config.league is not None or not config.logging.progress:
        return None
    slots = config.topology.environments_per_actor
    try:
        bare = make_bare(
            context.group_env(group), slots, Seeds(config.seed, BARE_SEED), context.environment_spec
        )
        with contextlib.closing(bare):
            bare.step()  # some environments compile at their first step
            queued = queued_seconds()
            count, seconds = step_bare(bare, BARE_SECONDS)
            return count / max(1e-9, seconds - (queued_seconds() - queued))
    except Exception as error:  # training handles and reports environments that fail
        logger.debug("bare stepping was not measured: %s", error)
        return None


def queued_seconds() -> float:
    """Return how long this thread has waited for a core, as Linux reports it; 0 elsewhere."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):
        return 0.0


def bare_processes(hosts: Sequence[str], cores: int) -> int:
    """Return how many of the run's ranks can step bare environments at once, each on its own core.

    Args:
        hosts: Host of each rank.
        cores: Cores of a host.
    """
    return sum(min(ranks, cores) for ranks in Counter(hosts).values())


def cores_of_host(ranks: int) -> int:
    """Return the number of cores of this host that the run may use.

    This is the number that this process may use. If that is a single core and the host has several ranks,
    each rank is bound to its own core. The result is then the number of the host's cores.

    Args:
        ranks: Number of ranks on this host.
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return own if own > 1 or ranks == 1 else os.cpu_count() or 1


class Efficiency:
    """Compute efficiency figures from the reports of actors and learners.

    Attributes:
        bare: Environment steps per second of one process that only steps environments; None: not measured.
        processes: Ranks that can step bare environments at once.
    """

    def __init__(self, config: Config, topology: Topology) -> None:
        self.config = config
        self.bare: float | None = None
        ranks = Counter(topology.hosts)[topology.hosts[topology.server]]
        self.processes = bare_processes(topology.hosts, cores_of_host(ranks))
        self.actors = len(topology.actors)
        self.workers = sum(len(topology.workers_of(actor)) for actor in topology.actors)
        self.learners = len(topology.groups)

    @property
    def all_bare(self) -> float | None:
        """Environment steps per second if all cores only stepped environments; None: not measured."""
        return self.bare * self.processes if self.bare else None

    def times(
        self, actors: Mapping[str, float], learners: Mapping[str, float], serving: float, seconds: float
    ) -> dict[str, dict[str, float]]:
        """Return the shares of training time by role.

        Args:
            actors: Sums of the actors' counters.
            learners: Sums of the learners' reports.
            serving: Seconds that the server spent on gradients.
            seconds: Training time, seconds.

        Returns:
            Role -> activity -> share of the role's time.
        """
        of_actors, of_learners = max(1e-9, self.actors * seconds), max(1e-9, self.learners * seconds)
        of_workers = max(1e-9, self.workers * seconds)
        kinds = ("acting", "waiting") if self.workers else ("acting", "environment", "waiting")
        stepping = actors.get("environment_seconds", 0.0)
        return {
            "actors": {kind: actors.get(f"{kind}_seconds", 0.0) / of_actors for kind in kinds},
            **({"workers": {"environment": stepping / of_workers}} if self.workers else {}),
            "learners": {kind: learners[f"{kind}_seconds"] / of_learners for kind in ("learning", "waiting")},
            "server": {"serving": serving / max(1e-9, seconds)},
        }

    def figures(
        self,
        steps_per_second: float,
        unused_steps: float,
        env_steps: float,
        replay_shortfall: float | None,
        times: dict[str, dict[str, float]],
    ) -> dict[str, Any]:
        """Return the efficiency entries of summary.json.

        Args:
            steps_per_second: Environment steps per second of the run.
            unused_steps: Environment steps that no gradient used.
            env_steps: Environment steps of the run.
            replay_shortfall: See ReplayBuffer.statistics; None: no replay.
            times: Result of `times`.
        """
        return {
            "bare_env_steps_per_second": self.bare,
            "bare_processes": self.processes,
            "share_of_bare": None if self.all_bare is None else steps_per_second / self.all_bare,
            "time_shares": times,
            "unused_env_steps": int(unused_steps),
            "unused_share": unused_steps / max(1.0, env_steps),
            "replay_shortfall": replay_shortfall,
        }


def format_times(times: Mapping[str, Mapping[str, float]]) -> str:
    """Return the shares of time by role in one line."""
    roles = (
        f"{role} " + ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in shares.items())
        for role, shares in times.items()
    )
    return "; ".join(roles)


def closing_lines(summary: Mapping[str, Any], config: Config) -> list[str]:
    """Return the lines that summarise a run's efficiency at its end.

    They report the share of bare stepping, the time of the roles, and findings with the key to change.

    Args:
        summary: Contents of summary.json.
        config: Configuration of the run.
    """
    lines = []
    if summary["share_of_bare"] is not None:
        lines.append(
            f"{100 * summary['share_of_bare']:.0f} % of bare stepping, which takes "
            f"{summary['bare_env_steps_per_second']:,.0f} environment steps/s "
            f"in each of {summary['bare_processes']} processes"
        )
    lines.append(f"time: {format_times(summary['time_shares'])}")
    return [*lines, *judge(shares_of(summary, config))]
