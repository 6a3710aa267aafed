"""Rank 0 fails after the others have finished, while they wait for it to leave."""

import time

from hpcmarl.runtime.abort import AbortHook
from hpcmarl.training import join_world

transport = join_world()
hook = AbortHook(transport)
try:
    if transport.rank == 0:
        time.sleep(1.0)
        raise RuntimeError("too late")
except RuntimeError as error:
    hook.fail(error)
transport.close()
