"""RES (arXiv 2103.11883): QMIX whose targets take a softmax instead of a maximum, and whose value is drawn
towards the return that was seen.

    V = sum_{u in U} softmax_U(beta Q_tot(s, .))_u Q_tot'(s, u)         U: the greedy joint action û and all
        that differ from it in one agent
    loss = mean_t [ (Q_tot - R)² + lambda (Q_tot - b)² ]                 b_t = r_t + gamma b_{t+1}, the
        discounted return of the episode

Both work against overestimation. The present network makes û and the weights, the target network (Q_tot') the
values, as in the authors' code: a double estimator, whose noise does not choose what it is itself weighed by.
With double_q false the target network makes all three, and V overestimates more than the maximum of double
Q-learning where beta is large. The authors count û once an agent in U; here it counts once.

beta has the unit 1/return: joint actions whose values differ by 1/beta weigh 1 to e. With the authors' 0.05
these are 20 apart, so that V is nearly the mean over U where returns are small; they need a larger beta.

b ends with the episode, also where that was cut off (truncated): with a bootstrapped end it would rise with
the values that it shall hold. R and the rest: mixed.py, q_learning.py.

    symbol -> variable, shape:  beta softmax_beta   lambda regularisation   U joint utilities [R, K, n]   b
        returns [T, B]
    (R rows of [T+1, B]: those in which somebody is alive)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from hpcmarl.algos.mixed import Mixed, Team
from hpcmarl.algos.q_learning import Networks
from hpcmarl.config import RESConfig
from hpcmarl.maths.qlearning import near_greedy, softmax_value


class RES(Mixed):
    """See the module's docstring."""

    _config: RESConfig

    def _future(self, team: Team, values: list[torch.Tensor], later: list[torch.Tensor]) -> torch.Tensor:
        double = self._config.double_q
        greedy = self._greedy(team.episodes, values if double else later)
        totals, exists = self._near_greedy(self._target, team, later, greedy)
        scores = self._near_greedy(self._online, team, values, greedy)[0] if double else totals
        return team.present.spread(softmax_value(scores, totals, exists, self._config.softmax_beta))

    def _near_greedy(
        self, networks: Networks, team: Team, values: list[torch.Tensor], greedy: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix each joint action of U. Returns the networks' Q_tot [R, K] and which of them exist [R, K]."""
        present, parts = team.present, team.episodes.parts
        masks = [None if part.mask is None else present.pick(part.mask) for part in parts]
        active = [present.pick(part.alive) for part in parts]
        joint, exists = near_greedy(
            [present.pick(value) for value in values],
            masks,
            active,
            [present.pick(action) for action in greedy],
        )
        totals: torch.Tensor = networks.others["mixer"](joint, self._seen(networks, present.pick(team.state)))
        return totals, exists

    def _losses(self, team: Team, total: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        ends = team.columns.terminated | team.columns.truncated
        nothing = torch.zeros(len(ends) + 1, *ends.shape[1:])
        returns = self._targets(
            replace(team.columns, terminated=ends, truncated=np.zeros_like(ends)), nothing, trace_lambda=1.0
        )[..., 0]
        return (
            super()._losses(team, total, targets) + self._config.regularisation * (total - returns).square()
        )
