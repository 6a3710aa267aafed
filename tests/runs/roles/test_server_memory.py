"""Memory of the server: it grows with the groups and not with the rounds.

It hardly grows with the ranks of a group.
"""

import types
from collections import deque

import numpy as np
import pytest
import torch

from hpcmarl.comm.transport import Transport
from hpcmarl.config import Config
from hpcmarl.roles.base import Context
from tests.support.worlds import run_world

TINY = """
env: {id: mpe2.simple_v3, max_steps: 1}
algo: {name: ma_trace, unroll: 1, network: {hidden: [8]}}
optimizer: {name: nigt, step_size: 0.001}
topology: {environments_per_actor: 2, server: dedicated}
trajectories: {enabled: false}
eval: {episodes: 0}
stop: {updates: 40}
logging: {progress: false, every_seconds: 0.001}
checkpoint: {every_seconds: null}
"""
ELSEWHERE = (
    Context,
    Config,
    Transport,
    types.FunctionType,
    types.MethodType,
    types.ModuleType,
    type,
    torch.nn.Module,
    torch.Tensor,
)


def held(thing, seen=None):
    """Return the memory that can be reached from an object.

    Objects that belong to the whole rank are left out.

    Returns:
        Sizes of the arrays in bytes, and the number of other objects.
    """
    seen = set() if seen is None else seen
    if thing is None or id(thing) in seen or isinstance(thing, ELSEWHERE):
        return [], 0
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return held(thing.base, seen) if isinstance(thing.base, np.ndarray) else ([thing.nbytes], 1)
    if isinstance(thing, dict):
        inside = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        inside = list(thing)
    else:
        inside = [getattr(thing, name) for name in getattr(thing, "__slots__", ()) if hasattr(thing, name)]
        inside += list(getattr(thing, "__dict__", {}).values())
    arrays, others = [], 1
    for part in inside:
        more, further = held(part, seen)
        arrays += more
        others += further
    return arrays, others


def server_of(tmp_path, size, *overrides):
    server = run_world(
        size, tmp_path / f"{size}-{'-'.join(overrides)}".replace("/", "_")[:150], *overrides, text=TINY
    )[0].roles["server"]
    server.checkpoints.final = (
        None  # last states of all ranks, kept for the final checkpoint after the rounds
    )
    return server


def test_held_counts_arrays_and_objects_once():
    class Thing:
        def __init__(self):
            self.numbers = [1.5, 2.5]
            self.array = np.zeros(4)
            self.view = self.array[:2]

    assert held(Thing()) == ([32], 1 + 1 + 2 + 1)  # the object, its list, two numbers, one array


@pytest.mark.parametrize("rule", ["sync", "rennala", "malenia", "afedpg"])
def test_server_memory_does_not_grow_with_rounds(tmp_path, rule):
    few, many = (
        server_of(tmp_path, 3, f"rounds.rule={rule}", "topology.groups=2", f"stop.updates={updates}")
        for updates in (40, 240)
    )
    assert many.engine.version >= 240
    (arrays, others), (more_arrays, more) = held(few), held(many)
    # Allow for objects that may exist at this moment: unanswered points, reports, a sum of a round that has
    # begun. One object a round would be 200.
    spread = 100
    assert sum(more_arrays) <= sum(arrays) + 4 * many.engine.optimizer.parameters.nbytes
    assert more <= others + spread


def test_server_vectors_do_not_grow_with_actors(tmp_path):
    size = "algo.network.hidden=[64, 64]"
    alone = server_of(tmp_path, 5, "topology.groups=2", "rounds.rule=malenia", "rounds.batch=8", size)
    crowded = server_of(tmp_path, 11, "topology.groups=2", "rounds.rule=malenia", "rounds.batch=8", size)
    assert [len(server.context.topology.groups) for server in (alone, crowded)] == [2, 2]
    (arrays, others), (more_arrays, more) = held(alone), held(crowded)
    vector = alone.engine.optimizer.parameters.nbytes
    large, more_large = (len([size for size in sizes if size >= vector]) for sizes in (arrays, more_arrays))
    # A round that has begun may have up to two sums, and a point on its way to each group.
    assert more_large <= large + 4
    actors = len(crowded.context.topology.actors) - len(alone.context.topology.actors)
    assert actors == 6
    assert more - others <= 40 * actors  # the newest counters of each actor
    # three rows of RankTimes, nine activities each, and the counts of the slots
    each = 3 * 9 * 8 + 64
    assert (
        sum(size for size in more_arrays if size < vector)
        <= sum(size for size in arrays if size < vector) + each * actors
    )
