"""Names, units and meanings of all metrics that runs and leagues write.

`docs/reference/metrics.md` is generated from these tables, and metrics.h5 takes its units from them.
tests/runs/io/test_metric_reference.py compares them with the files of small runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

Kind = Literal["counter", "counter of this start", "gauge", "mean", "mean of the run", "rate", "recent"]

KINDS: dict[Kind, str] = {
    "counter": "Sum since the beginning of the run. A resumed run continues it.",
    "counter of this start": "Sum since the newest start of the run. A resumed run begins at zero.",
    "gauge": "Value at the time of the row.",
    "mean": "Mean over the reports that came since the row before. A row without a report has no value.",
    "mean of the run": "Mean since the beginning of the run. A resumed run continues it.",
    "rate": "Increase since the row before, divided by the time between the rows.",
    "recent": "Statistic of the newest 100 training episodes.",
}

ACTOR_CRITICS = ("ma_trace", "ppo", "coma")
STATE_VALUES = ("ma_trace", "ppo")
POLICY_GRADIENTS = ("reinforce", *ACTOR_CRITICS)
MIXED = ("vdn", "qmix", "wqmix", "res")
VALUE_BASED = ("iql", *MIXED)
ACTION_CRITICS = ("maddpg", "masac")
CRITICS = (*ACTOR_CRITICS, *ACTION_CRITICS)
POLICIES = (*POLICY_GRADIENTS, *ACTION_CRITICS)
REPLAYED = (*VALUE_BASED, *ACTION_CRITICS)
DISCOUNTED_VALUES = (*ACTOR_CRITICS, *REPLAYED)
GROUPS_OF_ALGORITHMS: dict[str, tuple[str, ...]] = {
    "policy gradients": POLICY_GRADIENTS,
    "actor-critics": ACTOR_CRITICS,
    "value-based": VALUE_BASED,
    "actor-critics, `maddpg`, `masac`": CRITICS,
    "policy gradients, `maddpg`, `masac`": POLICIES,
    "value-based, `maddpg`, `masac`": REPLAYED,
    "actor-critics, value-based, `maddpg`, `masac`": DISCOUNTED_VALUES,
}


class Metric(NamedTuple):
    """Description of one metric.

    Attributes:
        unit: Unit of the value: a symbol (s, 1/s, byte), a counted thing (env step), or 1.
        kind: Way in which the value is made; KINDS explains each.
        meaning: One sentence or two.
        algorithms: Algorithms that write it; empty for all.
        condition: Setting or event without which the metric is absent; empty for none.
    """

    unit: str
    kind: Kind
    meaning: str
    algorithms: tuple[str, ...] = ()
    condition: str = ""


class Entry(NamedTuple):
    """Description of one key of summary.json.

    Attributes:
        unit: Unit of the value; "text", "list" or "section" for values that are no numbers.
        meaning: One sentence or two.
        condition: Setting or event without which the key is absent or null; empty for none.
    """

    unit: str
    meaning: str
    condition: str = ""


# Columns of metrics.csv and metrics.h5. POLICY stands for the name of a policy, KIND for a number.
COLUMNS: dict[str, Metric] = {
    "version": Metric("update", "gauge", "Number of parameter updates. It identifies the row."),
    "seconds": Metric(
        "s", "counter", "Training time over all starts, without start-up and final evaluation."
    ),
    "env_steps": Metric(
        "env step", "counter", "Environment steps behind all gradients that the server received."
    ),
    "agent_steps": Metric("agent step", "counter", "Decisions of single agents in these environment steps."),
    "episodes": Metric("episode", "counter", "Finished training episodes."),
    "env_steps_per_second": Metric("1/s", "rate", "Environment steps a second."),
    "return_mean": Metric(
        "reward",
        "recent",
        "Mean return. The return of an episode sums, over its steps, the mean over agents.",
    ),
    "return_std": Metric("reward", "recent", "Standard deviation of the return."),
    "return/POLICY": Metric(
        "reward", "recent", "Mean return of the agents of one policy.", condition="several policies"
    ),
    "return_worker_kind/KIND": Metric(
        "reward",
        "recent",
        "Mean return in the environments of one kind of workers, by its place in `topology.workers`.",
        condition="`topology.workers`",
    ),
    "win_rate": Metric(
        "1", "recent", "Share of episodes that were won.", condition="environments that report an outcome"
    ),
    "staleness_mean": Metric(
        "update",
        "mean of the run",
        "Age of trajectories when their gradient reached the server: versions between sampling and use.",
    ),
    "used_trajectories": Metric(
        "trajectory", "counter", "Trajectories whose gradients were part of an update."
    ),
    "wasted_gradients": Metric(
        "trajectory",
        "counter",
        "Trajectories that came too late for their round, at the server or already at the learner.",
    ),
    "repeated_gradients": Metric(
        "trajectory",
        "counter",
        "Trajectories of `wasted_gradients` that were used again: their learner computed a gradient of them "
        "for the next round.",
    ),
    "dropped_rollouts": Metric(
        "trajectory", "counter", "Trajectories that learners dropped because their queue was full."
    ),
    "direction_norm": Metric(
        "1",
        "gauge",
        "Euclidean norm of the direction of the newest update; in sparse training over the active weights. "
        "It is 0 where the server receives no vectors (`rounds.reduce` other than `server`).",
    ),
    "lost_ranks": Metric("rank", "counter of this start", "Lost ranks without a process in their place."),
    "replaced_ranks": Metric("rank", "counter of this start", "Lost ranks that a new process has replaced."),
    "eval_version": Metric(
        "update", "gauge", "Version that the newest evaluation judged.", condition="an evaluation has ended"
    ),
    "eval_return_mean": Metric(
        "reward", "gauge", "Mean return of the newest evaluation.", condition="an evaluation has ended"
    ),
    "eval_win_rate": Metric(
        "1",
        "gauge",
        "Share of the episodes of the newest evaluation that were won.",
        condition="an evaluation has ended; environments that report an outcome",
    ),
    "server/gradient_seconds": Metric(
        "s", "mean of the run", "Time of the server for one gradient: adding, stepping and sending."
    ),
    "learner/policy_loss": Metric(
        "1",
        "mean",
        "Minus the policy's surrogate objective, for each step (actor-critics) or episode (`reinforce`).",
        POLICIES,
    ),
    "learner/entropy": Metric(
        "nat", "mean", "Entropy of the policy for each decision.", (*POLICY_GRADIENTS, "masac")
    ),
    "learner/value_loss": Metric(
        "1", "mean", "Loss of the critic for each step, in units of the critic's outputs.", CRITICS
    ),
    "learner/entropy_cost": Metric(
        "1",
        "mean",
        "Coefficient of the entropy bonus; it changes where it is scheduled or learned.",
        (*ACTOR_CRITICS, "masac"),
    ),
    "learner/mean_rho": Metric(
        "1",
        "mean",
        "Clipped importance ratio in temporal differences and advantages. `ppo` always reports 1.",
        ACTOR_CRITICS,
    ),
    "learner/mean_c": Metric(
        "1", "mean", "Clipped importance ratio in the trace, times lambda.", STATE_VALUES
    ),
    "learner/explained_variance": Metric(
        "1",
        "mean",
        "1 - Var(target - value) / Var(target) of the critic. 1: exact; 0: no better than a constant.",
        ACTOR_CRITICS,
    ),
    "learner/clip_fraction": Metric(
        "1", "mean", "Share of decisions whose ratio lies outside 1 ± `algo.clip`.", ("ppo",)
    ),
    "learner/approximate_kl": Metric(
        "nat",
        "mean",
        "Estimated KL divergence of the present policy from the policy that sampled: mean of w - 1 - log w.",
        ("ppo",),
    ),
    "learner/gradients_left_out": Metric(
        "1",
        "mean",
        "Share of a batch's gradients that were skipped because the batch ended early.",
        ("ppo",),
        "`algo.kl_target`",
    ),
    "learner/value": Metric(
        "reward",
        "mean",
        "Value of what was seen: of the critic, or of the actions that were taken.",
        DISCOUNTED_VALUES,
    ),
    "learner/value_limit": Metric(
        "reward",
        "mean",
        "Bound on any return: the largest reward seen, divided by 1 - discount. Larger values have diverged.",
        DISCOUNTED_VALUES,
        "a reward other than 0, and a discount below 1",
    ),
    "learner/target": Metric("reward", "mean", "Target of the action values.", REPLAYED),
    "learner/loss": Metric("reward²", "mean", "Loss of the action values for each step.", VALUE_BASED),
    "learner/epsilon": Metric("1", "mean", "Share of random actions.", VALUE_BASED),
    "learner/noise": Metric(
        "1",
        "mean",
        "Deviation of the noise of continuous actions, in units of half their range.",
        ("maddpg",),
        "continuous actions",
    ),
    "learner/weight": Metric("1", "mean", "Weight of a step in the loss of Q_tot.", ("wqmix",)),
    "learner/replay_episodes": Metric("episode", "mean", "Episodes in the replay of a learner.", REPLAYED),
    "learner/replay_megabytes": Metric("MB", "mean", "Size of the replay of a learner in memory.", REPLAYED),
    "learner/replay_ratio": Metric(
        "1",
        "mean",
        "Draws for each episode collected, or for each step (`algo.replay.draw`), since the beginning of the "
        "run. "
        "At `algo.replay.samples_per_insert` the learner waits for its actors.",
        REPLAYED,
    ),
    "learner/replay_shortfall": Metric(
        "1",
        "mean",
        "Share of the draws asked for by `algo.replay.samples_per_insert` that did not happen.",
        REPLAYED,
    ),
    "learner/replay_distance": Metric(
        "1",
        "mean",
        "Share of the actions in the oldest episodes that the present policy would not take greedily; of "
        "continuous actions, the mean squared difference in units of half their range.",
        REPLAYED,
        "`algo.replay.dynamic`",
    ),
    "learner/gradient_norm": Metric("1", "mean", "Euclidean norm of a learner's gradient."),
    "learner/gradient_seconds": Metric("s", "mean", "Time of a learner for the gradient of one trajectory."),
    "actors/acting_seconds": Metric("s", "counter", "Time of all actors in their networks."),
    "actors/sending_seconds": Metric("s", "counter", "Time of all actors to hand over rollouts to MPI."),
    "actors/recording_seconds": Metric(
        "s", "counter", "Time of all actors to hand over rollouts to their trajectory writers."
    ),
    "actors/environment_seconds": Metric("s", "counter", "Time of all actors in their environments."),
    "actors/waiting_seconds": Metric(
        "s", "counter", "Time in which all actors slept because they had no work."
    ),
    "actors/held_seconds": Metric(
        "s", "counter", "Time in which all actors stood still for their learner (`rounds.backpressure`)."
    ),
    "actors/cancelled_steps": Metric(
        "env step",
        "counter",
        "Environment steps of episodes that were abandoned when a new version came (`rounds.late: cancel`).",
    ),
    "actors/dropped_steps": Metric(
        "env step",
        "counter",
        "Environment steps of rollouts that an actor could not send: no buffer was free.",
    ),
    "actors/restarts": Metric("environment", "counter", "Environments restarted after an error or a hang."),
    "actors/hangs": Metric("environment", "counter", "Environments that exceeded `env.step_seconds`."),
    "actors/bad_numbers": Metric(
        "episode",
        "counter",
        "Episodes cut off at a non-finite observation or reward (`faults.on_nan: skip`).",
    ),
    "actors/quarantined": Metric(
        "slot", "counter of this start", "Environment slots excluded after failures (`env.on_restart_limit`)."
    ),
    "actors/trajectory_bytes": Metric(
        "byte", "gauge", "Size of the trajectory files of all actors.", condition="`trajectories.enabled`"
    ),
    "actors/trajectory_shards": Metric(
        "shard", "counter of this start", "Finished trajectory files.", condition="`trajectories.enabled`"
    ),
    "actors/trajectory_steps": Metric(
        "env step", "counter", "Environment steps in trajectory files.", condition="`trajectories.enabled`"
    ),
    "actors/trajectory_dropped": Metric(
        "rollout",
        "counter",
        "Rollouts that were not recorded because the disk was too slow or failed.",
        condition="`trajectories.enabled`",
    ),
}

# Arrays [row, group] of metrics-groups.npy and metrics.h5.
GROUP_FIGURES: dict[str, Metric] = {
    "trajectories": Metric("trajectory", "counter", "Trajectories whose gradients reached the server."),
    "slots": Metric("slot", "gauge", "Environment slots of all actors of the group."),
    "timed_trajectories": Metric("trajectory", "counter", "Trajectories whose duration was measured."),
    "trajectory_seconds": Metric(
        "s", "mean of the run", "Duration of a trajectory in one slot: acting, stepping and injected delays."
    ),
    "trajectory_spread_seconds": Metric("s", "mean of the run", "Standard deviation of this duration."),
    "gradient_seconds": Metric(
        "s", "mean of the run", "Time of the learner for the gradient of one trajectory."
    ),
    "exchange_seconds": Metric(
        "s",
        "mean of the run",
        "Time from the server's new parameters to the group's first gradient at them, less the trajectories.",
    ),
}

# Columns of the metrics of a league. MEMBER stands for the name of a member.
LEAGUE_COLUMNS: dict[str, Metric] = {
    "version": Metric("1", "gauge", "Number of changes of the league's state. It identifies the row."),
    "seconds": Metric("s", "counter", "Training time over all starts, without start-up and final matches."),
    "env_steps": Metric("env step", "counter", "Environment steps of all members in all generations."),
    "updates": Metric("update", "counter", "Parameter updates of all members in all generations."),
    "snapshots": Metric("snapshot", "counter", "Frozen policies in the pool."),
    "matches": Metric("match", "counter", "Finished evaluation matches."),
    "evaluation_games": Metric("episode", "counter", "Episodes of these matches in the payoff table."),
    "league_seconds": Metric("s", "counter", "Processor time of the league's server."),
    "match_seconds": Metric("s", "counter", "Time of all ranks in matches."),
    "lost_ranks": Metric("rank", "counter of this start", "Lost ranks."),
    "MEMBER/updates": Metric("update", "counter", "Parameter updates of a member in all generations."),
    "MEMBER/env_steps": Metric("env step", "counter", "Environment steps of a member in all generations."),
}

# Keys of summary.json.
SUMMARY: dict[str, Entry] = {
    "status": Entry("text", "`finished`, or `interrupted` by a signal or the end of the job."),
    "env_steps": Entry("env step", "As the column."),
    "agent_steps": Entry("agent step", "As the column."),
    "episodes": Entry("episode", "As the column."),
    "updates": Entry("update", "Version of the final parameters."),
    "seconds": Entry("s", "As the column."),
    "env_steps_per_second": Entry("1/s", "Environment steps a second over the whole run."),
    "bare_env_steps_per_second": Entry(
        "1/s",
        "Environment steps a second of one process that only steps the environment with random actions.",
        "`logging.progress`",
    ),
    "bare_processes": Entry("process", "Ranks of each host, or its cores where these are fewer, added up."),
    "share_of_bare": Entry(
        "1",
        "`env_steps_per_second`, divided by `bare_env_steps_per_second` times `bare_processes`.",
        "`logging.progress`",
    ),
    "time_shares": Entry(
        "section", "Shares of training time for each role: acting, stepping, learning, waiting."
    ),
    "unused_env_steps": Entry(
        "env step", "Environment steps that were dropped because learners were too slow."
    ),
    "unused_share": Entry("1", "`unused_env_steps`, divided by `env_steps`."),
    "replay_shortfall": Entry("1", "As the column `learner/replay_shortfall`.", "value-based algorithms"),
    "return_mean": Entry("reward", "As the column."),
    "return_std": Entry("reward", "As the column."),
    "best_return_mean": Entry(
        "reward", "Largest `return_mean` so far, counted once 100 episodes and every slot have finished."
    ),
    "returns": Entry("section", "Mean return of each policy over the newest 100 episodes."),
    "returns_by_worker_kind": Entry(
        "list", "Mean return of each kind of workers over its newest 100 episodes; null: none has ended."
    ),
    "win_rate": Entry("1", "As the column.", "environments that report an outcome"),
    "eval_win_rate": Entry("1", "`win_rate` of `evaluation`.", "a final evaluation"),
    "eval_return_mean": Entry("reward", "`return_mean` of `evaluation`.", "a final evaluation"),
    "evaluation": Entry(
        "section", "All figures of the evaluation of the final parameters.", "a final evaluation"
    ),
    "resumed_from": Entry("text", "Checkpoint that this start continued from.", "a resumed run"),
    "ranks": Entry("rank", "Number of MPI ranks."),
    "roles": Entry("list", "Roles of each rank."),
    "staleness_mean": Entry("update", "As the column."),
    "used_trajectories": Entry("trajectory", "As the column."),
    "wasted_gradients": Entry("trajectory", "As the column."),
    "repeated_gradients": Entry("trajectory", "As the column."),
    "dropped_rollouts": Entry("trajectory", "As the column."),
    "bad_gradients": Entry("gradient", "Gradients that learners rejected because they were not finite."),
    "lost_ranks": Entry("list", "Lost ranks of this start: rank, roles, time, and whether it was replaced."),
    "trajectories_by_group": Entry("list", "The group figure `trajectories` of each group."),
    "environment_batched": Entry("true or false", "Whether all slots of an actor are stepped together."),
    "environment_restarts": Entry("environment", "As the column `actors/restarts`."),
    "environment_hangs": Entry("environment", "As the column `actors/hangs`."),
    "environment_quarantined": Entry("slot", "As the column `actors/quarantined`."),
    "environment_bad_numbers": Entry("episode", "As the column `actors/bad_numbers`."),
    "learned_steps": Entry(
        "env step",
        "Environment steps in all gradients; a step counts as often as it was used.",
        "value-based algorithms",
    ),
    "dense_gradient_steps": Entry(
        "env step",
        "Those of `learned_steps` whose gradients covered all weights of a sparse network.",
        "value-based algorithms",
    ),
    "training_flops": Entry(
        "operation", "Floating-point operations of all learning.", "value-based algorithms"
    ),
    "dense_training_flops": Entry("operation", "The same if no weight were zero.", "value-based algorithms"),
    "acting_flops_per_step": Entry(
        "operation", "Floating-point operations of acting in one environment step.", "value-based algorithms"
    ),
    "dense_acting_flops_per_step": Entry(
        "operation", "The same if no weight were zero.", "value-based algorithms"
    ),
    "layer_densities": Entry(
        "section", "Share of active weights of each layer, by its name.", "`algo.sparse`"
    ),
    "checkpoint_error": Entry("text", "Error of the last checkpoint.", "a failed disk"),
    "callback_errors": Entry("text", "Callbacks that failed and were switched off, a line each."),
    "versions": Entry("section", "Versions of hpcmarl and of the packages that the results depend on."),
}

# Keys of `evaluation` in summary.json.
EVALUATION: dict[str, Entry] = {
    "version": Entry("update", "Version of the parameters that were judged."),
    "return_mean": Entry("reward", "Mean return; each environment counts as often as groups train in it."),
    "return_std": Entry("reward", "Standard deviation of the return of an episode."),
    "return_sem": Entry("reward", "Standard error of `return_mean`, stratified by environment."),
    "episodes": Entry("episode", "Episodes that were played."),
    "length_mean": Entry("env step", "Mean length of an episode."),
    "returns": Entry("section", "Mean return of each policy."),
    "win_rate": Entry("1", "Share of episodes that were won.", "environments that report an outcome"),
    "return_by_environment": Entry("list", "Mean return in each environment."),
}

# Keys of the summary.json of a league; those that LEAGUE_COLUMNS has mean the same.
LEAGUE_SUMMARY: dict[str, Entry] = {
    "status": SUMMARY["status"],
    **{
        name: Entry(column.unit, "As the column.")
        for name, column in LEAGUE_COLUMNS.items()
        if name not in ("version", "lost_ranks") and "/" not in name
    },
    "env_steps_per_second": Entry("1/s", "Environment steps a second over the whole league."),
    "match_share": Entry(
        "1", "Share of the actors' time in matches, while their teams train.", "a trained term"
    ),
    "members": Entry("section", "Side, terms, generations, updates, steps and opponents of each member."),
    "resumed_from": SUMMARY["resumed_from"],
    "ranks": SUMMARY["ranks"],
    "roles": SUMMARY["roles"],
    "lost_ranks": SUMMARY["lost_ranks"],
    "quarantined": Entry("list", "Snapshots excluded after failures."),
    "checkpoint_error": SUMMARY["checkpoint_error"],
    "versions": SUMMARY["versions"],
}


def find_column(name: str, columns: Mapping[str, Metric] = COLUMNS) -> tuple[str, Metric] | None:
    """Find the description of a column.

    Args:
        name: Name as in metrics.csv.
        columns: Table to search.

    Returns:
        Key of the table and its metric. Columns of single policies and members are found by their pattern:
        `learner/value_loss_prey` is `learner/value_loss`. None for an unknown column.
    """
    if name in columns:
        return name, columns[name]
    for key, metric in columns.items():
        pattern = re.sub("POLICY|MEMBER|KIND", ".+", re.escape(key))
        if key.startswith("learner/") and set(metric.algorithms) & set(CRITICS):
            pattern += "_.+"
        if re.fullmatch(pattern, name):
            return key, metric
    return None


def unit_of(name: str) -> str:
    """Return the unit of a column or group figure; "1" for an unknown one."""
    for table in (COLUMNS, GROUP_FIGURES, LEAGUE_COLUMNS):
        if (found := find_column(name, table)) is not None:
            return found[1].unit
    return "1"
