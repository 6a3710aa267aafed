"""Independent Q-learning (Tan 1993; recurrent: DRQN, arXiv 1507.06527).

Every agent learns the value of its own actions from its own reward; the other agents are part of the
environment.

    loss = mean over active agents of (Q_a(o, u_a) - R_a)²

The agents of a policy share parameters; algo.agent_id lets the network distinguish them. In turn-based games,
a step of an agent lasts until its next decision. Rewards in between count without discount (maths/vtrace.py).
Targets are in replayed.py and the rest in q_learning.py.

    symbol    variable    shape
    Q_a       chosen      [T, B, N]
    R_a       targets     [T, B, N]
"""

from __future__ import annotations

import numpy as np
import torch

from hpcmarl.algos.episodes import Episodes
from hpcmarl.algos.q_learning import Fit, QLearning
from hpcmarl.algos.replayed import Columns
from hpcmarl.maths.qlearning import taken
from hpcmarl.nets.device import numbers


class IQL(QLearning):
    """Independent Q-learning; the module's docstring has the equations."""

    def _fit(self, episodes: Episodes, values: list[torch.Tensor], later: list[torch.Tensor]) -> Fit:
        steps = episodes.steps
        chosen, targets = [], []
        for part, value, future in zip(
            episodes.parts, values, self._utilities(episodes, values, later), strict=True
        ):
            columns = Columns(part.reward, part.active, part.terminated, part.truncated)
            targets.append(self._targets(columns, future, part.known))
            chosen.append(taken(value[:steps], part.action))
        acts = np.concatenate([part.active for part in episodes.parts], -1)
        active, target, own = self.tensor(acts), torch.cat(targets, -1), torch.cat(chosen, -1)
        difference, rows = (own - target) * active, max(1, int(np.count_nonzero(acts)))
        total, aim = numbers((own.detach() * active).sum(), target.sum())
        statistics = {"value": total / rows, "target": aim / rows}
        return Fit(difference.square(), difference.detach().abs(), active, rows, statistics)
