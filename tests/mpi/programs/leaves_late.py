"""Rank 1 exits before rank 0 begins to leave; rank 0 can notice this only then."""

import os
import time

from hpcmarl.training import join_world

transport = join_world()
if transport.rank == 1:
    os._exit(0)
time.sleep(1.0)
transport.close(10.0)
print("rank 0 has left", flush=True)
os._exit(0)
