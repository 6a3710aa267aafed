"""Whether the ranks of each host fit into its memory."""

from __future__ import annotations

from hpcmarl.comm.topology import assign_roles
from hpcmarl.config import TopologyConfig
from hpcmarl.launch.memory import available_memory, resident_memory
from hpcmarl.runtime.host_memory import (
    LEARNER_BYTES,
    RANK_BYTES,
    UNKNOWN,
    MemoryFacts,
    crowded_hosts,
    least_bytes,
)

HOSTS = ["small"] * 3 + ["large"] * 3


def topology():
    return assign_roles(6, HOSTS, TopologyConfig())


def test_learners_alone_are_counted_with_torch() -> None:
    roles = topology()
    learner = roles.groups[0].learner
    assert least_bytes(roles, learner, 0) == LEARNER_BYTES
    assert {least_bytes(roles, rank, 0) for rank in range(6) if rank != learner} == {RANK_BYTES}
    assert least_bytes(roles, learner, 1000) > LEARNER_BYTES


def test_a_host_without_room_is_named_with_both_figures() -> None:
    facts = [MemoryFacts(50e6, 100e6)] * 3 + [MemoryFacts(50e6, 10e9)] * 3
    (warning,) = crowded_hosts(topology(), 0, facts)
    needed = sum(least_bytes(topology(), rank, 0) for rank in range(3))
    assert warning.startswith(f"small: 3 ranks need about {needed / 1e9:.1f} GB, and 0.2 GB are available")
    assert not crowded_hosts(topology(), 0, [MemoryFacts(50e6, 10e9)] * 6)
    assert len(crowded_hosts(topology(), 10**9, [MemoryFacts(50e6, 10e9)] * 6)) == 2


def test_memory_that_a_system_does_not_tell_warns_of_nothing() -> None:
    assert not crowded_hosts(topology(), 10**9, [MemoryFacts(0.0, UNKNOWN)] * 6)


def test_this_process_takes_less_than_is_there() -> None:
    there = available_memory()
    assert there is not None
    assert 1e7 < resident_memory() < there
