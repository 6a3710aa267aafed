"""Real ranks sum a recorded trace by each backend: the last rank stands by and must load nothing; the others compare with a server.

sums.py BACKEND,BACKEND… TRACE…
"""

import sys
import time

import numpy as np

from hpcmarl.comm.mpi import MpiTransport
from hpcmarl.comm.mpi_group import MpiGroup
from tests.replays import load_trace, new_replica, play, server_result

transport = MpiTransport()
backends, traces = sys.argv[1].split(","), [load_trace(path) for path in sys.argv[2:]]
hosts = transport.gather_hosts()
for backend in backends:
    for trace in traces:
        assert trace.groups <= transport.size - 1
        group = MpiGroup(transport.comm, list(range(trace.groups)), hosts, backend)
        for dtype in (np.float64, np.float32) if transport.rank < trace.groups else ():
            replica = new_replica(trace, transport.rank, group.start_sum, dtype)
            for _ in play(trace, replica):
                time.sleep(1e-4)
            expected = server_result(trace, dtype)
            exact = dtype is np.float64 and (trace.rule != "malenia" or trace.groups < 3)
            # the sums of float32 gradients are exact in float64, whatever the order; with malenia three scaled ones are not
            rounding = {"rtol": 0.0} if exact else {"rtol": 1e-12} if dtype is np.float64 else {"rtol": 1e-4, "atol": 1e-6}
            np.testing.assert_allclose(replica.optimizer.parameters, expected, err_msg=f"{backend} {trace.rule}", **rounding)
            digests = group._comm.allgather(replica.optimizer.parameters.tobytes())
            assert len(set(digests)) == 1, "the replicas differ"
        group.close()
if transport.rank == transport.size - 1:
    loaded = [name for name in sys.modules if name.startswith(("horovod", "hpcmarl.comm.horovod_sums", "hpcmarl.comm.torch_sums"))]
    assert not loaded, loaded
    print(f"{len(traces)} traces by {', '.join(backends)}: equal", flush=True)
transport.close()
