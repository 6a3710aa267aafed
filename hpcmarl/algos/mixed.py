"""Common parts of the algorithms with one value for the whole team.

The utilities of all agents of all policies are mixed into Q_tot.

    loss  = mean_t (Q_tot(s, u) - R)²
    Q_tot = mixer(Q_1(o_1, u_1) ... Q_n(o_n, u_n); s)

r is the mean reward over all agents. Subclasses define the mixer (vdn.py, qmix.py) or another loss (wqmix.py,
res.py). One mixer serves agents of several policies, even if their spaces differ.

An agent that does not act, because it is dead or not yet present, enters with utility 0. It adds nothing and
learns nothing. PyMARL instead leaves such an agent one action and learns its value. s is the environment's
state, or all observations joined (algo.mixer_state).

    symbol    variable    shape
    Q_a       values      [T+1, B, N, A] for each policy
    Q_tot     total       [T, B]
    R         targets     [T, B]
    s         state       [T+1, B, S]
    n         number of all agents
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hpcmarl.algos.design import MOMENTS, mixer_state
from hpcmarl.algos.episodes import Episodes, Places
from hpcmarl.algos.q_learning import Fit, Networks, QLearning
from hpcmarl.algos.replayed import Columns, joint_observations, present_places, team_columns
from hpcmarl.config import QLearningConfig
from hpcmarl.maths.qlearning import taken
from hpcmarl.nets.device import numbers
from hpcmarl.nets.moments import Moments
from hpcmarl.types import EnvironmentSpec


@dataclass
class Team:
    """The episodes of a gradient from the team's point of view.

    Attributes:
        episodes: The episodes.
        state: Inputs of the mixer, shape [T+1, B, S].
        columns: Rewards and ends of the team.
        counted: Rows in which any agent acts, shape [T, B] bool.
        acting: The same rows as places.
        rows: Their number, at least 1.
        present: Places among [T+1, B] in which any agent is alive; unlike `acting`, they include the closing
            rows of truncated episodes.
    """

    episodes: Episodes
    state: torch.Tensor
    columns: Columns
    counted: torch.Tensor
    acting: Places
    rows: int
    present: Places

    def fit(
        self, losses: torch.Tensor, total: torch.Tensor, targets: torch.Tensor, **statistics: torch.Tensor
    ) -> Fit:
        """Assemble the fit from losses, values and targets, shape [T, B] each.

        The means of values, targets and `statistics` over the counted rows are reported.
        """
        named = {"value": total, "target": targets, **statistics}
        sums = numbers(*((rows.detach() * self.counted).sum() for rows in named.values()))
        reported = {name: total / self.rows for name, total in zip(named, sums, strict=True)}
        losses, errors, active = (
            rows.unsqueeze(-1)
            for rows in (losses * self.counted, (total.detach() - targets).abs(), self.counted)
        )
        return Fit(losses, errors, active, self.rows, reported)


class Mixed(QLearning):
    """Base of the algorithms with a mixer; the module's docstring has the equations."""

    def __init__(self, spec: EnvironmentSpec, config: QLearningConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        self._state = mixer_state(spec, config)

    def _fit(self, episodes: Episodes, values: list[torch.Tensor], later: list[torch.Tensor]) -> Fit:
        team = self._team(episodes)
        with torch.no_grad():
            future = self._future(team, values, later)
        targets = self._targets(team.columns, future.unsqueeze(-1))[..., 0]
        total = self._total(self._online, team, values)
        return team.fit(self._losses(team, total, targets), total, targets)

    def _future(self, team: Team, values: list[torch.Tensor], later: list[torch.Tensor]) -> torch.Tensor:
        """Return V [T+1, B] under the target network."""
        return self._mix(self._target, team, self._utilities(team.episodes, values, later))

    def _losses(self, team: Team, total: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each row; all arrays have the shape [T, B]."""
        return (total - targets).square()

    def _team(self, episodes: Episodes) -> Team:
        columns = self._columns(episodes)
        counted = columns.active[..., 0]
        return Team(
            episodes,
            self._states(episodes),
            columns,
            self.tensor(counted),
            Places(counted, self.device),
            max(int(np.count_nonzero(counted)), 1),
            present_places(episodes, self.device),
        )

    def _total(
        self, networks: Networks, team: Team, values: list[torch.Tensor], mixer: str = "mixer"
    ) -> torch.Tensor:
        """Return Q_tot [T, B] of the actions taken."""
        steps = team.episodes.steps
        chosen = [
            taken(value[:steps], part.action) for value, part in zip(values, team.episodes.parts, strict=True)
        ]
        return self._mix(networks, team, chosen, mixer)

    def _mix(
        self, networks: Networks, team: Team, utilities: list[torch.Tensor], mixer: str = "mixer"
    ) -> torch.Tensor:
        """Mix the utilities of all policies.

        Args:
            networks: Networks that contain the mixer.
            team: The episodes.
            utilities: Utilities of each policy, shape [T, B, N] or [T+1, B, N].
            mixer: Name of the mixer among the networks.

        Returns:
            Mixed values, shape [T, B] or [T+1, B]; 0 in rows without a living agent.
        """
        steps = len(utilities[0])
        places = team.acting if steps == team.episodes.steps else team.present
        picked = [
            places.pick(own * part.alive[:steps])
            for own, part in zip(utilities, team.episodes.parts, strict=True)
        ]
        mixed: torch.Tensor = networks.others[mixer](
            torch.cat(picked, -1).unsqueeze(-2), self._mixer_inputs(networks, places.pick(team.state[:steps]))
        )
        return places.spread(mixed.squeeze(-1))

    def _mixer_inputs(self, networks: Networks, state: torch.Tensor) -> torch.Tensor:
        """Return rows [n, S] of the state as the mixers of these networks see them.

        They are normalised if the networks have moments.
        """
        if MOMENTS not in networks.others:
            return state
        rows: torch.Tensor = networks.others[MOMENTS](state)
        return rows

    def _observe(self, episodes: Episodes) -> None:
        super()._observe(episodes)
        if MOMENTS in self._online.others:
            moments = self._online.others[MOMENTS]
            assert isinstance(moments, Moments)
            rows = present_places(episodes, self.device).pick(self._states(episodes))
            moments.add(rows, episodes.count / max(1, len(rows)))

    def _states(self, episodes: Episodes) -> torch.Tensor:
        """Return the inputs of the mixer, shape [T+1, B, S]; of size 0 for a mixer without inputs.

        Raises:
            ValueError: If the mixer uses the environment's state and a rollout carries none.
        """
        if self._state == "none":
            return torch.zeros(episodes.steps + 1, episodes.count, 0, device=self.device)
        if self._state == "state":
            if episodes.state is None:
                raise ValueError("the mixer needs the environment's state, but a rollout carries none")
            return episodes.state
        return joint_observations(episodes, self.device)

    def _columns(self, episodes: Episodes) -> Columns:
        """Return the rewards and ends of the team."""
        return team_columns(episodes, [part.reward for part in episodes.parts])
