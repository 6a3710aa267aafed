"""Assignment of roles to ranks, a pure function of the world's size, its hosts and the configuration.

Every rank computes it at the start from the same arguments, so no messages are needed. `hpcmarl doctor`
prints it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice, pairwise

from hpcmarl.config import TopologyConfig
from hpcmarl.errors import ConfigError


@dataclass(frozen=True)
class Group:
    """A learner with its actors and their workers.

    Attributes:
        index: Number of the group, from 0.
        learner: Rank of the learner.
        actors: Ranks of the actors, at least one. A learner without other actors hosts one on its own rank.
        workers: Ranks of the workers of each actor, in the order of `actors`; empty without workers.
    """

    index: int
    learner: int
    actors: tuple[int, ...]
    workers: tuple[tuple[int, ...], ...] = ()

    @property
    def ranks(self) -> tuple[int, ...]:
        """All ranks of the group: each actor followed by its workers, then the learner if it is not there."""
        teams = self.workers or ((),) * len(self.actors)
        own = [rank for actor, team in zip(self.actors, teams, strict=True) for rank in (actor, *team)]
        return tuple(own) if self.learner in own else (*own, self.learner)


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
        roles += ["worker"] if rank in self._actors_by_worker else []
        return tuple(roles) or ("evaluator",)

    @cached_property
    def _groups_by_rank(self) -> dict[int, Group]:
        return {rank: group for group in self.groups for rank in group.ranks}

    @cached_property
    def _workers_by_actor(self) -> dict[int, tuple[int, ...]]:
        return {
            actor: team
            for group in self.groups
            for actor, team in zip(group.actors, group.workers, strict=bool(group.workers))
        }

    @cached_property
    def _actors_by_worker(self) -> dict[int, int]:
        return {worker: actor for actor, team in self._workers_by_actor.items() for worker in team}

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

    def workers_of(self, actor: int) -> tuple[int, ...]:
        """Return the ranks of an actor's workers; empty if it steps its environments itself."""
        return self._workers_by_actor.get(actor, ())

    def actor_of(self, worker: int) -> int:
        """Return the rank of a worker's actor.

        Raises:
            KeyError: If the rank has no worker.
        """
        return self._actors_by_worker[worker]

    def groups_lost(self, lost: Collection[int]) -> list[int]:
        """Return the groups that cannot continue without some ranks.

        Args:
            lost: The lost ranks.

        Returns:
            Indices of the groups that have lost their learner or all of their actors. An actor that has lost
            all of its workers counts as lost.
        """
        return [
            group.index
            for group in self.groups
            if group.learner in lost or all(self._cannot_act(actor, lost) for actor in group.actors)
        ]

    def _cannot_act(self, actor: int, lost: Collection[int]) -> bool:
        workers = self.workers_of(actor)
        return actor in lost or (bool(workers) and all(rank in lost for rank in workers))

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


def in_words(ranks: Iterable[int]) -> str:
    """Return a short text for a set of ranks: "rank 3", "ranks 0-7, 9"."""
    numbers, parts = sorted(ranks), list[list[int]]()
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
    return f"rank{'s' if len(numbers) != 1 else ''} {text}"


def assign_roles(size: int, hosts: Sequence[str], config: TopologyConfig) -> Topology:
    """Assign roles to every rank of the world.

    Rank 0 is the server. If ranks are few, it also hosts the first learner. The other ranks are ordered host
    by host, so that a learner shares a host with its actors. In this order the groups take blocks of one
    learner, its actors and their workers. With `placement: separate` all learners come first and all actors
    follow. The last `config.evaluators` ranks of the order belong to no group.

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
    workers = number_of_workers(config)
    if workers >= size:
        raise ConfigError(
            f"topology.workers_per_actor: {workers} workers and their actor need {workers + 1} ranks, and "
            f"there are {size}; start more ranks, or lower topology.workers_per_actor"
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
    counts = _member_counts(available, requested, config, dedicated)
    if config.placement == "separate":  # the first ranks are learners, the rest their actors
        order = _arrange_blocks(order, counts)
    groups, position = [], 0
    for index, count in enumerate(counts):
        learner, *members = order[position : position + 1 + count]
        groups.append(
            _group_with_workers(index, learner, members, hosts, workers, requested[index])
            if workers
            else Group(index, learner, tuple(members) or (learner,))
        )
        position += 1 + count
    alone = trains == 2 and not dedicated and len(groups) == 1 and not workers
    if alone and config.actors_per_learner == "auto":
        # Rank 0 acts, too: it would be idle otherwise.
        groups = [Group(0, groups[0].learner, (groups[0].learner, *groups[0].actors))]
    return Topology(size, tuple(hosts), tuple(groups))


def number_of_workers(config: TopologyConfig) -> int:
    """Return the number of workers of each actor; "auto" counts as 0 until it is measured."""
    return 0 if config.workers_per_actor == "auto" else config.workers_per_actor


def _group_with_workers(
    index: int, learner: int, members: Sequence[int], hosts: Sequence[str], workers: int, actors: int | str
) -> Group:
    """Divide the ranks of a group into actors with their workers, each on one host.

    On every host there are as many actors as have all of their workers there, and at least one. Ranks that
    are left over become further workers. If there are just enough ranks for the workers of one actor, the
    learner's rank hosts the actor.

    Args:
        index: Number of the group.
        learner: Rank of the learner.
        members: Ranks of the group without the learner's, host by host.
        hosts: Host name of each rank.
        workers: Number of workers of each actor, at least 1.
        actors: Requested number of actors of the group, or "auto".

    Raises:
        ConfigError: If an actor and its workers would be on different hosts, or there is no rank for workers.
    """
    by_host = {host: list(ranks) for host, ranks in groupby(members, lambda rank: hosts[rank])}
    remedy = "change the number of ranks of that host, or set topology.workers_per_actor: 0"
    if len(by_host) == 1 and hosts[learner] in by_host and (actors == 0 or len(members) in (1, workers)):
        return Group(index, learner, (learner,), (tuple(members),))
    teams: list[list[int]] = []
    for host, ranks in by_host.items():
        if len(ranks) < 2 or (actors != "auto" and len(ranks) < 1 + workers):
            raise ConfigError(
                f"topology.workers_per_actor: {workers}: an actor and its workers must be on one host, and "
                f"{host} has {len(ranks)} of the ranks of group {index}; {remedy}"
            )
        count = max(1, len(ranks) // (1 + workers))
        starts = [round(part * len(ranks) / count) for part in range(count + 1)]
        teams += [ranks[start:end] for start, end in pairwise(starts)]
    if not teams:
        raise ConfigError(
            f"topology.workers_per_actor: {workers}: group {index} has no rank for a worker; start more "
            "ranks, or set topology.workers_per_actor: 0"
        )
    if actors not in ("auto", len(teams)):
        found = ", ".join(f"{len(ranks)} on {host}" for host, ranks in by_host.items())
        raise ConfigError(
            f"topology.actors_per_learner: {actors} actors with {workers} workers each must each be on one "
            f"host, and group {index} has {found}; {remedy}"
        )
    return Group(index, learner, tuple(team[0] for team in teams), tuple(tuple(team[1:]) for team in teams))


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


def _ranks_for(actors: int, workers: int) -> int:
    """Return the number of ranks beside the learner's that some actors and their workers need."""
    return actors * (1 + workers) if actors else workers


def _is_dedicated(size: int, config: TopologyConfig, requested: Sequence[int | str]) -> bool:
    """Return whether the server has rank 0 for itself.

    With `server: auto` this depends on the other ranks. If all numbers of actors are given, the groups must
    need exactly these ranks. Otherwise the ranks must suffice for two actors in each group with "auto", or
    for one actor with its workers.
    """
    if config.server != "auto":
        return config.server == "dedicated"
    workers = number_of_workers(config)
    fixed = all(isinstance(actors, int) for actors in requested)
    least = _ranks_for(1, workers) if workers else 2
    needed = sum(
        1 + (_ranks_for(actors, workers) if isinstance(actors, int) else least) for actors in requested
    )
    return size - 1 == needed if fixed else size - 1 >= needed


def _member_counts(
    available: int, requested: Sequence[int | str], config: TopologyConfig, dedicated: bool
) -> list[int]:
    """Return the number of ranks of each group beside its learner's.

    Groups with "auto" share the remaining ranks equally. With 0 actors the learner's rank hosts the actor.
    """
    workers, evaluators = number_of_workers(config), config.evaluators
    groups, size = len(requested), available + dedicated + evaluators
    beside = f" ({evaluators} of them evaluators)" if evaluators else ""
    server = "a dedicated server" if dedicated else "the server on rank 0 beside the first learner"
    actors = sum(int(actors) for actors in requested if actors != "auto")
    fixed = sum(_ranks_for(int(actors), workers) for actors in requested if actors != "auto")
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
        each = f" of {workers} workers each" if workers else ""
        raise ConfigError(
            f"topology.actors_per_learner: {groups} groups with {actors} actors{each} together need {need} "
            f"ranks (server on rank 0 shared) or {need + 1} (dedicated), not {size}{beside}; change the "
            "number of ranks, or set actors_per_learner: auto"
        )
    shares = iter(
        [left // open_groups + (index < left % open_groups) for index in range(open_groups)]
        if open_groups
        else []
    )
    return [next(shares) if actors == "auto" else _ranks_for(int(actors), workers) for actors in requested]
