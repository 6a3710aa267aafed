"""Which rank does what: a pure function of the world's size, its hosts and the configuration. Printed by
`hpcmarl doctor`.

Called by every rank at the start, with the same arguments, so nobody has to be told; knows no transport.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from hpcmarl.config import TopologyConfig
from hpcmarl.errors import ConfigError


@dataclass(frozen=True)
class Group:
    """One learner with its actors; a learner without actors of its own hosts one on its own rank."""

    index: int
    learner: int
    actors: tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """The roles of a world. Rank 0 is always the server's, and evaluates, too; ranks of a league that are in
    no group do nothing else.
    """

    size: int
    hosts: tuple[str, ...]
    groups: tuple[Group, ...]
    server: int = 0

    def roles_of(self, rank: int) -> tuple[str, ...]:
        """Names of the roles that a rank hosts, in the order in which it steps them."""
        roles = ["server", "evaluator"] if rank == self.server else []
        group = self._groups_by_rank.get(rank)
        roles += ["learner"] if group is not None and group.learner == rank else []
        roles += ["actor"] if rank in self._actor_indices else []
        return tuple(roles) or ("evaluator",)

    @cached_property
    def _groups_by_rank(self) -> dict[int, Group]:
        return {rank: group for group in self.groups for rank in (*group.actors, group.learner)}

    @cached_property
    def _actor_indices(self) -> dict[int, int]:
        return {rank: index for index, rank in enumerate(self.actors)}

    def group_of(self, rank: int) -> Group:
        """The group in which `rank` learns or acts; raises KeyError for a dedicated server or evaluator."""
        return self._groups_by_rank[rank]

    def actor_index(self, rank: int) -> int:
        """A number for each actor of the run, from 0, in group order. Raises KeyError for a rank without an
        actor.
        """
        return self._actor_indices[rank]

    def groups_lost(self, lost: Collection[int]) -> list[int]:
        """The groups that cannot go on without these ranks: their learner is among them, or all of their
        actors.
        """
        return [
            group.index
            for group in self.groups
            if group.learner in lost or all(rank in lost for rank in group.actors)
        ]

    @cached_property
    def actors(self) -> tuple[int, ...]:
        return tuple(actor for group in self.groups for actor in group.actors)

    def table(self) -> list[dict[str, object]]:
        """A row a rank: rank, host, roles, group (None for a dedicated server or evaluator)."""
        rows: list[dict[str, object]] = []
        for rank in range(self.size):
            group = self._groups_by_rank.get(rank)
            index = None if group is None else group.index
            rows.append(
                {
                    "rank": rank,
                    "host": self.hosts[rank],
                    "roles": "+".join(self.roles_of(rank)),
                    "group": index,
                }
            )
        return rows


def assign_roles(size: int, hosts: Sequence[str], config: TopologyConfig) -> Topology:
    """Give every rank of the world its roles.

    Rank 0 is the server. The other ranks, taken host by host so that a learner sits beside its actors, are
    dealt to the groups in blocks of (learner, actors…); with placement: separate all learners come first,
    then all actors. Where ranks are few the server shares rank 0 with the first learner. The last
    `config.evaluators` ranks of that order are in no group. Raises ConfigError when the groups do not fit the
    world, naming the sizes that do.
    """
    settings = config.group_list
    if config.evaluators > size - 1:
        raise ConfigError(
            f"topology.evaluators: {config.evaluators} of {size} ranks leave nobody to learn; allowed here: "
            f"0 to {size - 1}"
        )
    wanted = [config.actors_per_learner if group.actors is None else group.actors for group in settings]
    trains = size - config.evaluators
    dedicated = _is_dedicated(trains, config, wanted)
    available = trains - 1 if dedicated else trains
    places = {host: place for place, host in enumerate(dict.fromkeys(hosts))}
    order = sorted(range(size), key=lambda rank: (places[hosts[rank]], rank))
    if dedicated:
        order.remove(0)
    else:
        order.sort(key=lambda rank: rank != 0)  # the first learner is on the server's rank
    order = order[:available]
    counts = _actor_counts(available, wanted, config.evaluators, dedicated)
    if config.placement == "separate":  # the learners come first; below each takes its actors from the rest
        order = _deal(order, counts)
    groups, position = [], 0
    for index, count in enumerate(counts):
        block = order[position : position + 1 + count]
        groups.append(Group(index, block[0], tuple(block[1:]) or (block[0],)))
        position += 1 + count
    if trains == 2 and not dedicated and len(groups) == 1 and config.actors_per_learner == "auto":
        # rank 0 would idle otherwise
        groups = [Group(0, groups[0].learner, (groups[0].learner, *groups[0].actors))]
    return Topology(size, tuple(hosts), tuple(groups))


def _deal(order: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Ranks in blocks of (learner, actors…) where the first ranks are the learners and the others the actors,
    in order.
    """
    learners, actors = order[: len(counts)], iter(order[len(counts) :])
    dealt: list[int] = []
    for learner, count in zip(learners, counts, strict=True):
        dealt += [learner, *islice(actors, count)]
    return dealt


def _is_dedicated(size: int, config: TopologyConfig, wanted: Sequence[int | str]) -> bool:
    """Whether the server has rank 0 to itself: as asked, or when no actor has to be given up for it."""
    if config.server != "auto":
        return config.server == "dedicated"
    fixed = all(isinstance(actors, int) for actors in wanted)
    needed = sum(1 + (actors if isinstance(actors, int) else 2) for actors in wanted)
    return size - 1 == needed if fixed else size - 1 >= needed


def _actor_counts(available: int, wanted: Sequence[int | str], evaluators: int, dedicated: bool) -> list[int]:
    """Actors of each group: as asked, or an equal share of the ranks that are left (0: the learner steps
    environments itself).
    """
    groups, size = len(wanted), available + dedicated + evaluators
    beside = f" ({evaluators} of them evaluators)" if evaluators else ""
    server = "a dedicated server" if dedicated else "the server on rank 0 beside the first learner"
    fixed = sum(int(actors) for actors in wanted if actors != "auto")
    open_groups = sum(actors == "auto" for actors in wanted)
    left = available - groups - fixed
    if available < groups:
        raise ConfigError(
            f"topology.groups asks for {groups} learners, but a world of {size} ranks{beside} with {server} "
            f"has room for {max(available, 0)}; start at least "
            f"{groups + evaluators + (1 if dedicated else 0)} ranks or lower topology.groups"
        )
    if left < 0 or (open_groups == 0 and left > 0):
        need = groups + fixed + evaluators
        raise ConfigError(
            f"topology.actors_per_learner: {groups} groups with {fixed} actors together need {need} ranks "
            f"(server on rank 0 shared) or {need + 1} (dedicated), not {size}{beside}; change the number of "
            "ranks, or set actors_per_learner: auto"
        )
    shares = iter(
        [left // open_groups + (index < left % open_groups) for index in range(open_groups)]
        if open_groups
        else []
    )
    return [next(shares) if actors == "auto" else int(actors) for actors in wanted]
