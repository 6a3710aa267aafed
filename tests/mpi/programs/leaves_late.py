"""Rank 1 is gone before rank 0 begins to leave, which rank 0 only then can notice."""

import os
import time

from hpcmarl.train import join_world

transport = join_world()
if transport.rank == 1:
    os._exit(0)
time.sleep(1.0)
transport.close(10.0)
print("rank 0 has left", flush=True)
os._exit(0)
