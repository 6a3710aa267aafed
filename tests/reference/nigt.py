"""The published loop of normalised momentum with implicit gradient transport (arXiv 2509.24305)."""

from __future__ import annotations

import numpy as np

from hpcmarl.types import Array


def course(gradients: Array, start: Array, alpha: float, eta: float) -> tuple[Array, Array]:
    """Step along given gradients.

    Args:
        gradients: Gradients in order, [n, P].
        start: Initial parameters, [P].
        alpha: Step size.
        eta: Momentum.

    Returns:
        The points at which each gradient is taken, [n, P], and the parameters before the first and after each
        step, [n + 1, P].
    """
    points, theta, d = [start], [start], gradients[0]
    theta.append(start + alpha * d / np.linalg.norm(d))
    for t in range(1, len(gradients)):
        points.append(theta[t] + (1 - eta) / eta * (theta[t] - theta[t - 1]))
        d = (1 - eta) * d + eta * gradients[t]
        theta.append(theta[t] + alpha * d / np.linalg.norm(d))
    return np.array(points), np.array(theta)
