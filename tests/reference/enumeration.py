"""The exact gradient of the expected return, by automatic differentiation.

The game is so small that all its trajectories can be listed.
"""

from __future__ import annotations

import numpy as np
import torch

from hpcmarl.algos.base import Algorithm
from hpcmarl.algos.batch import select
from hpcmarl.types import ActionSpace, Array, Rollout
from tests.support.rollouts import make_spec, random_rollout

AGENTS, ACTIONS, STEPS = 2, 2, 2
JOINT = ACTIONS**AGENTS
GAME = make_spec(agents=AGENTS, action=ActionSpace("discrete", (ACTIONS,)))


def all_trajectories(seed: int, steps: int = STEPS) -> Rollout:
    """List all trajectories of a random game of two agents, one per slot.

    Observations, states and rewards are random numbers that depend on all previous joint actions. The last
    step terminates the episode.
    """
    generator = np.random.default_rng(seed)
    rollout = random_rollout(GAME, steps, JOINT**steps, generator, whole_episode=True, truncations=False)
    part = rollout.policies["agent"]
    assert rollout.state is not None
    for slot in range(JOINT**steps):
        for t in range(steps):
            history, joint = slot % JOINT**t, slot // JOINT**t % JOINT
            part.obs[t, slot] = part.obs[t, history]
            rollout.state[t, slot] = rollout.state[t, history]
            part.action[t, slot] = [joint % ACTIONS, joint // ACTIONS]
            part.reward[t, slot] = part.reward[t, slot % JOINT ** (t + 1)]
    assert part.alive[:-1].all()
    assert part.terminated[-1].all()
    return rollout


def _log_probabilities(algorithm: Algorithm, rollout: Rollout) -> torch.Tensor:
    """Return log pi of each action, [T, E, N]."""
    policy, part = algorithm._policies["agent"], rollout.policies["agent"]
    seen = torch.from_numpy(part.obs[:-1].reshape(-1, part.obs.shape[-1]))
    logp, _ = policy.head.evaluate(policy(seen), torch.from_numpy(part.action.reshape(-1)), None)
    return logp.reshape(part.action.shape)


def exact_gradient(algorithm: Algorithm, rollout: Rollout, discount: float) -> Array:
    """Differentiate J, the sum over trajectories of probability times discounted return.

    The reward of a step is the mean over the agents.

    Returns:
        The gradient, [P].
    """
    logp = _log_probabilities(algorithm, rollout)
    weights = torch.tensor([discount**t for t in range(rollout.steps)])
    returns = (torch.from_numpy(rollout.policies["agent"].reward).mean(-1) * weights[:, None]).sum(0)
    algorithm._flat.zero_gradient()
    (logp.sum((0, 2)).exp() * returns).sum().backward()
    return algorithm._flat.gradient.copy()


def expected_gradient(algorithm: Algorithm, rollout: Rollout) -> Array:
    """Average the algorithm's gradient over all trajectories, weighted by their probability.

    The probabilities are those of the current policy.

    Returns:
        The expected gradient, [P].
    """
    logp = _log_probabilities(algorithm, rollout).detach().numpy()
    rollout.policies["agent"].logp[:] = logp
    probabilities = np.exp(logp.sum((0, 2)))
    assert abs(probabilities.sum() - 1) < 1e-5
    single = [algorithm.gradient([select(rollout, np.array([slot]))])[0] for slot in range(rollout.count)]
    total: Array = np.tensordot(probabilities, np.array(single), 1)
    return total
