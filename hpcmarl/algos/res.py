"""RES (arXiv 2103.11883): QMIX whose targets take a softmax instead of a maximum, and whose value is drawn towards the return that was seen.

    V = sum_{u in U} softmax_U(beta Q_tot'(s, .))_u Q_tot'(s, u)        U: the greedy joint action û and all that differ from it in one agent
    loss = mean_t [ (Q_tot - R)² + lambda (Q_tot - b)² ]                 b_t = r_t + gamma b_{t+1}, the discounted return of the episode

Both work against overestimation. b ends with the episode, also where that was cut off (truncated): with a bootstrapped end it would rise with
the values that it shall hold. R and the rest: mixed.py, q_learning.py.

    symbol -> variable, shape:  beta softmax_beta   lambda regularisation   U joint utilities [R, K, n]   b returns [T, B]
    (R rows of [T+1, B]: those in which somebody is alive)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from hpcmarl.algos.mixed import Mixed, Team
from hpcmarl.config import RESConfig
from hpcmarl.maths.qlearning import near_greedy, softmax_value


class RES(Mixed):
    """See the module's docstring."""

    summary = "QMIX with a softmax over joint actions near the greedy one, regularised by the return"
    paper = "arXiv 2103.11883"
    _config: RESConfig

    def _future(self, team: Team, values: list[torch.Tensor], later: list[torch.Tensor]) -> torch.Tensor:
        present, parts = team.present, team.episodes.parts
        masks = [None if part.mask is None else present.pick(part.mask) for part in parts]
        acts = [present.pick(part.alive) for part in parts]
        greedy = [present.pick(action) for action in self._greedy(team.episodes, values if self._config.double_q else later)]
        joint, exists = near_greedy([present.pick(value) for value in later], masks, acts, greedy)
        totals = self._target.others["mixer"](joint, self._seen(self._target, present.pick(team.state)))
        return present.spread(softmax_value(totals, exists, self._config.softmax_beta))

    def _difference(self, team: Team, total: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        ends = team.columns.terminated | team.columns.truncated
        nothing = torch.zeros(len(ends) + 1, *ends.shape[1:])
        returns = self._targets(replace(team.columns, terminated=ends, truncated=np.zeros_like(ends)), nothing, trace_lambda=1.0)[..., 0]
        distance = ((total - returns).square() * team.counted).sum()
        return super()._difference(team, total, targets) + self._config.regularisation * distance
