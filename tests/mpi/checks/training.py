"""Whole runs on real ranks.

The runs have several sizes; some are resumed, deterministic, sparse or use replay. Traces of gradients are
played again.
"""

from dataclasses import replace
from unittest import mock

import numpy as np

from hpcmarl.comm import protocol
from hpcmarl.io.checkpoint import list_checkpoints, load_checkpoint
from hpcmarl.io.describe import run_files, verify_file
from hpcmarl.optim.rounds import Engine
from hpcmarl.roles.learner.optimizer_replica import OptimizerReplica
from tests.mpi.checks import Ranks, on_ranks
from tests.support.sparse import SPARSE, assert_same
from tests.support.worlds import ECHO, SPREAD, final_parameters, final_state, run_world, summary


def files_that_are_not_good(ranks: Ranks) -> list[dict]:
    found = [verify_file(path) for path in run_files(ranks.directory / "run")]
    assert found
    return [item for item in found if item["status"] != "good"]


@on_ranks(2, 4, reduce=("server", "mpi"))
def ranks_train(ranks: Ranks, reduce: str) -> None:
    ranks.train(SPREAD, f"rounds.reduce={reduce}", "eval.episodes=2", "trajectories.enabled=true")
    if ranks.rank == 0:
        told = summary(ranks.directory / "run")
        assert (told["status"], told["ranks"], told["updates"]) == ("finished", ranks.size, 6)
        assert not files_that_are_not_good(ranks)


@on_ranks(8, libraries=("openmpi",))
def three_groups_train_on_eight_ranks(ranks: Ranks) -> None:
    ranks.train(SPREAD, "topology.groups=3", "rounds.rule=malenia", "rounds.batch=6")
    if ranks.rank == 0:
        assert min(summary(ranks.directory / "run")["trajectories_by_group"]) > 0


@on_ranks(3, libraries=("openmpi",), reduce=("server", "mpi", "gloo", "horovod"))
def sparse_messages_train_as_whole_ones_do(ranks: Ranks, reduce: str) -> None:
    """Real ranks send sparse messages; virtual ranks, in the process of rank 0, send whole ones."""
    changes = (*SPARSE, f"rounds.reduce={reduce}", "deterministic=true", "stop.updates=8")
    ranks.train(ECHO, *changes)
    if ranks.rank == 0:
        with (
            mock.patch.object(protocol, "sparse_bytes", lambda size, count: 4 * size),
            mock.patch.object(OptimizerReplica, "summed", None),
        ):
            run_world(3, ranks.directory / "virtual", *changes, text=ECHO)
        states = [final_state(ranks.directory / name)["engine"]["optimizer"] for name in ("run", "virtual")]
        assert_same(*states, updates=8)


@on_ranks(4)
def a_deterministic_run_equals_virtual_ranks(ranks: Ranks) -> None:
    ranks.train(SPREAD, "deterministic=true", "stop.updates=4")
    ranks.train(SPREAD, "deterministic=true", "stop.updates=8", resume="auto")
    if ranks.rank == 0:
        run_world(4, ranks.directory / "virtual", "deterministic=true", "stop.updates=8")
        np.testing.assert_array_equal(
            final_parameters(ranks.directory / "run"), final_parameters(ranks.directory / "virtual")
        )


@on_ranks(3, libraries=("openmpi",))
def a_replaying_run_equals_virtual_ranks(ranks: Ranks) -> None:
    changes = (
        "deterministic=true",
        "algo.replay={learning_starts: 6, samples_per_insert: 3}",
        "algo.epsilon_steps=150",
        "algo.target_every=3",
    )
    ranks.train(ECHO, *changes, "stop.updates=4")
    ranks.train(ECHO, *changes, "stop.updates=8", resume="auto")
    if ranks.rank == 0:
        run_world(3, ranks.directory / "virtual", *changes, "stop.updates=8", text=ECHO)
        np.testing.assert_array_equal(
            final_parameters(ranks.directory / "run"), final_parameters(ranks.directory / "virtual")
        )
        assert (ranks.directory / "run" / "replay" / "group-0000" / "checkpoint-0000000008.h5") in list(
            run_files(ranks.directory / "run")
        )
        assert not files_that_are_not_good(ranks)


@on_ranks(3)
def actors_wait_for_a_slow_learner(ranks: Ranks) -> None:
    ranks.train(ECHO, "rounds.backpressure=true", "algo.replay.samples_per_insert=64", "stop.updates=300")
    if ranks.rank == 0:
        held = load_checkpoint(list_checkpoints(ranks.directory / "run" / "replay" / "group-0000")[0])[0]
        counted = held["collected"] - 15  # the 16th trajectory is the first that allows 64 draws
        # Without waiting, the ratio is 1 or 2. Trajectories that a learner has not yet held back are still
        # on their way when the run ends.
        assert 8 < held["used"] / counted <= 64


RENNALA = (
    "rennala",
    "rounds.rule=rennala",
    "rounds.batch=5",
    "algo.name=reinforce",
    "optimizer.name=nigt",
    "rounds.late=ignore",
)
OTHERS = (
    ("malenia", "rounds.rule=malenia", "rounds.batch=6", "optimizer.name=nigt"),
    ("sync", "rounds.rule=sync", "optimizer.name=adam"),
    ("afedpg", "rounds.rule=afedpg", "rounds.batch=2", "optimizer.name=nigt"),
)


@on_ranks(5, libraries=("openmpi",), rule=OTHERS)
@on_ranks(5, rule=(RENNALA,))
def a_trace_replays_to_the_same_bits(ranks: Ranks, rule: tuple[str, ...]) -> None:
    """Record the gradients that reach the server's rule, then pass them to a second engine."""
    trace, engines, contexts = [], [], []

    def keep(rank, context):
        contexts.append(context)
        if ranks.rank == 0:
            engine = rank.roles["server"].engine
            handle = engine.on_gradient

            def on_gradient(gradient):
                trace.append(replace(gradient, vector=np.array(gradient.vector)))
                return handle(gradient)

            engine.on_gradient = on_gradient
            engines.append(engine)

    ranks.train(SPREAD, "topology.groups=2", "stop.updates=20", *rule[1:], before=keep)
    if ranks.rank == 0:
        engine, context = engines[0], contexts[0]
        twin = Engine(context.rule(), context.optimizer(context.algorithm()))
        for gradient in trace:
            twin.on_gradient(gradient)
        assert twin.version == engine.version > 0
        assert twin.wasted == engine.wasted
        assert twin.optimizer.parameters.tobytes() == engine.optimizer.parameters.tobytes()
        assert twin.optimizer.query_point().tobytes() == engine.optimizer.query_point().tobytes()
