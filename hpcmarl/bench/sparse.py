"""Compare dense and sparse weights in acting, learning and messages, by hidden width and sparsity.

The policy is that of a value-based algorithm. Its masks are random, as at the start of sparse training.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hpcmarl.comm.protocol import Kind, vector_message, vector_of
from hpcmarl.config import AgentNetworkConfig, SparseConfig
from hpcmarl.nets.choosers import EpsilonGreedy
from hpcmarl.nets.flat import FlatParameters
from hpcmarl.nets.numpy_policy import NumpyPolicy
from hpcmarl.nets.parameters import ParameterLayout, aligned_zeros
from hpcmarl.nets.policy import LayeredPolicy
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.optim.sparse import SparseTopology
from hpcmarl.types import ActionSpace, BoolArray, FloatArray, PolicyFrame, PolicySpec

WIDTHS = (64, 256, 1024)
SPARSITIES = (0.0, 0.8, 0.9, 0.95)
OBSERVATION, ACTIONS, AGENTS, SLOTS = 128, 16, 3, 8
REPEATS = 8  # calls of one kind in a row
UNROLL, EPISODES = 8, 32  # steps and episodes of a training batch


class Case:
    """One policy in three weight formats: dense, CSR, and the fastest measured format of each matrix.

    Args:
        width: Width of the hidden layer and of the GRU.
        sparsity: Share of zeros in the weights.
    """

    def __init__(self, width: int, sparsity: float) -> None:
        generator = np.random.default_rng(width)
        action = ActionSpace("discrete", (ACTIONS,))
        spec = PolicySpec("agent", tuple(f"agent_{index}" for index in range(AGENTS)), (OBSERVATION,), action)
        network = AgentNetworkConfig(hidden=(width,), memory=width)
        shape = PolicyShape(spec, network, ACTIONS)
        self.policy, self.layout = LayeredPolicy(shape), ParameterLayout({"agent": shape})
        vector = aligned_zeros(self.layout.size)
        self.layout.draw(vector, width)
        self.flat = FlatParameters(self.layout, {"agent": self.policy}, vector)
        self.mask: BoolArray = SparseTopology(
            SparseConfig(sparsity=sparsity), self.layout.layers, self.layout.size, generator
        ).mask
        self.parameters: FloatArray = np.where(self.mask, self.flat.vector, np.float32(0.0))
        self.flat.load(self.parameters)
        arrays = {name.removeprefix("agent."): array for name, array in self.layout.named(vector).items()}
        self.actors = {
            kind: NumpyPolicy(shape, EpsilonGreedy(action, 0.05), arrays)
            for kind in ("dense", "csr", "sparse")
        }
        self.actors["csr"].become_sparse(measured=False)
        self.actors["sparse"].become_sparse(measured=True)
        self.frame = PolicyFrame(
            generator.standard_normal((SLOTS, AGENTS, OBSERVATION)).astype(np.float32),
            np.ones((SLOTS, AGENTS), bool),
        )
        self.starts, self.memory = np.zeros(SLOTS, bool), np.zeros((SLOTS, AGENTS, width), np.float32)
        self.generator = generator
        self.episodes = torch.from_numpy(
            generator.standard_normal((UNROLL, EPISODES, AGENTS, OBSERVATION)).astype(np.float32)
        )

    def act(self, kind: str) -> None:
        """Choose one action for every agent of every slot."""
        self.actors[kind].act(self.frame, self.starts, self.memory, self.generator, greedy=True)

    def act_anew(self, kind: str) -> None:
        """Choose actions right after new parameters, which have other values in the same places."""
        self.flat.load(self.parameters)
        self.actors[kind].refresh()
        self.act(kind)

    def learn(self, masks: tuple[BoolArray, BoolArray] | None) -> None:
        """Run a forward and a backward pass over a short unroll.

        Args:
            masks: Active weights of the GRU's two matrices; None: use all weights.
        """
        self.policy.unroll_where(masks)
        self.flat.zero_gradient()
        alive = torch.ones(self.episodes.shape[:3], dtype=torch.bool)
        raw = self.policy.unroll(
            self.episodes,
            alive,
            torch.zeros(UNROLL, EPISODES, dtype=torch.bool),
            torch.zeros(EPISODES, *self.memory.shape[1:]),
        )
        raw.square().sum().backward()  # type: ignore[no-untyped-call]

    def send(self, mask: BoolArray | None) -> None:
        """Write a message with the parameters and read it."""
        vector_of(vector_message(Kind.WEIGHTS, self.parameters, mask), self.layout.size)

    def row(self, width: int, sparsity: float, seconds: float) -> dict[str, Any]:
        """Measure for about `seconds` and return one row."""
        calls: dict[str, tuple[Callable[[Any], None], Any]] = {
            f"{kind}_us": (self.act, kind) for kind in self.actors
        }
        calls |= {f"{kind}_first_us": (self.act_anew, kind) for kind in ("dense", "sparse")}
        calls |= {"dense_message_us": (self.send, None), "sparse_message_us": (self.send, self.mask)}
        first, second = (self.mask[layer.place].reshape(layer.shape) for layer in self.layout.layers[1:3])
        calls |= {
            "dense_learning_us": (self.learn, None),
            "sparse_learning_us": (self.learn, (first, second)),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        began = time.perf_counter()
        while time.perf_counter() - began < seconds or len(times["dense_us"]) <= REPEATS:
            for name, (call, argument) in calls.items():
                for _ in range(1 if "learning" in name else REPEATS):
                    start = time.perf_counter()
                    call(argument)
                    times[name].append(1e6 * (time.perf_counter() - start))
        forms = self.actors["sparse"].sparse
        return {
            "width": width,
            "sparsity": sparsity,
            **{
                name: round(float(np.median(taken[len(taken) // 4 :])), 1) for name, taken in times.items()
            },  # without the first quarter, which is cold
            "dense_bytes": vector_message(Kind.WEIGHTS, self.parameters).nbytes,
            "sparse_bytes": vector_message(Kind.WEIGHTS, self.parameters, self.mask).nbytes,
            "dense_memory_bytes": sum(layer.shape[0] * layer.shape[1] for layer in self.layout.layers)
            * self.parameters.itemsize,
            "sparse_memory_bytes": sum(weight.bytes for weight in forms),
            "forms": [weight.form for weight in forms],
        }


def run(
    seconds: float, on_progress: Callable[[int, int], object] = lambda done, total: None
) -> list[dict[str, Any]]:
    """Return one row for each width and sparsity.

    Args:
        seconds: Measuring time in total.
        on_progress: Called at the beginning and after each row, with the numbers of rows done and of all.
    """
    torch.set_num_threads(1)
    cases = [(width, sparsity) for width in WIDTHS for sparsity in SPARSITIES]
    each = seconds / len(cases)
    rows = list[dict[str, Any]]()
    on_progress(0, len(cases))
    for width, sparsity in cases:
        rows.append(Case(width, sparsity).row(width, sparsity, each))
        on_progress(len(rows), len(cases))
    return rows
