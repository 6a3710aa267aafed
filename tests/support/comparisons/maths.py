"""Comparisons of formulas: returns, operators, densities, operations and errors."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from hpcmarl.config import AgentNetworkConfig
from hpcmarl.maths.qlearning import greedy_actions, near_greedy, soft_mellowmax, softmax_value
from hpcmarl.maths.returns import rewards_to_go
from hpcmarl.maths.sparsity import Operations, erdos_renyi, growing_flops
from hpcmarl.maths.vtrace import vtrace
from hpcmarl.roles.evaluator import summarise
from hpcmarl.types import Array, Episode
from tests.reference import torchrl as theirs
from tests.reference.vtrace import random_columns, slow_vtrace
from tests.support.comparisons.base import compared
from tests.support.value_based import make

Pair = tuple[Any, Any]


@compared(
    "maths",
    "returns",
    "discounted rewards to go",
    "double sum in Python floats",
    bound=1e-6,
    cases=200,
    few=20,
)
def returns(seed: int) -> Pair:
    """Compare discounted rewards to go with a double sum."""
    generator = np.random.default_rng(seed)
    steps, discount = int(generator.integers(1, 30)), generator.uniform(0.05, 1.0)
    reward = generator.standard_normal(steps).astype(np.float32)
    return rewards_to_go(reward, discount), [
        sum(discount**h * float(reward[h]) for h in range(t, steps)) for t in range(steps)
    ]


@compared(
    "maths",
    "V-trace",
    "targets and advantages, with gaps",
    "recursion, `tests/reference/vtrace.py`",
    bound=1e-5,
    cases=100,
    few=10,
)
def vtrace_recursion(seed: int) -> Pair:
    """Compare V-trace with its recursion."""
    generator = np.random.default_rng(seed)
    gamma, lam, rho_max, c_max = (
        generator.uniform(0.3, 1.0),
        generator.uniform(),
        generator.uniform(0.5, 3.0),
        generator.uniform(0.5, 2.0),
    )
    data = random_columns(seed, int(generator.integers(1, 20)), 3)
    found = vtrace(*data.arguments(), discount=gamma, trace_lambda=lam, rho_max=rho_max, c_max=c_max)
    columns = [slow_vtrace(data, column, gamma, lam, rho_max, c_max) for column in range(3)]
    return (found.targets, found.advantages), [np.stack(parts, -1) for parts in zip(*columns, strict=True)]


@compared(
    "maths",
    "V-trace",
    "targets and advantages, λ = 1",
    "torchrl `vtrace_advantage_estimate`",
    bound=1e-5,
    cases=50,
    few=5,
    needs="torchrl",
)
def vtrace_torchrl(seed: int) -> Pair:
    """Compare V-trace with torchrl."""
    data, generator = theirs.random_columns(seed, 1 + seed % 40, 3, (1.0, 0.6)[seed % 2])
    discount, rho_max, c_max = (
        generator.uniform(0.5, 1.0),
        generator.uniform(0.1, 2.0),
        generator.uniform(0.1, 1.0),
    )
    target, behaviour = (generator.standard_normal(data.value.shape).astype(np.float32) for _ in range(2))
    given = (
        target - behaviour,
        data.value,
        data.last,
        data.reward,
        data.active,
        data.terminated,
        data.truncated,
        data.final,
    )
    found = vtrace(*given, discount=discount, rho_max=rho_max, c_max=c_max)
    return (found.advantages, found.targets), theirs.vtrace_estimate(
        data, target, behaviour, discount, rho_max, c_max
    )


@compared(
    "maths",
    "V-trace",
    "targets, λ = 1, all ratios 1",
    "closed form: n-step return",
    bound=1e-5,
    cases=100,
    few=10,
)
def vtrace_on_policy(seed: int) -> Pair:
    """Compare V-trace with all ratios 1 with the n-step return."""
    steps = 1 + seed % 20
    data = random_columns(seed, steps, 2, acting=1.1, ends=0.0, ratio=0.0)
    found = vtrace(*data.arguments(), discount=0.9)
    powers = [
        sum(0.9 ** (k - t) * data.reward[k].astype(float) for k in range(t, steps))
        + 0.9 ** (steps - t) * data.bootstrap
        for t in range(steps)
    ]
    return found.targets, np.array(powers)


# ---- operators of value-based learning


def _action_values(generator: np.random.Generator, *shape: int) -> tuple[Array, Array]:
    """Draw values, and masks that allow at least one action."""
    values, mask = generator.standard_normal(shape) * 3, generator.random(shape) < 0.6
    mask[..., generator.integers(shape[-1])] = True
    return values, mask


@compared(
    "maths",
    "soft mellowmax",
    "value over the allowed actions",
    "its formula in Python floats",
    bound=1e-12,
    cases=200,
    few=20,
)
def mellowmax(seed: int) -> Pair:
    """Compare soft mellowmax with its formula."""
    generator = np.random.default_rng(seed)
    values, mask = _action_values(generator, 4, 6)
    omega, alpha = generator.uniform(0.5, 10.0), generator.uniform(0.0, 3.0)
    wanted = []
    for row, allowed in zip(values.tolist(), mask.tolist(), strict=True):
        q = [value for value, may in zip(row, allowed, strict=True) if may]
        weights = [math.exp(alpha * x) / sum(math.exp(alpha * y) for y in q) for x in q]
        wanted.append(math.log(sum(w * math.exp(omega * x) for w, x in zip(weights, q, strict=True))) / omega)
    return soft_mellowmax(torch.tensor(values), torch.tensor(mask), omega, alpha), wanted


@compared(
    "maths",
    "softmax of RES",
    "value, double estimator",
    "enumeration of 60 joint actions",
    bound=1e-12,
    cases=100,
    few=10,
)
def res_softmax(seed: int) -> Pair:
    """Compare the softmax of RES with the enumeration of all joint actions.

    Joint values are weighted sums of utilities. The utilities of the two networks are independent.
    """
    generator, beta = np.random.default_rng(seed), (0.05, 1.0, 5.0)[seed % 3]
    sizes = (5, 4, 3)
    (online, mask), target = _action_values(generator, 3, 5), generator.standard_normal((3, 5)) * 3
    for agent, size in enumerate(sizes):
        mask[agent, size:] = False
        mask[agent, 0] |= not mask[agent].any()
    weights = generator.uniform(0.2, 2.0, 3)
    best = [int(np.where(mask[agent], online[agent], -np.inf).argmax()) for agent in range(3)]
    joints = [
        joint
        for joint in itertools.product(*map(range, sizes))
        if sum(one != other for one, other in zip(joint, best, strict=True)) <= 1
        and all(mask[agent, joint[agent]] for agent in range(3))
    ]
    scores, values = (
        np.array([sum(weights[k] * own[k, joint[k]] for k in range(3)) for joint in joints])
        for own in (online, target)
    )
    probabilities = np.exp(beta * (scores - scores.max()))
    tensors = [torch.tensor(array)[None] for array in (online, target)]
    allowed, active = torch.tensor(mask)[None], torch.ones(1, 3, dtype=torch.bool)
    greedy = greedy_actions(tensors[0], allowed)
    (first, exists), (second, _) = (near_greedy([each], [allowed], [active], [greedy]) for each in tensors)
    mixed = [(utilities * torch.tensor(weights)).sum(-1) for utilities in (first, second)]
    return softmax_value(*mixed, exists, beta), [float(probabilities @ values / probabilities.sum())]


# ---- sparse networks


@compared(
    "maths",
    "Erdős–Rényi",
    "densities of up to six layers",
    "bisection for ε in `d = min(1, ε(I+O)/(IO))`",
    bound=1e-9,
    cases=300,
    few=30,
)
def densities(seed: int) -> Pair:
    """Compare the Erdős–Rényi densities with a bisection."""
    generator = np.random.default_rng(seed)
    shapes = [tuple(generator.integers(1, 300, 2).tolist()) for _ in range(int(generator.integers(1, 7)))]
    sparsity = generator.uniform(0.0, 0.99)
    sizes, scores = (
        np.array([o * i for o, i in shapes], float),
        np.array([(o + i) / (o * i) for o, i in shapes]),
    )
    low, high = 0.0, 1.0 / scores.min()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if (np.minimum(1, middle * scores) * sizes).sum() < (1 - sparsity) * sizes.sum()
            else (low, middle)
        )
    return erdos_renyi(shapes, sparsity), np.minimum(1, low * scores)


@compared(
    "maths",
    "operations",
    "acting of recurrent agents",
    "torch `FlopCounterMode`, less one sum an output",
    bound=1e-12,
    cases=20,
)
def acting_operations(seed: int) -> Pair:
    """Compare the operations of acting with torch's count.

    torch counts 2 I O operations for a matrix with I inputs; the exact number has I - 1 sums per output.
    """
    generator = np.random.default_rng(seed)
    hidden, memory = (
        tuple(generator.integers(3, 40, int(generator.integers(1, 3))).tolist()),
        int(generator.integers(3, 40)),
    )
    algorithm = make("qmix", network=AgentNetworkConfig(hidden=hidden, body="gru", memory=memory))
    counted = 0
    for policy in algorithm.spec.policies:
        network = algorithm._online.policies[policy.name]
        rows = torch.zeros(len(policy.agents), policy.observation_size + len(policy.agents))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.outputs(network.cell(network.body(rows), torch.zeros(len(rows), memory)))
        outputs = sum(parameter.shape[0] for parameter in network.parameters() if parameter.ndim == 2)
        counted += counter.get_total_flops() - len(rows) * outputs
    return algorithm.operations([1.0] * len(algorithm.layers)).acting, float(counted)


@compared(
    "maths",
    "operations",
    "learning with growth rounds",
    "RigL's `(3 f_S ΔT + 2 f_S + f_D)/(ΔT + 1)`",
    bound=1e-12,
    cases=200,
    few=20,
)
def growth_rounds(seed: int) -> Pair:
    """Compare the operations of training with the formula of RigL."""
    generator = np.random.default_rng(seed)
    dense, between = generator.uniform(1.0, 2.0), int(generator.integers(1, 300))
    sparse = dense * generator.uniform(0.01, 0.5)
    counted = Operations(sparse, 3 * sparse, growing_flops(sparse, dense, 3)).training(between + 1, 1)
    return counted / (between + 1), (3 * sparse * between + 2 * sparse + dense) / (between + 1)


# ---- evaluation


@compared(
    "maths",
    "evaluation",
    "mean and stratified error, two environments",
    "all 729 samples of 3 episodes each",
    bound=1e-12,
    cases=20,
)
def stratified_error(seed: int) -> Pair:
    """Compare the standard error of an evaluation with the spread over all possible samples.

    Each environment has three equally likely returns. The error estimated from these three must equal the
    standard deviation of the mean over all samples.
    """
    generator = np.random.default_rng(seed)
    weights, returns_ = generator.integers(1, 6, 2).tolist(), generator.normal(size=(2, 3)) * [[1.0], [4.0]]

    def evaluated(samples: Any) -> Any:
        played = [
            [
                Episode(0, index, 1, float(value), {"agent": value}, True, {})
                for index, value in enumerate(own)
            ]
            for own in samples
        ]
        return summarise(played, weights)

    means = [
        evaluated(samples)["return_mean"]
        for samples in itertools.product(*(itertools.product(own, repeat=3) for own in returns_))
    ]
    found = evaluated(returns_)
    return [found["return_mean"], found["return_sem"]], [np.mean(means), np.std(means)]
