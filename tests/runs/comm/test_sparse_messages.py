"""Messages of sparse runs have only the active weights; training is the same to the bit."""

import numpy as np
import pytest

from hpcmarl.comm import local, protocol
from hpcmarl.comm.protocol import HEADER_BYTES, Flags, Kind, read_header
from hpcmarl.roles.learner.optimizer_replica import OptimizerReplica
from tests.support.sparse import EVERY, SPARSE, assert_same
from tests.support.worlds import ECHO, final_state, run_world


@pytest.fixture
def sent(monkeypatch):
    """Record (kind, version, bytes of payload, whether sparse) of every vector sent between ranks."""
    seen = []
    send = local.LocalTransport.send

    def spy(transport, destination, buffer):
        header = read_header(buffer)
        if header.kind in (Kind.GRADIENT, Kind.PARAMETERS, Kind.WEIGHTS) and buffer.size > HEADER_BYTES:
            is_sparse = bool(header.flags & Flags.SPARSE)
            seen.append((header.kind, header.version, buffer.size - HEADER_BYTES, is_sparse))
        return send(transport, destination, buffer)

    monkeypatch.setattr(local.LocalTransport, "send", spy)
    return seen


def both_ways(tmp_path, monkeypatch, size, *changes):
    """Run with sparse messages and with whole ones.

    Returns:
        For each of the two runs: the final optimizer state and the norm of the last direction.
    """
    found = []
    for name in ("sparse", "dense"):
        if name == "dense":
            monkeypatch.setattr(protocol, "sparse_bytes", lambda size, count: 4 * size)
            monkeypatch.setattr(OptimizerReplica, "summed", None)
        ranks = run_world(size, tmp_path / name, *SPARSE, *changes, "stop.updates=10", text=ECHO)
        found.append(
            (
                final_state(tmp_path / name)["engine"]["optimizer"],
                ranks[0].roles["server"].engine.direction_norm,
            )
        )
    return found


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("deterministic=true",),
        ("topology.groups=2",),
        ("topology.groups=2", "rounds.rule=rennala"),
        ("topology.groups=2", "rounds.rule=malenia", "rounds.batch=32"),
        ("rounds.rule=afedpg",),
        ("rounds.rule=afedpg", "algo.sparse.growth=none"),
        ("topology.groups=2", "rounds.reduce=mpi"),
        ("topology.groups=2", "rounds.reduce=mpi", "algo.sparse.growth=random"),
        ("algo.sparse.growth=random",),
        ("algo.sparse.growth=none",),
        # The optimizer looks ahead. Its point, too, is zero at inactive weights.
        ("optimizer={name: nigt, step_size: 0.01}",),
    ],
    ids=str,
)
def test_sparse_messages_do_not_change_training(tmp_path, monkeypatch, sent, changes):
    (first, told), (second, whole) = both_ways(tmp_path, monkeypatch, 5, *changes)
    assert_same(first, second)
    assert not any(first["parameters"][~first["topology"]["mask"]])
    assert told == whole
    assert (told > 0) == ("rounds.reduce=mpi" not in changes)
    half = len(sent) // 2  # both runs send the same messages
    assert [message[:2] for message in sent[:half]] == [message[:2] for message in sent[half:]]
    assert not any(message[3] for message in sent[half:])
    size = first["parameters"].size
    for kind, version, length, sparse in sent[:half]:
        if kind is not Kind.GRADIENT:
            wanted = True
        elif "rounds.rule=afedpg" in changes:
            wanted = "algo.sparse.growth=none" in changes
        else:
            wanted = any("growth" in change for change in changes) or (version + 1) % EVERY != 0
        assert sparse == wanted, (kind, version)
        assert length < 0.45 * 4 * size if sparse else length == 4 * size
    kinds = {kind for kind, *_ in sent}
    assert kinds == (
        {Kind.WEIGHTS} if "rounds.reduce=mpi" in changes else {Kind.GRADIENT, Kind.PARAMETERS, Kind.WEIGHTS}
    )


def test_dense_runs_and_nearly_dense_ones_send_whole_vectors(tmp_path, sent):
    run_world(2, tmp_path / "dense", "algo.replay.learning_starts=6", text=ECHO)
    run_world(2, tmp_path / "nearly", *SPARSE, "algo.sparse.sparsity=0.01", text=ECHO)
    assert sent
    assert not any(message[3] for message in sent)


def test_learners_reduce_only_active_weights(tmp_path, monkeypatch):
    sizes = []
    start = local.LocalTransport.start_sum
    monkeypatch.setattr(
        local.LocalTransport,
        "start_sum",
        lambda transport, vector: sizes.append(vector.size) or start(transport, vector),
    )
    run_world(
        5, tmp_path / "run", *SPARSE, "topology.groups=2", "rounds.reduce=mpi", "stop.updates=7", text=ECHO
    )
    size, active = (final_state(tmp_path / "run")["engine"]["optimizer"]["parameters"].size, [])
    mask = final_state(tmp_path / "run")["engine"]["optimizer"]["topology"]["mask"]
    active = int(np.count_nonzero(mask))  # as many weights are removed as are added
    assert sizes == [
        count + 1 for update in range(1, 8) for count in [size if update % EVERY == 0 else active] * 2
    ]
