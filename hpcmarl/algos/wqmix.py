"""Weighted QMIX (arXiv 2006.10800): QMIX with smaller weights for overestimated joint actions.

Q_tot is fitted to targets of an unrestricted central value Q̂*.

    R             targets of mixed.py with V = Q̂*'(s, û),    û = argmax_u Q_tot
    loss          mean_t [ w (Q_tot - R)² + (Q̂* - R)² ]
    central       w = 1 if u = û or R > Q̂*'(s, û), else alpha      (CW-QMIX, eq. 8)
    optimistic    w = 1 if Q_tot < R, else alpha                   (OW-QMIX, eq. 9)

û consists of each agent's own best action. Q̂* has separate agent networks. A feed-forward network of the
state mixes their utilities (nets/mixers.py: UnrestrictedMixer). Only learning uses Q̂*. In w, it is the
target network's (Q̂*'). With algo.operator: mellowmax, V mixes the soft mellowmax of the central utilities.

    symbol    variable        shape
    Q_tot     total           [T, B]
    Q̂*        central         [T, B]
    w         weights         [T, B]
    û         greedy          [T+1, B, N] for each policy
    alpha     config.alpha
"""

from __future__ import annotations

import torch

from hpcmarl.algos.episodes import Episodes, action_values
from hpcmarl.algos.mixed import Mixed, Team
from hpcmarl.algos.q_learning import Fit, Networks
from hpcmarl.config import WQMIXConfig
from hpcmarl.maths.qlearning import central_weights, optimistic_weights, soft_mellowmax, taken
from hpcmarl.nets.policy import Policy


class WQMIX(Mixed):
    """Weighted QMIX; the module's docstring has the equations."""

    _config: WQMIXConfig

    def _central(self, networks: Networks, episodes: Episodes) -> list[torch.Tensor]:
        """Return the central critic's action values, shape [T+1, B, N, A] for each policy."""
        return [
            action_values(policy, part)
            for policy, part in zip(self._central_policies(networks), episodes.parts, strict=True)
        ]

    def _central_policies(self, networks: Networks) -> list[Policy]:
        policies = [networks.others[f"central {policy.name}"] for policy in self.spec.policies]
        return [policy for policy in policies if isinstance(policy, Policy)]

    def _observe(self, episodes: Episodes) -> None:
        super()._observe(episodes)
        self._observe_alive(self._central_policies(self._online), episodes)

    def _fit(self, episodes: Episodes, values: list[torch.Tensor], later: list[torch.Tensor]) -> Fit:
        config, team, steps = self._config, self._team(episodes), episodes.steps
        greedy = self._greedy(episodes, values if config.double_q else later)
        with torch.no_grad():
            central_later = self._central(self._target, episodes)
            best = self._target_value(
                team, [taken(value, action) for value, action in zip(central_later, greedy, strict=True)]
            )
            future = best
            if config.operator == "mellowmax":
                shape = (config.mellowmax_omega, config.mellowmax_alpha)
                pairs = zip(central_later, episodes.parts, strict=True)
                future = self._target_value(
                    team, [soft_mellowmax(value, part.mask, *shape) for value, part in pairs]
                )
        targets = self._targets(team.columns, future.unsqueeze(-1))[..., 0]
        total = self._total(self._online, team, values)
        central = self._total(self._online, team, self._central(self._online, episodes), "central mixer")
        if config.weighting == "optimistic":
            weights = optimistic_weights(total.detach(), targets, config.alpha)
        else:
            same = [
                ((part.action == action[:steps]) | ~part.alive[:steps]).all(-1)
                for part, action in zip(episodes.parts, greedy, strict=True)
            ]
            weights = central_weights(targets, best[:steps], torch.stack(same).all(0), config.alpha)
        losses = weights * (total - targets).square() + (central - targets).square()
        return team.fit(losses, total, targets, weight=weights)

    def _target_value(self, team: Team, utilities: list[torch.Tensor]) -> torch.Tensor:
        """Return the target network's central value [T+1, B] for the agents' utilities."""
        return self._mix(self._target, team, utilities, "central mixer")
