"""RES (arXiv 2103.11883): QMIX with softmax targets and a regularisation towards observed returns.

    V    = sum_{u in U} softmax_U(beta Q_tot(s, .))_u Q_tot'(s, u)
    loss = mean_t [ (Q_tot - R)² + lambda (Q_tot - b)² ]
    b_t  = r_t + gamma b_{t+1}                                     discounted return of the episode

U contains the greedy joint action û and all joint actions that differ from it in one agent. Both changes work
against overestimation.

The online network determines û and the weights, and the target network (Q_tot') the values, as in the
authors' code. In this double estimator, the noise of the values does not select their weights. With double_q:
false, the target network determines all three. If beta is large, V then overestimates more than the maximum
of double Q-learning. The authors count û once per agent in U; here it counts once.

beta has the unit 1/return. The weights of two joint actions have the ratio e if their values differ by
1/beta. For the authors' 0.05 that difference is 20. If returns are small, V is then nearly the mean over U,
and beta should be larger.

b ends with the episode, even if the episode was truncated. With a bootstrapped end, b would rise with the
values that it should restrain. R and the rest are in mixed.py and q_learning.py.

    symbol    variable           shape, for m rows of [T+1, B] with a living agent
    beta      softmax_beta
    lambda    regularisation
    U         joint utilities    [m, K, n]
    b         returns            [T, B]
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
    """Regularised softmax QMIX; the module's docstring has the equations."""

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
        """Mix each joint action of U.

        Args:
            networks: Networks that contain the mixer.
            team: The episodes.
            values: Action values of each policy's agents, [T+1, B, N, A] for each policy.
            greedy: Greedy actions, [T+1, B, N] for each policy.

        Returns:
            Q_tot [m, K] of the joint actions, and whether each of them exists [m, K].
        """
        present, parts = team.present, team.episodes.parts
        masks = [None if part.mask is None else present.pick(part.mask) for part in parts]
        active = [present.pick(part.alive) for part in parts]
        joint, exists = near_greedy(
            [present.pick(value) for value in values],
            masks,
            active,
            [present.pick(action) for action in greedy],
        )
        totals: torch.Tensor = networks.others["mixer"](
            joint, self._mixer_inputs(networks, present.pick(team.state))
        )
        return totals, exists

    def _losses(self, team: Team, total: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        ends = team.columns.terminated | team.columns.truncated
        nothing = torch.zeros(len(ends) + 1, *ends.shape[1:], device=self.device)
        returns = self._targets(
            replace(team.columns, terminated=ends, truncated=np.zeros_like(ends)), nothing, trace_lambda=1.0
        )[..., 0]
        return (
            super()._losses(team, total, targets) + self._config.regularisation * (total - returns).square()
        )
