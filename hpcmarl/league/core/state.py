"""What a league knows: its members and how far they are, the snapshots in the pool, who has met whom, and
what is to be played next.

Kept by the league's server (league/runtime/league_server.py), written into its checkpoints, read by `hpcmarl
league`. Knows no rank, file or network: a team is a number, a snapshot a name.
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
    """One member's progress. A generation is training from initial weights on; versions are counted in the
    present one, `before` holds the earlier ones.

    terms: snapshots frozen, the initial weights (0) not counted; against: games against each snapshot; team:
    who trains it now.
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
    met: Counter[int] = field(default_factory=Counter)  # games of the present term
    team: int | None = None

    @property
    def updates(self) -> int:
        """In all its generations."""
        return self.updates_before + self.version

    @property
    def all_env_steps(self) -> int:
        """In all its generations."""
        return self.env_steps_before + self.env_steps

    @property
    def directory(self) -> str:
        """Its checkpoints and metrics, in the run's directory."""
        return f"members/{self.name}/{self.generation:04d}"


MOST_MET = 5  # opponents of a term that a snapshot remembers
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
    """members: name -> (settings, side); `sides`: one, or the two that meet. Numbers of snapshots are their
    places in `snapshots`.
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
        answers: dict[
            str, Matchmaker
        ] = {}  # to the same game: it is solved once for all that answer it alike
        for index, (name, (member, side)) in enumerate(members.items()):
            live = LiveRecord(config.live.decay, config.live.prior_games)
            settings = member.matchmaking or config.matchmaking
            maker = make_kind(member.kind) if member.kind is not None else make_matchmaker(settings)
            if isinstance(maker, Psro):
                maker = answers.setdefault(f"{side} {settings.model_dump_json()}", maker)
            self.members.append(Member(index, name, side, member, live, maker))
        self.snapshots: list[Snapshot] = []
        self.numbers: dict[str, int] = {}
        self.payoff = Payoff(shared_score=config.cooperative)
        self.strategy = make_strategy(
            config.evaluation.strategy, self.payoff, sides, cooperative=config.cooperative
        )
        self.changes = 0
        self.matches = 0
        self._good: dict[str, IntArray] = {}  # by side, until a snapshot comes or goes
        self._played_through: dict[
            str, tuple[int, bool]
        ] = {}  # by side: after how many games it was looked at

    def member(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    # ---- members

    def seed_of(self, member: Member) -> int:
        """The seed of a member's present generation."""
        return int(
            np.random.SeedSequence([self.seed, member.index, member.generation]).generate_state(1)[0]
            & 0x7FFFFFFF
        )

    def freezing(self, member: Member) -> FreezeConfig:
        """When this member is frozen."""
        return member.config.kind.freeze if member.config.kind is not None else self.config.freeze

    def term_end(self, member: Member) -> int:
        """The version of its present generation at which it is frozen in any case."""
        most = self.freezing(member).most_updates
        end = member.frozen_version + most
        # frozen in vain, when the disk was full
        return end if end > member.version else member.version + most

    def candidates(self, member: Member) -> IntArray:
        """The snapshots that it may meet, in order of age."""
        other = next((side for side in self.sides if side != member.side), member.side)
        return self.side_numbers(other)

    def newest(self, member: Member) -> Snapshot | None:
        """Its newest snapshot whose file verifies."""
        return next(
            (
                snapshot
                for snapshot in reversed(self.snapshots)
                if snapshot.member == member.index and not snapshot.bad
            ),
            None,
        )

    def side_numbers(self, side: str) -> IntArray:
        """The snapshots of a side whose files verify, in order of age."""
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
        """What its matchmaker may know."""
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
        """Whom it is to meet now. Raises ValueError where there is nobody."""
        return member.matchmaker.mixture(self.view(member))

    def is_ready(self, member: Member) -> bool:
        """Whether its next term can begin: PSRO answers to what was evaluated, so every pair must have been
        played once.
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
        """How far it is in its present generation."""
        self.changes += version != member.version
        member.version, member.env_steps, member.episodes = version, env_steps, episodes

    def on_played(self, member: Member, opponent: str, games: int, score: float) -> None:
        """Training games against a snapshot are over."""
        number = self.numbers[opponent]
        member.live.record(number, games, score)
        member.matchmaker.on_result(number, games, score)
        member.against[number] = member.against.get(number, 0) + games
        member.met[number] += games

    def has_trained(self, member: Member) -> bool:
        """Whether it has made as many updates since its last snapshot as another one must stand for."""
        return member.version - member.frozen_version >= self.freezing(member).least_updates

    def wins(self, member: Member) -> bool:
        """Whether it may be frozen before its term is over: it beats all that it is measured against (its
        kind says whom, else whom it meets).
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
        """A snapshot of this member has been frozen, as it is now."""
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
        """A snapshot's file does not verify: nobody meets it any more."""
        number = self.numbers[name]
        if not self.snapshots[number].bad:
            self.snapshots[number].bad = True
            self.strategy.remove(number)
            self._pool_changed()

    # ---- matches

    def next_match(self) -> tuple[str, str] | None:
        """Two snapshots that should be played now, the row first; they count as being played until
        `ended`.
        """
        pair = self.strategy.next(self.generator)
        if pair is None:
            return None
        self.strategy.begun(*pair, self.config.evaluation.episodes)
        row, column = pair
        return self.snapshots[row].name, self.snapshots[column].name

    def ended(self, row: str, column: str, played: list[float] | None) -> None:
        """A match is over, or lost (None). played: games, the row's score, the sums of its returns and of
        their squares, then the column's.
        """
        numbers = self.numbers[row], self.numbers[column]
        if played is not None:
            self.payoff.record(*numbers, int(played[0]), *played[1:])
            self.matches += 1
            self.changes += 1
        self.strategy.ended(*numbers, self.config.evaluation.episodes)

    # ---- keeping

    def state_dict(self) -> dict[str, Any]:
        """Arrays and plain values. Terms and matches under way are not in it: they begin again."""
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
        """Raises KeyError, TypeError or ValueError where the state is of another league."""
        self._good.clear()
        self.snapshots += snapshots_from(state["snapshots"], self.sides)
        self.numbers |= {snapshot.name: number for number, snapshot in enumerate(self.snapshots)}
        self.payoff.load_state_dict(state["payoff"])
        if self.payoff.size != len(self.snapshots):
            raise ValueError(f"{len(self.snapshots)} snapshots with payoffs of {self.payoff.size}")
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
