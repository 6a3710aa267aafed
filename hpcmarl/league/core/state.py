"""State of a league: progress of members, snapshots of the pool, results of games and pending matches.

The league's server keeps this state and writes it into the league's checkpoints. `hpcmarl league` reads it. A
team is represented by a number, a snapshot by its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpcmarl.config.league import FreezeConfig
from hpcmarl.config.members import LeagueConfig, MemberConfig
from hpcmarl.league.core.kinds import MemberKind
from hpcmarl.league.core.matchmaking import Matchmaker, Mixture, View
from hpcmarl.league.core.payoff import LiveRecord, Payoff
from hpcmarl.league.core.psro import Psro
from hpcmarl.league.core.registry import make_kind, make_matchmaker, make_strategy
from hpcmarl.league.core.snapshots import Snapshot, columns_of, snapshots_from
from hpcmarl.types import IntArray


@dataclass
class Member:
    """Progress of one member.

    A generation is training from initial weights. `version`, `frozen_version` and `env_steps` count in the
    present generation. `updates_before` and `env_steps_before` are the totals of earlier generations.

    Attributes:
        index: Place of the member in `LeagueState.members`.
        name: Name of the member.
        side: Side that it plays.
        config: Settings of the member.
        live: Record of its training games against each snapshot.
        matchmaker: Rule that selects its opponents.
        generation: Number of the present generation, from 1.
        version: Updates in the present generation.
        frozen_version: Version of the newest snapshot in the present generation; 0: none yet.
        env_steps: Environment steps in the present generation.
        episodes: Episodes, as reported by its team.
        updates_before: Updates in earlier generations.
        env_steps_before: Environment steps in earlier generations.
        terms: Training assignments that ended with a snapshot. The initial weights (0) do not count.
        against: Number of training games against each snapshot.
        met: Number of games against each snapshot in the present assignment.
        team: Group that trains the member now; None: no group.
    """

    index: int
    name: str
    side: str
    config: MemberConfig
    live: LiveRecord
    matchmaker: Matchmaker
    generation: int = 1
    version: int = 0
    frozen_version: int = 0
    env_steps: int = 0
    episodes: int = 0
    updates_before: int = 0
    env_steps_before: int = 0
    terms: int = 0
    against: dict[int, int] = field(default_factory=dict)
    met: Counter[int] = field(default_factory=Counter)
    team: int | None = None

    @property
    def updates(self) -> int:
        """Number of updates in all generations."""
        return self.updates_before + self.version

    @property
    def all_env_steps(self) -> int:
        """Number of environment steps in all generations."""
        return self.env_steps_before + self.env_steps

    @property
    def directory(self) -> str:
        """Directory of checkpoints and metrics of the present generation, relative to the run directory."""
        return f"members/{self.name}/{self.generation:04d}"


MOST_MET = 5  # opponents of an assignment in the record of its snapshot
PROGRESS = (
    "generation",
    "version",
    "frozen_version",
    "env_steps",
    "episodes",
    "updates_before",
    "env_steps_before",
    "terms",
)


class LeagueState:
    """State of a league. Numbers of snapshots are their places in `snapshots`.

    Args:
        config: Settings of the league.
        members: Settings and side of each member, by name.
        sides: The only side, or the two sides that meet.
        seed: Seed of the run.
    """

    def __init__(
        self,
        config: LeagueConfig,
        members: Mapping[str, tuple[MemberConfig, str]],
        sides: tuple[str, ...],
        seed: int,
    ) -> None:
        self.config, self.sides, self.seed = config, sides, seed
        self.generator = np.random.default_rng([seed, 6])
        self.members: list[Member] = []
        # Members of a side with the same PSRO settings share a matchmaker, so that their game is solved once.
        psro_makers: dict[str, Matchmaker] = {}
        for index, (name, (member, side)) in enumerate(members.items()):
            live = LiveRecord(config.live.decay, config.live.prior_games)
            settings = member.matchmaking or config.matchmaking
            maker = make_kind(member.kind) if member.kind is not None else make_matchmaker(settings)
            if isinstance(maker, Psro):
                maker = psro_makers.setdefault(f"{side} {settings.model_dump_json()}", maker)
            self.members.append(Member(index, name, side, member, live, maker))
        self.snapshots: list[Snapshot] = []
        self.numbers: dict[str, int] = {}
        self.payoff = Payoff(shared_score=config.cooperative)
        self.strategy = make_strategy(
            config.evaluation.strategy, self.payoff, sides, cooperative=config.cooperative
        )
        self.changes = 0
        self.matches = 0
        # Cache of `side_numbers`, cleared when a snapshot comes or goes.
        self._good: dict[str, IntArray] = {}
        # Cache of `is_ready` by side: number of evaluated games at the last check, and its result.
        self._played_through: dict[str, tuple[int, bool]] = {}

    def member(self, name: str) -> Member:
        """Return the member of this name."""
        return next(member for member in self.members if member.name == name)

    # ---- members

    def seed_of(self, member: Member) -> int:
        """Return the seed of a member's present generation."""
        return int(
            np.random.SeedSequence([self.seed, member.index, member.generation]).generate_state(1)[0]
            & 0x7FFFFFFF
        )

    def freezing(self, member: Member) -> FreezeConfig:
        """Return the conditions under which a member is frozen."""
        return member.config.kind.freeze if member.config.kind is not None else self.config.freeze

    def term_end(self, member: Member) -> int:
        """Return the version at which the member's present assignment ends at the latest."""
        most = self.freezing(member).most_updates
        end = member.frozen_version + most
        # The member is past this end if its snapshot could not be written, for instance on a full disk.
        return end if end > member.version else member.version + most

    def candidates(self, member: Member) -> IntArray:
        """Return the numbers of the snapshots that a member may meet, oldest first, shape [C]."""
        other = next((side for side in self.sides if side != member.side), member.side)
        return self.side_numbers(other)

    def newest(self, member: Member) -> Snapshot | None:
        """Return the member's newest snapshot that is not in quarantine; None if there is none."""
        return next(
            (
                snapshot
                for snapshot in reversed(self.snapshots)
                if snapshot.member == member.index and not snapshot.bad
            ),
            None,
        )

    def side_numbers(self, side: str) -> IntArray:
        """Return the numbers of a side's snapshots that are not in quarantine, oldest first."""
        if side not in self._good:
            good = [
                number
                for number, snapshot in enumerate(self.snapshots)
                if snapshot.side == side and not snapshot.bad
            ]
            self._good[side] = np.array(good, np.int64)
        return self._good[side]

    def _pool_changed(self) -> None:
        self._good.clear()
        self._played_through.clear()
        self.changes += 1

    def view(self, member: Member) -> View:
        """Return the information that a member's matchmaker receives."""
        candidates = self.candidates(member)
        return View(
            candidates=candidates,
            live_score=member.live.mean_score(candidates),
            owners=np.array([self.snapshots[number].member for number in candidates.tolist()], np.int64),
            member=member.index,
            own=self.side_numbers(member.side),
            payoff=self.payoff,
            kinds=tuple(
                "member" if other.config.kind is None else other.config.kind.name for other in self.members
            ),
            self_play=len(self.sides) == 1,
            names=tuple(other.name for other in self.members),
        )

    def mixture(self, member: Member) -> Mixture:
        """Return the distribution of opponents that a member meets now.

        Raises:
            ValueError: If the member can meet no snapshot and not itself.
        """
        return member.matchmaker.mixture(self.view(member))

    def is_ready(self, member: Member) -> bool:
        """Return whether a member's next assignment can begin.

        Matchmaker psro trains against the evaluated game, so every pair must have been played once. Other
        members are always ready.
        """
        maker = member.config.matchmaking or self.config.matchmaking
        if member.config.kind is not None or maker.name != "psro":
            return True
        recorded, complete = self._played_through.get(member.side, (-1, False))
        if not complete and recorded != self.payoff.recorded:
            own, candidates = self.side_numbers(member.side), self.candidates(member)
            games = self.payoff.games(own, candidates)
            complete = bool(((games > 0) | (own[:, None] == candidates[None, :])).all())
            self._played_through[member.side] = self.payoff.recorded, complete
        return complete

    def on_progress(self, member: Member, version: int, env_steps: int, episodes: int) -> None:
        """Update a member's progress in its present generation.

        Args:
            member: The member.
            version: Updates in the present generation.
            env_steps: Environment steps in the present generation.
            episodes: Episodes.
        """
        self.changes += version != member.version
        member.version, member.env_steps, member.episodes = version, env_steps, episodes

    def on_played(self, member: Member, opponent: str, games: int, score: float) -> None:
        """Add training games of a member against a snapshot.

        Args:
            member: The member.
            opponent: Name of the snapshot.
            games: Number of games.
            score: Summed score of the member.
        """
        number = self.numbers[opponent]
        member.live.record(number, games, score)
        member.matchmaker.on_result(number, games, score)
        member.against[number] = member.against.get(number, 0) + games
        member.met[number] += games

    def has_trained(self, member: Member) -> bool:
        """Return whether a member has made `least_updates` updates since its last snapshot."""
        return member.version - member.frozen_version >= self.freezing(member).least_updates

    def wins(self, member: Member) -> bool:
        """Return whether a member may be frozen before its assignment ends.

        It must have made `least_updates` updates and beat every required opponent. The member's kind selects
        the required opponents. Without a kind, these are all snapshots that it meets.
        """
        freeze = self.freezing(member)
        if freeze.winning >= 1.0 or not self.has_trained(member):
            return False
        view = self.view(member)
        if isinstance(member.matchmaker, MemberKind):
            return member.matchmaker.may_freeze(view, member.version - member.frozen_version)
        mixture = member.matchmaker.mixture(view)
        met = mixture.snapshots[mixture.weights > 0.0]
        return bool(len(met)) and bool((member.live.mean_score(met) > freeze.winning).all())

    # ---- the pool

    def add(self, member: Member, name: str, term: int, seconds: float) -> Snapshot:
        """Add a new snapshot of a member with its present progress.

        A reset of the member may follow, by `fresh` or by its kind. It then begins the next generation.

        Args:
            member: The member.
            name: Name of the snapshot.
            term: Number of the assignment that it ends; 0: the initial weights.
            seconds: Training time of the league, seconds.
        """
        snapshot = Snapshot(
            name,
            member.index,
            member.side,
            term,
            member.updates,
            member.all_env_steps,
            seconds,
            generation=member.generation,
        )
        snapshot.met = np.array(member.met.most_common(MOST_MET), np.int64).reshape(-1, 2)
        member.met.clear()
        self.numbers[name] = len(self.snapshots)
        self.snapshots.append(snapshot)
        self.payoff.grow(len(self.snapshots))
        self.strategy.add(self.numbers[name], member.side)
        member.terms, member.frozen_version = term, member.version
        if term and (
            self.config.fresh
            or (isinstance(member.matchmaker, MemberKind) and member.matchmaker.resets(self.generator))
        ):
            member.generation += 1
            member.updates_before, member.env_steps_before = member.updates, member.all_env_steps
            member.version = member.frozen_version = member.env_steps = 0
            member.live.clear()
        self._pool_changed()
        return snapshot

    def quarantine(self, name: str) -> None:
        """Exclude a snapshot from training and matches, since its file does not verify."""
        number = self.numbers[name]
        if not self.snapshots[number].bad:
            self.snapshots[number].bad = True
            self.strategy.remove(number)
            self._pool_changed()

    # ---- matches

    def next_match(self) -> tuple[str, str] | None:
        """Return the names of two snapshots to play now, the row first; None if no match is needed.

        The games count as in progress until `ended` is called for the pair.
        """
        pair = self.strategy.next(self.generator)
        if pair is None:
            return None
        self.strategy.begun(*pair, self.config.evaluation.episodes)
        row, column = pair
        return self.snapshots[row].name, self.snapshots[column].name

    def ended(self, row: str, column: str, played: list[float] | None) -> None:
        """Record the end of a match.

        Args:
            row: Name of the row's snapshot.
            column: Name of the column's snapshot.
            played: Number of games, the row's score, then sums of returns and of squared returns: the row's,
                then the column's (Played.row in league/runtime/opponents.py). None: the match is lost.
        """
        numbers = self.numbers[row], self.numbers[column]
        if played is not None:
            self.payoff.record(*numbers, int(played[0]), *played[1:])
            self.matches += 1
            self.changes += 1
        self.strategy.ended(*numbers, self.config.evaluation.episodes)

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return arrays and plain values.

        Assignments and matches in progress are not stored: they begin again after a resumption.
        """
        members = {}
        for member in self.members:
            against = np.array(sorted(member.against.items()), np.int64).reshape(-1, 2)
            kept: dict[str, Any] = {name: getattr(member, name) for name in PROGRESS}
            members[member.name] = {
                **kept,
                "against": against,
                "live": member.live.state_dict(),
                "matchmaker": member.matchmaker.state_dict(),
            }
        return {
            "members": members,
            "snapshots": columns_of(self.snapshots, self.sides),
            "payoff": self.payoff.state_dict(),
            "generator": self.generator.bit_generator.state,
            "changes": self.changes,
            "matches": self.matches,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint into a new object.

        Raises:
            KeyError: If an entry or a member is missing.
            TypeError: If an entry has the wrong type.
            ValueError: If the entries do not match each other.
            IndexError: If a side of a snapshot does not exist.
            FormatError: If the tables of results do not match.
        """
        self._good.clear()
        self.snapshots += snapshots_from(state["snapshots"], self.sides)
        self.numbers |= {snapshot.name: number for number, snapshot in enumerate(self.snapshots)}
        self.payoff.load_state_dict(state["payoff"])
        if self.payoff.size != len(self.snapshots):
            raise ValueError(
                f"the state has {len(self.snapshots)} snapshots but payoffs of {self.payoff.size}"
            )
        for number, snapshot in enumerate(self.snapshots):
            self.strategy.add(number, snapshot.side)
            if snapshot.bad:
                self.strategy.remove(number)
        for member in self.members:
            own = state["members"][member.name]
            for name in PROGRESS:
                setattr(member, name, int(own[name]))
            member.against = {int(number): int(games) for number, games in np.asarray(own["against"])}
            member.live.load_state_dict(own["live"])
            member.matchmaker.load_state_dict(own["matchmaker"])
        self.generator.bit_generator.state = state["generator"]
        self.changes, self.matches = int(state["changes"]), int(state["matches"])
