"""The hosts of all ranks as one message."""

import pytest

from hpcmarl.comm.hosts import pack_hosts, unpack_hosts


@pytest.mark.parametrize(
    ("hosts", "without_doorbell"),
    [
        (["here"], []),
        (["a", "a", "b", "b", "a"], [3]),
        (["b", "a"] * 5, range(10)),
        (["node-ü"] * 1000, [0, 999]),
    ],
)
def test_hosts_arrive_as_they_were(hosts, without_doorbell):
    assert unpack_hosts(pack_hosts(hosts, without_doorbell)) == (hosts, set(without_doorbell))


def test_message_grows_with_hosts_not_with_ranks():
    sizes = [
        len(pack_hosts([f"node{rank // per_host:04}" for rank in range(8 * per_host)], []))
        for per_host in (1, 16, 128)
    ]
    assert len(set(sizes)) == 1
