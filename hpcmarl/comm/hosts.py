"""The hosts of all ranks as one short message, so that what each rank is told at the start does not grow with
the number of ranks.

Called by comm/mpi/mpi_transport.py. Launchers number the ranks of a host one after the other, mostly: the
message has a host and a count for each such row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

import numpy as np

from hpcmarl.packing import Buffer, pack, unpack


def pack_hosts(hosts: Sequence[str], deaf: Collection[int]) -> bytes:
    """Return the message.

    Args:
        hosts: Host of each rank.
        deaf: Ranks without a doorbell.
    """
    names = list(dict.fromkeys(hosts))
    numbers = {name: number for number, name in enumerate(names)}
    rows = [(numbers[name], len(list(ranks))) for name, ranks in groupby(hosts)]
    return bytes(
        pack(
            {
                "names": names,
                "rows": np.array(rows, np.int32).reshape(-1, 2),
                "deaf": np.array(sorted(deaf), np.int32),
            }
        )
    )


def unpack_hosts(message: Buffer) -> tuple[list[str], set[int]]:
    """Return the host of each rank, and the ranks without a doorbell."""
    table = unpack(message)
    hosts = [table["names"][number] for number, count in table["rows"].tolist() for _ in range(count)]
    return hosts, set(table["deaf"].tolist())
