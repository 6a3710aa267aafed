"""Random rollouts and specifications for tests.

They are valid in shape and meaning, but no environment produced them. All random numbers come from the
generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hpcmarl.algos.model import Model
from hpcmarl.types import (
    ActionSpace,
    Array,
    BoolArray,
    EnvironmentSpec,
    FloatArray,
    Frame,
    ObservationPart,
    PolicyFrame,
    PolicyRollout,
    PolicySpec,
    Rollout,
    fields_of,
)

DISCRETE = ActionSpace("discrete", (5,))
MULTI_DISCRETE = ActionSpace("multi_discrete", (3, 4))
CONTINUOUS = ActionSpace("continuous", (2,), (-1.0, 0.0), (1.0, 4.0))


def make_spec(
    *policies: PolicySpec,
    agents: int = 3,
    action: ActionSpace = DISCRETE,
    has_mask: bool = False,
    state_size: int | None = 7,
    turn_based: bool = False,
) -> EnvironmentSpec:
    """Make a specification of the given policies.

    By default it has one policy "agent" with `agents` agents that see 6 numbers.
    """
    if not policies:
        policies = (
            PolicySpec("agent", tuple(f"agent_{index}" for index in range(agents)), (6,), action, has_mask),
        )
    return EnvironmentSpec("tests.random", policies, state_size, turn_based)


def random_mask(space: ActionSpace, shape: tuple[int, ...], generator: np.random.Generator) -> BoolArray:
    """Draw masks [*shape, A] that allow at least one action of each component."""
    parts = []
    for size in space.sizes if space.kind != "continuous" else ():
        part = generator.random((*shape, size)) < 0.6
        np.put_along_axis(part, generator.integers(size, size=(*shape, 1)), True, axis=-1)
        parts.append(part)
    return np.concatenate(parts, axis=-1) if parts else np.zeros((*shape, 0), bool)


def random_action(
    space: ActionSpace, shape: tuple[int, ...], generator: np.random.Generator, mask: BoolArray | None = None
) -> Array:
    """Draw actions [*shape, *space.shape] within the bounds and the mask."""
    if space.kind == "continuous":
        low, high = np.asarray(space.low), np.asarray(space.high)
        return (low + (high - low) * generator.uniform(0.02, 0.98, (*shape, space.sizes[0]))).astype(
            np.float32
        )
    columns, start = [], 0
    for size in space.sizes:
        score = generator.random((*shape, size))
        if mask is not None:
            score = np.where(mask[..., start : start + size], score, -1.0)
        columns.append(score.argmax(-1))
        start += size
    return columns[0] if space.kind == "discrete" else np.stack(columns, axis=-1)


def frame_of(rollout: Rollout, step: int) -> Frame:
    """Return the observations before one step of a rollout."""
    parts = {
        name: PolicyFrame(
            part.obs[step], part.alive[step], None if part.action_mask is None else part.action_mask[step]
        )
        for name, part in rollout.policies.items()
    }
    return Frame(parts, None, rollout.episode_start[step])


def act_out(model: Model, rollout: Rollout, seed: int, greedy: bool = False) -> None:
    """Replace a random rollout's actions, logp and memory by those of a model."""
    generator = np.random.default_rng(seed)
    memory = model.initial_memory(rollout.count)
    for name in memory:
        rollout.policies[name].memory = memory[name]
    for step in range(rollout.steps):
        for name, decision in model.act(frame_of(rollout, step), memory, generator, greedy).items():
            part = rollout.policies[name]
            assert decision.action.dtype == part.action.dtype
            assert decision.logp is not None
            assert decision.logp.dtype == np.float32
            part.action[step], part.logp[step] = decision.action, decision.logp
            if decision.memory is not None:
                memory = {**memory, name: decision.memory}


def random_rollout(
    spec: EnvironmentSpec,
    steps: int,
    slots: int,
    generator: np.random.Generator,
    *,
    deaths: bool = False,
    truncations: bool = True,
    end_rate: float = 0.15,
    memory: int | None = None,
    whole_episode: bool = False,
) -> Rollout:
    """Draw a rollout whose episodes end at random steps.

    Args:
        spec: Specification of the environment.
        steps: Number of steps, T.
        slots: Number of slots, E.
        generator: Source of all random numbers.
        deaths: Agents die, or are absent from the start of an episode, at random.
        truncations: Half of the ends are truncations.
        end_rate: Probability that a step ends its episode.
        memory: Width of the recurrent memory before step 0; None: no memory.
        whole_episode: Each slot has one episode from its first to its last step.
    """
    end = (generator.random((steps, slots)) < (0.0 if whole_episode else end_rate)).astype(np.uint8)
    if whole_episode:
        end[-1] = 1
    if truncations:
        end[(end > 0) & (generator.random(end.shape) < 0.5)] = 2
    start = np.zeros((steps + 1, slots), bool)
    start[1:] = end > 0
    start[0] = True if whole_episode else generator.random(slots) < 0.5
    final_index = np.argwhere(end == 2).astype(np.int32)
    everybody = sum(len(policy.agents) for policy in spec.policies)
    living = _living(start, everybody, generator, deaths, spec.turn_based)
    policies, first = {}, 0
    for policy in spec.policies:
        alive = living[:, :, first : first + len(policy.agents)]
        first += len(policy.agents)
        policies[policy.name] = _policy_rollout(
            policy, alive, end, final_index, generator, memory, spec.turn_based
        )
    has_state = spec.state_size is not None
    return Rollout(
        policies=policies,
        episode_start=start,
        episode_end=end,
        final_index=final_index,
        first_step=np.where(start[0], 0, generator.integers(1, 20, size=slots)).astype(np.int64),
        episode=generator.integers(100, size=slots),
        slots=np.arange(slots, dtype=np.int64),
        workers=np.full(slots, -1, np.int32),
        version=int(generator.integers(5)),
        actor=0,
        state=_normal(generator, steps + 1, slots, spec.state_size or 0) if has_state else None,
        final_state=_normal(generator, len(final_index), spec.state_size or 0) if has_state else None,
    )


def _living(
    start: BoolArray, agents: int, generator: np.random.Generator, deaths: bool, turn_based: bool
) -> BoolArray:
    """Draw which agents act, [T+1, E, agents]: in turns, or from the start of an episode until death."""
    rows, slots = start.shape
    alive = np.ones((rows, slots, agents), bool)
    if turn_based:
        turn = generator.integers(agents, size=slots)
        for row in range(rows):
            # sometimes a player moves twice in a row
            turn = np.where(generator.random(slots) < 0.1, turn, (turn + 1) % agents)
            alive[row] = np.arange(agents) == turn[:, None]
    elif deaths:
        now = np.ones((slots, agents), bool)
        for row in range(rows):
            now = np.where(
                start[row][:, None],
                generator.random((slots, agents)) < 0.9,
                now & (generator.random((slots, agents)) < 0.85),
            )
            alive[row] = now
    return alive


def _policy_rollout(
    policy: PolicySpec,
    alive: BoolArray,
    end: np.ndarray,
    final_index: np.ndarray,
    generator: np.random.Generator,
    memory: int | None,
    turn_based: bool,
) -> PolicyRollout:
    rows, slots, agents = alive.shape
    acted = alive[:-1]
    mask = random_mask(policy.action, (rows, slots, agents), generator) if policy.has_mask else None
    if mask is not None:
        mask[~alive] = False
    obs = random_observations(policy, (rows, slots, agents), generator)
    if not turn_based:
        obs[~alive] = np.zeros((), obs.dtype)
    # The end of an episode concerns the agents that act in the last step; in a turn-based game all agents.
    ended = end[:, :, None] * (np.ones_like(acted) if turn_based else acted)
    died = acted & ~alive[1:] & (end == 0)[:, :, None] & (not turn_based)
    reward = _normal(generator, *acted.shape)
    if not turn_based:
        reward[~acted] = 0
    action = random_action(policy.action, acted.shape, generator, None if mask is None else mask[:-1])
    action[~acted] = 0
    return PolicyRollout(
        obs=obs,
        alive=alive,
        action=action,
        logp=np.where(acted, generator.uniform(-2.5, -0.5, acted.shape), 0).astype(np.float32),
        reward=reward,
        terminated=(ended == 1) | died,
        truncated=ended == 2,
        final_obs=random_observations(policy, (len(final_index), agents), generator),
        action_mask=mask,
        memory=None if memory is None else np.tanh(_normal(generator, slots, agents, memory)),
    )


def random_observations(policy: PolicySpec, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Draw observations [*shape, *observation_shape] of the policy's type."""
    obs: Array = np.zeros((*shape, *policy.observation_shape), policy.observation_dtype)
    for part in fields_of(obs).values():
        if part.dtype.kind == "f":
            part[...] = _normal(generator, *part.shape)
        else:
            part[...] = generator.integers(0, 2 if part.dtype.kind == "b" else 100, part.shape)
    return obs


def _normal(generator: np.random.Generator, *shape: int) -> FloatArray:
    return generator.standard_normal(shape).astype(np.float32)


def written_rollout(
    spec: EnvironmentSpec,
    alive: Mapping[str, Array],
    reward: Mapping[str, Array],
    end: Array,
    *,
    action: Mapping[str, Array] | None = None,
    logp: Mapping[str, Array] | None = None,
) -> Rollout:
    """Make a rollout with given rewards, deaths and ends, for results that are known in closed form.

    Observations and states are the number of the row, one-hot. The last ones of a truncated episode are those
    of the following row. An agent that acts and is not alive in the next row has died. The behaviour policy
    is uniform unless `logp` is given.

    Args:
        spec: Specification of the environment.
        alive: Policy -> [T+1, E, N].
        reward: Policy -> [T, E, N].
        end: 0: continues, 1: terminated, 2: truncated, [T, E].
        action: Policy -> [T, E, N]; default: 0.
        logp: Policy -> [T, E, N]; default: log(1/A).
    """
    steps, slots = end.shape
    final_index = np.argwhere(end == 2).astype(np.int32)
    start = np.zeros((steps + 1, slots), bool)
    start[0], start[1:] = True, end > 0
    policies = {}
    for policy in spec.policies:
        lives = np.asarray(alive[policy.name], bool)
        acted, going_on = lives[:-1], (end == 0)[:, :, None]
        rows = np.eye(steps + 1, policy.observation_size, dtype=np.float32)
        uniform = np.where(acted, -np.log(policy.action.sizes[0]), 0.0)
        policies[policy.name] = PolicyRollout(
            obs=rows[:, None, None] * lives[..., None],
            alive=lives,
            action=np.zeros(acted.shape, np.int64) if action is None else np.asarray(action[policy.name]),
            logp=np.asarray(uniform if logp is None else logp[policy.name], np.float32),
            reward=np.asarray(reward[policy.name], np.float32),
            terminated=acted & ((end == 1)[:, :, None] | (~lives[1:] & going_on)),
            truncated=acted & (end == 2)[:, :, None],
            final_obs=np.repeat(rows[final_index[:, 0] + 1][:, None], len(policy.agents), 1),
        )
    seen = np.eye(steps + 1, spec.state_size, dtype=np.float32)
    return Rollout(
        policies=policies,
        episode_start=start,
        episode_end=end.astype(np.uint8),
        final_index=final_index,
        first_step=np.zeros(slots, np.int64),
        episode=np.zeros(slots, np.int64),
        slots=np.arange(slots, dtype=np.int64),
        workers=np.full(slots, -1, np.int32),
        version=0,
        actor=0,
        state=np.repeat(seen[:, None], slots, 1),
        final_state=seen[final_index[:, 0] + 1],
    )


def observing_spec() -> EnvironmentSpec:
    """Make a specification with a policy of records, one of images and one of float32 arrays."""
    parts = (
        ObservationPart("view/image", (5, 4, 3), "uint8"),
        ObservationPart("place", (2,), "float32"),
        ObservationPart("flags", (3,), "bool"),
        ObservationPart("a", (1,), "float16"),
    )
    return make_spec(
        PolicySpec("eyes", ("a", "b"), (), DISCRETE, True, "float32", parts),
        PolicySpec("camera", ("c",), (6, 5, 1), DISCRETE, False, "uint8"),
        PolicySpec("plain", ("d",), (4,), DISCRETE),
    )
