"""Communication between ranks: message kinds (`protocol`), roles of ranks (`topology`) and transports.

Only processes that join an MPI world import `mpi`, because importing it initialises MPI. Only learners that
sum among themselves import a backend of `reductions`.
"""

# rounds.reduce -> module:class of the sums among learners; interface: comm/reductions/base.py
BACKENDS = {
    "mpi": "hpcmarl.comm.reductions.mpi_allreduce:MpiAllReduce",
    "horovod": "hpcmarl.comm.reductions.horovod_allreduce:HorovodAllReduce",
    "gloo": "hpcmarl.comm.reductions.torch_allreduce:GlooAllReduce",
    "nccl": "hpcmarl.comm.reductions.torch_allreduce:NcclAllReduce",
}
# Backends that the surviving learners can form again after a death. With the other backends the run ends and
# must be resumed.
REPAIRABLE = ("mpi", "horovod", "gloo")
