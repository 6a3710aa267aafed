"""Train with every algorithm in one world of a server, a learner and an actor.

Prints for each algorithm which of torch and mpe2 each rank has loaded.
"""

import sys
from pathlib import Path

from hpcmarl.algos import ALGORITHMS
from hpcmarl.config.file import load_config
from hpcmarl.launch.signals import StopSignals
from hpcmarl.runtime.abort import AbortHook
from hpcmarl.runtime.rank import serve
from hpcmarl.training import join_world, make_rank, prepare
from tests.support.worlds import SPREAD

KEPT = ("env:", "topology:", "logging:")
BASE = "\n".join(line for line in SPREAD.splitlines() if line.startswith(KEPT))
MORE = {
    "iql": ["algo.replay.learning_starts=2"],
    "vdn": ["algo.replay.learning_starts=2"],
    "qmix": ["algo.replay.learning_starts=2"],
    "maddpg": ["algo.replay.learning_starts=2"],
    "masac": ["algo.replay.learning_starts=2"],
} | {name: ["algo.replay.learning_starts=2", "algo.normalise_observations=true"] for name in ("wqmix", "res")}

transport = join_world()
hook = AbortHook(transport)
try:
    for name in ALGORITHMS:
        changes = [
            f"algo.name={name}",
            "rounds.batch=4",
            "stop.updates=2",
            "eval.episodes=2",
            *MORE.get(name, []),
        ]
        context = prepare(transport, load_config(BASE, changes), str(Path(sys.argv[1]) / name), None)
        rank = make_rank(context)
        assert serve(rank, StopSignals()) == 0
        rank.close()
        loaded = transport.gather(
            "+".join(name for name in ("torch", "mpe2") if name in sys.modules).ljust(10).encode()
        )
        if transport.rank == 0:
            roles = ["+".join(context.topology.roles_of(each)) for each in range(transport.size)]
            print(
                name,
                *(f"{role}={names.decode().strip()}" for role, names in zip(roles, loaded, strict=True)),
                flush=True,
            )
    transport.close()
except BaseException as error:
    hook.fail(error)
