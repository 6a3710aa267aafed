"""The wire: message kinds (`protocol`), the layout of rollouts in them (`layout`), who is who (`topology`),
and transports.

`mpi` is imported only by those who join an MPI world, since importing it initialises MPI; a reduce backend
only by learners that sum.
"""

# rounds.reduce -> module:class of the learners' sums among themselves (comm/reductions/base.py says what such
# a class is)
BACKENDS = {
    "mpi": "hpcmarl.comm.reductions.mpi_allreduce:MpiAllReduce",
    "horovod": "hpcmarl.comm.reductions.horovod_allreduce:HorovodAllReduce",
    "gloo": "hpcmarl.comm.reductions.torch_allreduce:GlooAllReduce",
    "nccl": "hpcmarl.comm.reductions.torch_allreduce:NcclAllReduce",
}
# those that the survivors of a dead learner can form again; under the others the run ends and is resumed
REPAIRABLE = ("mpi", "horovod", "gloo")
