"""Replicas of the optimizer that sum the recorded gradients of a whole run.

They end at the parameters of the server.
"""

import itertools

import numpy as np
import pytest
import torch

from hpcmarl.comm.local import LocalWorld
from tests.support.replays import idle_learners, load_trace, new_replica, play, record, server_result

TRACES = [("rennala", 3, 2), ("rennala", 2, 5), ("sync", 3, 6), ("malenia", 2, 6), ("malenia", 3, 8)]


def array_sum(transport):
    """Return the sum of a virtual rank for arrays and tensors."""
    return lambda vector: transport.start_sum(np.asarray(vector))


@pytest.mark.parametrize("device", [None, torch.device("cpu")], ids=["array", "tensor"])
@pytest.mark.parametrize(("rule", "groups", "batch"), TRACES)
def test_replicas_equal_the_server_result(rule, groups, batch, device, tmp_path):
    record(tmp_path / "run", rule, groups, batch).save(tmp_path / "trace.npz")
    trace = load_trace(tmp_path / "trace.npz")
    assert idle_learners(trace) > 0 or (rule, batch) != ("rennala", 2)
    world = LocalWorld(groups)
    for dtype in (np.float64, np.float32):
        for transport in world.transports:
            transport.reduction_group(range(groups), ["here"] * groups, "mpi")
        replicas = [
            new_replica(trace, group, array_sum(world.transports[group]), dtype, device)
            for group in range(groups)
        ]
        for _ in itertools.zip_longest(*(play(trace, replica) for replica in replicas)):
            pass
        expected = server_result(trace, dtype)
        assert expected.dtype == dtype
        assert not np.array_equal(expected, trace.start)
        for replica in replicas:
            np.testing.assert_array_equal(replica.optimizer.parameters, replicas[0].optimizer.parameters)
            if dtype is np.float64:
                np.testing.assert_array_equal(replica.optimizer.parameters, expected)
            else:
                np.testing.assert_allclose(replica.optimizer.parameters, expected, rtol=1e-4, atol=1e-6)
