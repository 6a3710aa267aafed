"""MADDPG (arXiv 1706.02275): deterministic policies that follow the gradient of a critic of all actions.

    G(x, u~) = Q_1(x, u~) - output_cost mean_k z_k^2        u~ = mu(o)
    u'       = mu'(o'), the actions of the target network's actors

Continuous actions are mu(o) = tanh(z), scaled to the bounds of the environment; z are the actor's outputs.
While sampling, Gaussian noise is added (nets/exploring_choosers.py). Discrete actions are samples of the
softmax of z. Their gradient is the straight-through Gumbel-softmax estimator, as in the code of EPyMARL and
FACMAC. MADDPG's authors use the softmax itself. The cost of the outputs is theirs.

With algo.critic: independent it is IDDPG. With algo.twin_critics, V is the smaller one of two values, as in
TD3 (arXiv 1802.09477). With n_step above 1, targets hold several rewards, without a correction for the
actions of older policies, as in D4PG (arXiv 1804.08617). Critics and targets are in action_critic.py.

    symbol         variable     shape
    z              view.raw     [T+1, B, N, K]
    mu(o)          present      [T+1, B, N, C]
    output_cost    output_cost
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hpcmarl.algos.action_critic import ActionCritic, Actions, View, gumbel_noise, zero_where_idle
from hpcmarl.algos.episodes import Episodes, PolicyEpisodes, action_values
from hpcmarl.config import MADDPGConfig
from hpcmarl.maths.schedules import falling
from hpcmarl.nets.device import numbers
from hpcmarl.types import BoolArray


class MADDPG(ActionCritic):
    """MADDPG; the module's docstring has the equations."""

    _config: MADDPGConfig

    @property
    def _n_step(self) -> int:
        return self._config.n_step

    def _sample(
        self, raw: Sequence[torch.Tensor], episodes: Episodes, generator: np.random.Generator
    ) -> Actions:
        codes = []
        for policy, code, outputs, part in zip(
            self.spec.policies, self._codes, raw, episodes.parts, strict=True
        ):
            if policy.action.kind == "continuous":
                chosen = torch.tanh(outputs)
            else:
                chosen = code.gumbel(outputs, part.mask, self.tensor(gumbel_noise(outputs.shape, generator)))
            codes.append(zero_where_idle(chosen, part.living))
        return Actions(codes, [torch.zeros(part.alive.shape, device=self.device) for part in episodes.parts])

    def _successors(self, present: Actions, episodes: Episodes, generator: np.random.Generator) -> Actions:
        later = [
            action_values(policy, part, self._successor_rows(part, part.living))
            for policy, part in zip(self._target_policies, episodes.parts, strict=True)
        ]
        return self._sample(later, episodes, generator)

    def _acting_rows(self, episodes: Episodes, part: PolicyEpisodes) -> BoolArray:
        # targets take the actions of the target network
        learned = episodes.learned(part.active)
        return np.concatenate([learned, np.zeros_like(learned[:1])])

    def _gain(self, index: int, view: View, present: Actions) -> tuple[torch.Tensor, dict[str, float]]:
        policy, learned = self.spec.policies[index], view.episodes.learned(view.episodes.parts[index].active)
        values = self._value(index, view, present.codes, first=True)
        squares = view.raw[index][:-1].square().mean(-1) * self.tensor(learned)
        outputs = squares.sum() / max(1, int(np.count_nonzero(learned)))
        gain = values.sum() / max(1, len(values)) - self._config.output_cost * outputs
        statistics = {"policy_loss": -numbers(gain)[0]}
        if policy.action.kind == "continuous":
            config = self._config
            statistics["noise"] = falling(
                config.noise_start, config.noise_final, config.noise_steps, self.env_steps
            )
        return gain, statistics
