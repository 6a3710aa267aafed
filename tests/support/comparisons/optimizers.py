"""Comparisons of optimizers along given gradients: with the published loop of NIGT and with torch.optim."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hpcmarl.config import AdamConfig, NigtConfig, RmspropConfig, SgdConfig
from hpcmarl.optim import make_optimizer
from hpcmarl.types import Array
from tests.reference import nigt
from tests.support.comparisons.base import compared

STEPS, SIZE = 12, 7
Pair = tuple[Any, Any]


def _directions(seed: int) -> tuple[np.random.Generator, Array, Array]:
    generator = np.random.default_rng(seed)
    return generator, generator.normal(size=(STEPS, SIZE)), generator.normal(size=SIZE)


def _course(config: Any, gradients: Array, start: Array) -> Array:
    """Return our parameters after each step, [n, P]."""
    optimizer, found = make_optimizer(config, start), []
    for gradient in gradients:
        optimizer.step(gradient)
        found.append(optimizer.parameters.copy())
    return np.array(found)


def _torch_course(make: Any, gradients: Array, start: Array) -> Array:
    """Return the parameters of a maximising torch optimizer after each step, [n, P]."""
    parameter = torch.nn.Parameter(torch.tensor(start))
    twin, found = make([parameter]), []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        twin.step()
        found.append(parameter.detach().numpy().copy())
    return np.array(found)


def _clipped(gradients: Array, limit: float) -> Array:
    return gradients * np.minimum(1.0, limit / np.linalg.norm(gradients, axis=1, keepdims=True))


@compared(
    "optimizer",
    "nigt",
    "points and parameters of 12 steps",
    "published loop, `tests/reference/nigt.py`",
    bound=1e-12,
    cases=200,
    few=20,
)
def nigt_loop(seed: int) -> Pair:
    """Compare NIGT with its published loop."""
    generator, gradients, start = _directions(seed)
    alpha, eta = generator.uniform(1e-3, 0.5), (0.01, 0.1, 0.5, 1.0)[seed % 4]
    optimizer, points, theta = make_optimizer(NigtConfig(step_size=alpha, momentum=eta), start), [], [start]
    for gradient in gradients:
        points.append(optimizer.query_point().copy())
        optimizer.step(gradient)
        theta.append(optimizer.parameters.copy())
    return (np.array(points), np.array(theta)), nigt.course(gradients, start, alpha, eta)


@compared(
    "optimizer", "nigt", "‖lookahead − θ‖ of 12 steps", "closed form α(1−η)/η", bound=1e-10, cases=200, few=20
)
def nigt_invariant(seed: int) -> Pair:
    """Compare the length of NIGT's extrapolation with its closed form."""
    generator, gradients, start = _directions(seed)
    alpha, eta = generator.uniform(1e-3, 0.5), (0.001, 0.01, 0.1)[seed % 3]
    optimizer, found = make_optimizer(NigtConfig(step_size=alpha, momentum=eta), start), []
    for gradient in gradients:
        optimizer.step(gradient)
        found.append(np.linalg.norm(optimizer.query_point() - optimizer.parameters))
    return found, [alpha * (1 - eta) / eta] * STEPS


@compared(
    "optimizer",
    "adam",
    "parameters of 12 steps, clipped",
    "`torch.optim.Adam`",
    bound=1e-12,
    cases=200,
    few=20,
)
def adam(seed: int) -> Pair:
    """Compare Adam with torch."""
    generator, gradients, start = _directions(seed)
    size, first, second = (
        generator.uniform(1e-4, 0.1),
        generator.uniform(0.5, 0.95),
        generator.uniform(0.9, 0.999),
    )
    config = AdamConfig(step_size=size, beta1=first, beta2=second, epsilon=1e-6, max_gradient_norm=2.0)

    def twin(parameters: Any) -> Any:
        return torch.optim.Adam(parameters, lr=size, betas=(first, second), eps=1e-6, maximize=True)

    return _course(config, gradients, start), _torch_course(twin, _clipped(gradients, 2.0), start)


@compared(
    "optimizer",
    "rmsprop",
    "parameters of 12 steps, clipped",
    "`torch.optim.RMSprop`",
    bound=1e-12,
    cases=200,
    few=20,
)
def rmsprop(seed: int) -> Pair:
    """Compare RMSprop with torch."""
    generator, gradients, start = _directions(seed)
    size, decay = generator.uniform(1e-4, 0.1), generator.uniform(0.8, 0.99)
    config = RmspropConfig(step_size=size, decay=decay, epsilon=1e-5, max_gradient_norm=2.0)

    def twin(parameters: Any) -> Any:
        return torch.optim.RMSprop(parameters, lr=size, alpha=decay, eps=1e-5, maximize=True)

    return _course(config, gradients, start), _torch_course(twin, _clipped(gradients, 2.0), start)


@compared(
    "optimizer", "sgd", "parameters of 12 steps, clipped", "`torch.optim.SGD`", bound=1e-12, cases=200, few=20
)
def sgd(seed: int) -> Pair:
    """Compare SGD with torch."""
    generator, gradients, start = _directions(seed)
    size, momentum = generator.uniform(1e-4, 0.1), generator.uniform(0.0, 0.95)
    config = SgdConfig(step_size=size, momentum=momentum, max_gradient_norm=2.0)

    def twin(parameters: Any) -> Any:
        return torch.optim.SGD(parameters, lr=size, momentum=momentum, maximize=True)

    return _course(config, gradients, start), _torch_course(twin, _clipped(gradients, 2.0), start)
