"""Self-test of an MPI library with buffers on a GPU.

    mpiexec -n 2 python -m hpcmarl.comm.mpi.device_self_test

Rank 0 sends a buffer from its device, and rank 1 compares what it receives into its own. An MPI library that
is not GPU-aware fails or crashes, so this runs in processes of its own (doctor/devices.py). hpcmarl itself
sends buffers of main memory only, whatever the result.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from mpi4py import MPI

SIZE = 1 << 20  # numbers, 4 MiB: enough for the rendezvous protocol of all libraries


def main(device: str) -> int:
    """Send and compare on ranks 0 and 1.

    Args:
        device: "cuda", where ranks take the visible devices in turn, or "cpu".

    Returns:
        The exit code.
    """
    world = MPI.COMM_WORLD
    if world.Get_size() < 2:
        print("the launcher started no second rank", flush=True)
        return 1
    number = world.Get_rank() % max(1, torch.cuda.device_count())
    place = torch.device("cuda", number) if device == "cuda" else torch.device("cpu")
    expected = torch.arange(SIZE, dtype=torch.float32, device=place)
    buffer = expected.clone() if world.Get_rank() == 0 else torch.zeros_like(expected)
    if device == "cuda":
        torch.cuda.synchronize(place)
    passed: Any = buffer if device == "cuda" else buffer.numpy()
    if world.Get_rank() == 0:
        world.Send(passed, 1)
    elif world.Get_rank() == 1:
        world.Recv(passed, 0)
        if not torch.equal(buffer, expected):
            print("the received buffer differs", flush=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "cuda"))
