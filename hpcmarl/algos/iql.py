"""Independent Q-learning (Tan 1993; recurrent: DRQN, arXiv 1507.06527): every agent learns the value of its own actions from its own reward.

    loss = mean over acting agents of (Q_a(o, u_a) - R_a)²

The other agents are part of the environment. Agents of a policy share parameters, told apart by algo.agent_id. In turn-based games a
step of an agent lasts until its next decision: rewards in between count, undiscounted (maths/vtrace.py). The rest: q_learning.py.

    symbol -> variable, shape:  Q_a chosen [T, B, N]   R_a targets [T, B, N]
"""

from __future__ import annotations

import torch

from hpcmarl.algos.batch import tensor
from hpcmarl.algos.episodes import Episodes
from hpcmarl.algos.q_learning import Columns, QLearning
from hpcmarl.maths.qlearning import taken


class IQL(QLearning):
    """See the module's docstring."""

    summary = "independent Q-learning of recurrent agents, replayed episodes"
    paper = "arXiv 1507.06527"

    def _loss(self, episodes: Episodes, values: list[torch.Tensor], later: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        steps, squares, sums, rows = episodes.steps, torch.zeros(()), [0.0, 0.0], 0
        futures = self._utilities(episodes, values, later)
        for part, value, future in zip(episodes.parts, values, futures, strict=True):
            acts = tensor(part.acts)
            columns = Columns(part.reward, part.acts, part.terminated, part.truncated)
            targets = self._targets(columns, future, part.known)
            chosen = taken(value[:steps], part.action)
            squares = squares + ((chosen - targets).square() * acts).sum()
            sums = [sums[0] + float((chosen.detach() * acts).sum()), sums[1] + float(targets.sum())]
            rows += int(acts.sum())
        rows = max(rows, 1)
        return squares / rows, {"value": sums[0] / rows, "target": sums[1] / rows}
