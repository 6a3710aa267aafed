"""Assignment of roles to ranks, a pure function of the world's size, its hosts and the configuration.

Every rank computes it at the start from the same arguments, so no messages are needed. `hpcmarl doctor`
prints it.
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
    """A learner and its actors.

    Attributes:
        index: Number of the group, from 0.
        learner: Rank of the learner.
        actors: Ranks of the actors, at least one. A learner without other actors hosts one on its own rank.
    """

    index: int
    learner: int
    actors: tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """Roles of all ranks of a world.

    Attributes:
        size: Number of ranks.
        hosts: Host name of each rank.
        groups: Groups of learners and actors. Ranks outside all groups, other than the server, only evaluate.
        server: Rank of the server, always 0. It also evaluates.
    """

    size: int
    hosts: tuple[str, ...]
    groups: tuple[Group, ...]
    server: int = 0

    def roles_of(self, rank: int) -> tuple[str, ...]:
        """Return the names of the roles on a rank, in the order in which the rank steps them."""
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
        """Return the group of a learner's or actor's rank.

        Raises:
            KeyError: If the rank is a dedicated server or an evaluator.
        """
        return self._groups_by_rank[rank]

    def actor_index(self, rank: int) -> int:
        """Return the number of the actor on a rank, counted from 0 over all groups in order.

        Raises:
            KeyError: If the rank has no actor.
        """
        return self._actor_indices[rank]

    def groups_lost(self, lost: Collection[int]) -> list[int]:
        """Return the groups that cannot continue without some ranks.

        Args:
            lost: The lost ranks.

        Returns:
            Indices of the groups that have lost their learner or all of their actors.
        """
        return [
            group.index
            for group in self.groups
            if group.learner in lost or all(rank in lost for rank in group.actors)
        ]

    @cached_property
    def actors(self) -> tuple[int, ...]:
        """Ranks of all actors, in the order of the groups."""
        return tuple(actor for group in self.groups for actor in group.actors)

    def table(self) -> list[dict[str, object]]:
        """Return one row for each rank, to be printed.

        Returns:
            Dictionaries with the keys rank, host, roles (joined by "+") and group. The group is None for a
            dedicated server and for evaluators.
        """
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
    """Assign roles to every rank of the world.

    Rank 0 is the server. If ranks are few, it also hosts the first learner. The other ranks are ordered host
    by host, so that a learner shares a host with its actors. In this order the groups take blocks of one
    learner and its actors. With `placement: separate` all learners come first and all actors follow. The last
    `config.evaluators` ranks of the order belong to no group.

    Args:
        size: Number of ranks.
        hosts: Host name of each rank.
        config: The `topology` section of the configuration.

    Raises:
        ConfigError: If the groups do not fit the world. The message names the sizes that fit.
    """
    settings = config.group_list
    if config.evaluators > size - 1:
        raise ConfigError(
            f"topology.evaluators: {config.evaluators} of {size} ranks leave no rank for a learner; allowed "
            f"here: 0 to {size - 1}"
        )
    requested = [config.actors_per_learner if group.actors is None else group.actors for group in settings]
    trains = size - config.evaluators
    dedicated = _is_dedicated(trains, config, requested)
    available = trains - 1 if dedicated else trains
    places = {host: place for place, host in enumerate(dict.fromkeys(hosts))}
    order = sorted(range(size), key=lambda rank: (places[hosts[rank]], rank))
    if dedicated:
        order.remove(0)
    else:
        order.sort(key=lambda rank: rank != 0)  # the first learner is on the server's rank
    order = order[:available]
    counts = _actor_counts(available, requested, config.evaluators, dedicated)
    if config.placement == "separate":  # the first ranks are learners, the rest their actors
        order = _arrange_blocks(order, counts)
    groups, position = [], 0
    for index, count in enumerate(counts):
        block = order[position : position + 1 + count]
        groups.append(Group(index, block[0], tuple(block[1:]) or (block[0],)))
        position += 1 + count
    if trains == 2 and not dedicated and len(groups) == 1 and config.actors_per_learner == "auto":
        # Rank 0 acts, too: it would be idle otherwise.
        groups = [Group(0, groups[0].learner, (groups[0].learner, *groups[0].actors))]
    return Topology(size, tuple(hosts), tuple(groups))


def _arrange_blocks(order: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Return the ranks in blocks of one learner and its actors.

    Args:
        order: Ranks of all learners, then those of all actors.
        counts: Number of actors of each learner.
    """
    learners, actors = order[: len(counts)], iter(order[len(counts) :])
    blocks: list[int] = []
    for learner, count in zip(learners, counts, strict=True):
        blocks += [learner, *islice(actors, count)]
    return blocks


def _is_dedicated(size: int, config: TopologyConfig, requested: Sequence[int | str]) -> bool:
    """Return whether the server has rank 0 for itself.

    With `server: auto` this depends on the other ranks. If all numbers of actors are given, the groups must
    need exactly these ranks. Otherwise the ranks must suffice for two actors in each group with "auto".
    """
    if config.server != "auto":
        return config.server == "dedicated"
    fixed = all(isinstance(actors, int) for actors in requested)
    needed = sum(1 + (actors if isinstance(actors, int) else 2) for actors in requested)
    return size - 1 == needed if fixed else size - 1 >= needed


def _actor_counts(
    available: int, requested: Sequence[int | str], evaluators: int, dedicated: bool
) -> list[int]:
    """Return the number of actors of each group.

    Groups with "auto" share the remaining ranks equally. With 0 actors the learner's rank hosts the actor.
    """
    groups, size = len(requested), available + dedicated + evaluators
    beside = f" ({evaluators} of them evaluators)" if evaluators else ""
    server = "a dedicated server" if dedicated else "the server on rank 0 beside the first learner"
    fixed = sum(int(actors) for actors in requested if actors != "auto")
    open_groups = sum(actors == "auto" for actors in requested)
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
    return [next(shares) if actors == "auto" else int(actors) for actors in requested]
