"""Trains with a server and records what reached its rule, then replays the trace in-process: parameters must be bit-identical.

trace.py CONFIG RUN_DIRECTORY OVERRIDE…
"""

import sys
from dataclasses import replace

import numpy as np

from hpcmarl.config.file import load_config
from hpcmarl.launch.signals import StopSignals
from hpcmarl.optim.rounds import Engine
from hpcmarl.roles.rank import AbortHook, Rank, serve
from hpcmarl.roles.run import join_world, prepare

config = load_config(sys.argv[1], sys.argv[3:])
transport = join_world()
hook = AbortHook(transport)
context = prepare(transport, config, sys.argv[2], None)
rank = hook.rank = Rank(context)
trace = []
if transport.rank == 0:
    engine = rank.roles["server"].engine
    handle = engine.on_gradient

    def record(gradient):
        trace.append(replace(gradient, vector=np.array(gradient.vector)))
        return handle(gradient)

    engine.on_gradient = record
serve(rank, StopSignals())
rank.close()
if transport.rank == 0:
    algorithm = context.algorithm()
    twin = Engine(context.rule(), context.optimizer(algorithm))
    for gradient in trace:
        twin.on_gradient(gradient)
    assert twin.version == engine.version > 0
    assert twin.wasted == engine.wasted
    assert twin.optimizer.parameters.tobytes() == engine.optimizer.parameters.tobytes()
    assert twin.optimizer.point().tobytes() == engine.optimizer.point().tobytes()
    groups = sorted({gradient.group for gradient in trace})
    print(f"replayed {len(trace)} gradients of groups {groups}, {engine.wasted} wasted: identical", flush=True)
transport.close()
