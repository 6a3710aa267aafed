"""Judgement of a run's figures: reasons for missing updates, roles that waited, and keys to change.

The functions are pure, so that the end of a run and any later report give the same sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpcmarl.config import Config

# Shares above which a role counts as busy, as waiting, and work as lost.
BUSY, WAITING, LOST = 0.6, 0.2, 0.05


@dataclass(frozen=True)
class Shares:
    """Shares of a run, 0 to 1, and the settings that a remedy depends on.

    Attributes:
        learning: Part of the learners' time in gradients.
        learners_waiting: Part of the learners' time asleep.
        acting: Part of the actors' time in inference.
        environment: Part of the time in environments, of the workers if there are any, else of the actors.
        actors_waiting: Part of the actors' time asleep.
        serving: Part of the server's time on gradients.
        unused: Part of the environment steps that no gradient used.
        unused_steps: Number of those steps.
        too_old: Part of the trajectories with gradients that came after their round or were too old.
        replay_shortfall: Part of the replay's uses that are missing; 0 without a replay.
        draws: What the replay draws: episodes or steps.
        backpressure: Value of rounds.backpressure.
        server_sums: Whether gradients travel to the server (rounds.reduce: server).
        repeats: Key that repeats rollouts and its value; None: each is used once.
        ranks: Number of ranks.
    """

    learning: float = 0.0
    learners_waiting: float = 0.0
    acting: float = 0.0
    environment: float = 0.0
    actors_waiting: float = 0.0
    serving: float = 0.0
    unused: float = 0.0
    unused_steps: int = 0
    too_old: float = 0.0
    replay_shortfall: float = 0.0
    draws: str = "episodes"
    backpressure: bool = False
    server_sums: bool = True
    repeats: tuple[str, int] | None = None
    ranks: int = 1


def shares_of(summary: Mapping[str, Any], config: Config) -> Shares:
    """Return the shares of a run from its summary; figures that are missing count as zero.

    Args:
        summary: Contents of summary.json.
        config: Configuration of the run.
    """
    times = summary.get("time_shares") or {}

    def share(role: str, kind: str) -> float:
        return float((times.get(role) or {}).get(kind) or 0.0)

    used = float(summary.get("used_trajectories", summary.get("used_gradients")) or 0.0)
    wasted = float(summary.get("wasted_gradients") or 0.0)
    passes = config.algo.minibatch_passes
    key, repeated = (
        ("reuse", config.algo.gradients_per_rollout) if passes is None else ("epochs", passes.epochs)
    )
    return Shares(
        learning=share("learners", "learning"),
        learners_waiting=share("learners", "waiting"),
        acting=share("actors", "acting"),
        environment=share("workers" if "workers" in times else "actors", "environment"),
        actors_waiting=share("actors", "waiting"),
        serving=share("server", "serving"),
        unused=float(summary.get("unused_share") or 0.0),
        unused_steps=int(summary.get("unused_env_steps") or 0),
        too_old=wasted / max(1.0, used + wasted),
        draws="steps" if config.algo.draws_steps else "episodes",
        replay_shortfall=float(summary.get("replay_shortfall") or 0.0),
        backpressure=config.rounds.backpressure,
        server_sums=config.rounds.reduce == "server",
        repeats=(f"algo.{key}", repeated) if repeated > 1 else None,
        ranks=int(summary.get("ranks") or 1),
    )


def judge(shares: Shares) -> list[str]:
    """Return findings on lost work and on roles that waited, each a sentence with the key to change.

    Args:
        shares: Figures of the run.
    """
    return [*_lost_work(shares), *_waits(shares)]


def _lost_work(shares: Shares) -> list[str]:
    """Return findings on work that no update used."""
    found = []
    slower = "" if shares.backpressure else "set rounds.backpressure: true (actors wait), "
    less = f" or lower {shares.repeats[0]} (now {shares.repeats[1]})" if shares.repeats else ""
    if shares.unused > LOST:
        found.append(
            f"the learners were behind and left {_percent(shares.unused)} of the environment steps unused "
            f"({shares.unused_steps:,}): {slower}use more learners (topology.groups){less}"
        )
    if shares.replay_shortfall > LOST:
        found.append(
            f"the learners were behind and used {shares.draws} {_percent(shares.replay_shortfall)} less "
            f"often than algo.replay.samples_per_insert requires: {slower}use more learners "
            "(topology.groups) or lower algo.replay.samples_per_insert"
        )
    if shares.too_old > LOST:
        remedy = "use fewer actors" if shares.backpressure else "set rounds.backpressure: true"
        found.append(
            f"{_percent(shares.too_old)} of the trajectories came too late for their round: {remedy}, or "
            "raise rounds.max_staleness if the algorithm is off-policy"
        )
    return found


def _waits(shares: Shares) -> list[str]:
    """Return findings on roles that waited for others; with one rank no role can wait."""
    if shares.ranks == 1:
        return []
    found = []
    if shares.learning > BUSY and shares.actors_waiting > WAITING:
        less = f", or lower {shares.repeats[0]} (now {shares.repeats[1]})" if shares.repeats else ""
        found.append(
            f"learners were busy {_percent(shares.learning)} of the time and actors waited "
            f"{_percent(shares.actors_waiting)} for them: use more learners (topology.groups){less}, or "
            "fewer actors (-n)"
        )
    elif shares.learners_waiting > BUSY and shares.environment >= shares.acting:
        found.append(
            f"learners waited {_percent(shares.learners_waiting)} of the time and environments took "
            f"{_percent(shares.environment)}: use more actors (-n), or topology.workers_per_actor"
        )
    elif shares.learners_waiting > BUSY and shares.acting > WAITING:
        found.append(
            f"learners waited {_percent(shares.learners_waiting)} of the time and inference took "
            f"{_percent(shares.acting)} of the actors': raise topology.environments_per_actor, or use more "
            "actors (-n)"
        )
    if shares.server_sums and shares.serving > BUSY:
        found.append(
            f"the server was busy {_percent(shares.serving)} of the time with gradients: set rounds.reduce: "
            "mpi, so that the learners sum them"
        )
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def why_no_round(config: Config, batch: int, trajectories: int, seconds: float) -> str:
    """Return why no round ended, in one sentence with the keys to change.

    Args:
        config: Configuration of the run.
        batch: Trajectories of a round, M.
        trajectories: Trajectories whose gradients had arrived.
        seconds: Training time, seconds.
    """
    steps = config.algo.unroll_steps
    whole = "step that is drawn from the replay" if config.algo.draws_steps else "whole episode"
    unit = whole if steps is None else f"unroll of {steps} steps (algo.unroll)"
    wait = (
        f"no round ended in {seconds:.1f} s: a round needs {batch} trajectories (rounds.batch) and "
        f"{trajectories if trajectories else 'none'} had arrived; a trajectory is one {unit}"
    )
    replay = config.algo.replay_section
    if replay is not None and not trajectories:
        wait += f", and learning begins after {replay.learning_starts} episodes (algo.replay.learning_starts)"
        return f"{wait}. Raise stop.seconds or lower algo.replay.learning_starts"
    remedy = "rounds.batch" if trajectories or steps is None else "algo.unroll or rounds.batch"
    return f"{wait}. Raise stop.seconds, or lower {remedy}"
