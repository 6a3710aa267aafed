"""Checks of the section `algo` for choices that exclude each other."""

from __future__ import annotations

from hpcmarl.config.algos import (
    ActorCriticConfig,
    AlgoConfig,
    COMAConfig,
    MATraceConfig,
    QLearningConfig,
    ValueCriticConfig,
)


def algo_contradictions(algo: AlgoConfig) -> list[str]:
    """Return one line for each pair of choices in `algo` that exclude each other: keys, reason and remedy."""
    found = _replay_contradictions(algo) if isinstance(algo, QLearningConfig) else []
    if isinstance(algo, MATraceConfig) and algo.critic == "independent" and algo.ratios == "joint":
        found.append(
            "algo.critic: independent has one value per agent and cannot use algo.ratios: joint; use ratios: "
            "agent, "
            "or critic: joint_observation or state"
        )
    if isinstance(algo, MATraceConfig) and algo.teams != "auto":
        found += _team_contradictions(algo, algo.teams)
    if isinstance(algo, COMAConfig) and algo.critic == "independent":
        found.append(
            "algo.critic: independent does not see the others' actions that COMA's critic judges by; use "
            "critic: joint_observation "
            "or state"
        )
    if isinstance(algo, ActorCriticConfig) and algo.entropy_cost_steps and algo.target_entropy is not None:
        found.append(
            "algo.entropy_cost_steps: the entropy cost cannot both fall and be learned "
            "(algo.target_entropy); remove one of the two keys"
        )
    if isinstance(algo, ValueCriticConfig) and algo.critic == "independent" and algo.critic_input == "agent":
        found.append(
            "algo.critic_input: agent adds what an agent sees to a central critic, and algo.critic: "
            "independent sees "
            "that alone; use joint_observation or state"
        )
    if isinstance(algo, COMAConfig) and algo.critic_network is not None and algo.critic_network.recurrent:
        found.append(
            "algo.critic_network.recurrent: true is for the critics of ma_trace and ppo, COMA's have no "
            "memory; remove the key"
        )
    return found


def common_reward_text(algo: AlgoConfig) -> tuple[str, str]:
    """Name the setting that makes agents learn from a common reward, for messages.

    Args:
        algo: An algorithm whose `common_reward` is not none.

    Returns:
        The key with its value, and the change after which each agent learns from its own reward.
    """
    if isinstance(algo, ActorCriticConfig) and not isinstance(algo, COMAConfig):
        return f"algo.critic: {algo.critic}", "use algo.critic: independent"
    other = ", or algo.name: iql" if isinstance(algo, QLearningConfig) else ""
    return (
        f"algo.name: {getattr(algo, 'name', '')}",
        f"use algo.critic: independent with algo.name: ma_trace or ppo{other}",
    )


def _team_contradictions(algo: MATraceConfig, teams: tuple[tuple[str, ...], ...]) -> list[str]:
    """Return one line for each mistake in `algo.teams`."""
    found = []
    alone = (
        "critic: independent"
        if algo.critic == "independent"
        else "ratios: agent"
        if algo.ratios == "agent"
        else ""
    )
    if alone or not algo.importance_sampling:
        found.append(
            f"algo.teams: no ratio covers a team with algo.{alone or 'importance_sampling: false'}; remove "
            "algo.teams"
        )
    names = [name for team in teams for name in team]
    found += [
        f"algo.teams: policy {name} is in more than one team; name it once"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    return found


def _replay_contradictions(algo: QLearningConfig) -> list[str]:
    """Return one line for each pair of choices of a value-based algorithm that exclude each other."""
    found = []
    if algo.sparse is not None and algo.sparse.training == "sparse" and not algo.network.recurrent:
        found.append(
            "algo.sparse.training: sparse concerns the recurrence, and algo.network.recurrent is false; set "
            "training: dense"
        )
    if algo.n_step > 1 and algo.trace_lambda > 0:
        found.append(
            f"algo.n_step: {algo.n_step} looks a fixed number of steps ahead, and algo.trace_lambda "
            f"{algo.trace_lambda:g} averages over all numbers; set n_step: 1 or trace_lambda: 0"
        )
    if algo.replay.learning_starts > algo.replay.episodes:
        found.append(
            f"algo.replay.learning_starts {algo.replay.learning_starts} is more than the "
            "algo.replay.episodes "
            f"{algo.replay.episodes} that are kept; lower it"
        )
    if algo.replay.dynamic is not None and algo.replay.dynamic.least >= algo.replay.episodes:
        kept = f"{algo.replay.dynamic.least} of the {algo.replay.episodes} episodes (algo.replay.episodes)"
        found.append(f"algo.replay.dynamic.least: {kept} always stay, so none would leave early; lower it")
    return found
