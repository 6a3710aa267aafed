"""Encoding of the hosts of all ranks as one short message.

Launchers mostly number the ranks of a host consecutively. The message holds one host and one count for each
sequence of consecutive ranks on a host. Its length therefore grows with the number of hosts rather than of
ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

import numpy as np

from hpcmarl.packing import Buffer, pack, unpack


def pack_hosts(hosts: Sequence[str], without_doorbell: Collection[int]) -> bytes:
    """Encode the hosts of all ranks.

    Args:
        hosts: Host name of each rank.
        without_doorbell: Ranks without a doorbell (comm/doorbell.py).

    Returns:
        A packed tree (hpcmarl.packing).
    """
    names = list(dict.fromkeys(hosts))
    numbers = {name: number for number, name in enumerate(names)}
    rows = [(numbers[name], len(list(ranks))) for name, ranks in groupby(hosts)]
    return bytes(
        pack(
            {
                "names": names,
                "rows": np.array(rows, np.int32).reshape(-1, 2),
                "without_doorbell": np.array(sorted(without_doorbell), np.int32),
            }
        )
    )


def unpack_hosts(message: Buffer) -> tuple[list[str], set[int]]:
    """Decode a message of `pack_hosts`.

    Returns:
        The host name of each rank, and the ranks without a doorbell.
    """
    table = unpack(message)
    hosts = [table["names"][number] for number, count in table["rows"].tolist() for _ in range(count)]
    return hosts, set(table["without_doorbell"].tolist())
