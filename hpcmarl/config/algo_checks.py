"""Checks of the section `algo` for choices that exclude each other."""

from __future__ import annotations

from hpcmarl.config.action_critics import ActionCriticConfig
from hpcmarl.config.actor_critics import ActorCriticConfig, COMAConfig, MATraceConfig, ValueCriticConfig
from hpcmarl.config.algo_base import AlgoConfig
from hpcmarl.config.networks import EncoderConfig, NetworkConfig
from hpcmarl.config.replay import ReplayConfig
from hpcmarl.config.value_based import QLearningConfig


def algo_contradictions(algo: AlgoConfig) -> list[str]:
    """Return one line for each pair of choices in `algo` that exclude each other: keys, reason and remedy."""
    found = _value_contradictions(algo) if isinstance(algo, QLearningConfig) else []
    if (replay := algo.replay_section) is not None:
        found += _replay_contradictions(replay)
        found += _draw_contradictions(algo, replay)
    if isinstance(algo, MATraceConfig) and algo.critic == "independent" and algo.ratios == "joint":
        found.append(
            "algo.ratios: joint does not work with algo.critic: independent, which has one value for each "
            "agent; use algo.ratios: agent, or algo.critic: joint_observation or state"
        )
    if isinstance(algo, MATraceConfig) and algo.teams != "auto":
        found += _team_contradictions(algo, algo.teams)
    if isinstance(algo, COMAConfig) and algo.critic == "independent":
        found.append(
            "algo.critic: independent does not work with algo.name: coma, whose critic needs the actions of "
            "all agents; use algo.critic: joint_observation or state"
        )
    if isinstance(algo, ActorCriticConfig) and algo.entropy_cost_steps and algo.target_entropy is not None:
        found.append(
            f"algo.entropy_cost_steps: {algo.entropy_cost_steps} does not work with algo.target_entropy: "
            f"{algo.target_entropy:g}, because the entropy cost either falls with time or is learned; remove "
            "one of the two keys"
        )
    if isinstance(algo, ValueCriticConfig) and algo.critic == "independent" and algo.critic_input == "agent":
        found.append(
            "algo.critic_input: agent does not work with algo.critic: independent, which sees only the "
            "agent's observation anyway; remove the key, or use algo.critic: joint_observation or state"
        )
    if isinstance(algo, ActorCriticConfig) and algo.shared_encoder:
        found += _sharing_contradictions(algo)
    network = algo.critic_network if isinstance(algo, COMAConfig | ActionCriticConfig) else None
    if network is not None and network.recurrent:
        found.append(
            f"algo.critic_network.body: {network.body} does not work with algo.name: {algo.name}, whose "
            "critics have no memory; remove the key"
        )
    return found


def _sharing_contradictions(algo: ActorCriticConfig) -> list[str]:
    """Return one line for each choice that leaves critics no features of the policies' encoders."""
    found = []
    sections = {"algo.network": algo.network, "algo.critic_network": algo.critic_network}
    for key, section in sections.items():
        if section is not None and section.module is not None:
            found.append(
                f"algo.shared_encoder: true does not work with {key}.module: {section.module}, because a "
                f"module replaces the encoder; remove {key}.module, or set algo.shared_encoder: false"
            )
    if isinstance(algo, ValueCriticConfig) and algo.critic == "state" and algo.critic_input == "team":
        found.append(
            "algo.shared_encoder: true does not work with algo.critic: state, which sees no observation; use "
            "algo.critic: joint_observation or independent, or algo.critic_input: agent"
        )
    own = algo.critic_network
    for key in EncoderConfig.model_fields.keys() | {"keys"} if own is not None else ():
        wanted, given = getattr(algo.network, key), getattr(own, key)
        if given not in (wanted, getattr(NetworkConfig(), key)):
            found.append(
                f"algo.critic_network.{key} differs from algo.network.{key}, but with algo.shared_encoder: "
                f"true critics use the policies' encoder; remove algo.critic_network.{key}"
            )
    return sorted(found)


def common_reward_text(algo: AlgoConfig) -> tuple[str, str]:
    """Name the setting that makes agents learn from a common reward, for messages.

    Args:
        algo: An algorithm whose `common_reward` is not none.

    Returns:
        The key with its value, and the change after which each agent learns from its own reward.
    """
    if isinstance(algo, ActorCriticConfig | ActionCriticConfig) and not isinstance(algo, COMAConfig):
        return f"algo.critic: {algo.critic}", "use algo.critic: independent"
    other = ", or algo.name: iql" if isinstance(algo, QLearningConfig) else ""
    return (
        f"algo.name: {algo.name}",
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
            f"algo.teams does not work with algo.{alone or 'importance_sampling: false'}, because no "
            "importance ratio covers a team then; remove algo.teams"
        )
    names = [name for team in teams for name in team]
    found += [
        f"algo.teams: policy {name} is in more than one team; use it once"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    return found


def _value_contradictions(algo: QLearningConfig) -> list[str]:
    """Return one line for each pair of choices of a value-based algorithm that exclude each other."""
    found = []
    if algo.sparse is not None and algo.sparse.training == "sparse" and algo.network.body != "gru":
        found.append(
            f"algo.sparse.training: sparse needs a GRU, and algo.network.body is {algo.network.body}; set "
            "algo.sparse.training: dense"
        )
    if algo.n_step > 1 and algo.trace_lambda > 0:
        found.append(
            f"algo.n_step: {algo.n_step} does not work with algo.trace_lambda: {algo.trace_lambda:g}, "
            "because a target has either a fixed number of steps or the mean over all numbers; set "
            "algo.n_step: 1 or algo.trace_lambda: 0"
        )
    return found


def _draw_contradictions(algo: AlgoConfig, replay: ReplayConfig) -> list[str]:
    """Return one line for each choice that excludes draws of single steps."""
    if replay.draw != "steps":
        return []
    reasons = {
        f"algo.name: {algo.name}, whose values are learned from whole episodes": not isinstance(
            algo, ActionCriticConfig
        ),
        f"algo.network.body: {algo.network.body}, whose memory needs whole episodes": algo.network.recurrent,
        "algo.replay.priority, which has one priority for each episode": replay.priority is not None,
    }
    return [
        f"algo.replay.draw: steps does not work with {reason}; use algo.replay.draw: episodes"
        for reason, present in reasons.items()
        if present
    ]


def _replay_contradictions(replay: ReplayConfig) -> list[str]:
    """Return one line for each pair of keys of a replay that exclude each other."""
    found = []
    if replay.learning_starts > replay.episodes:
        found.append(
            f"algo.replay.learning_starts: {replay.learning_starts} is more than algo.replay.episodes: "
            f"{replay.episodes}, the number of episodes that are kept; lower algo.replay.learning_starts"
        )
    if replay.dynamic is not None and replay.dynamic.least >= replay.episodes:
        found.append(
            f"algo.replay.dynamic.least: {replay.dynamic.least} is not below algo.replay.episodes: "
            f"{replay.episodes}, so no episode could leave early; lower algo.replay.dynamic.least"
        )
    return found
