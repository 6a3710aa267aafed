"""MA-Trace (arXiv 2111.11229): V-trace for many agents, off-policy within the clips, on unrolls of T steps.

    w_t = exp( sum_k [log pi(a_k|o_k) - log mu(a_k|o_k)] )       rho_t = min(rho_max, w_t)     c_t = lambda
        min(c_max, w_t)
    v_t = V_t + delta_t + gamma c_t (v_{t+1} - V_{t+1})          delta_t = rho_t (r_t + gamma V_{t+1} - V_t)
    A_t = rho_t (r_t + gamma v_{t+1} - V_t)                      gain_t = sum_k log pi(a_k|o_k) A_t

The rest of the loss, the critics (algo.critic) and what k runs over: actor_critic.py. With critic
joint_observation or state, algo.ratios:
  joint   the equations above.   agent   w, A per agent (an agent that does not act has w = 1); v_t is the
      mean of the acting agents' targets.
With critic independent V, w, r, flags and A are per agent; with critic_input agent V and A are, each agent's
v_t with its own V.

The k of w runs over the acting agents of all policies of a team (algo.teams), the k of gain_t over one
policy's: what a team's reward is worth depends on all who work for it, and all of them have changed since the
rollout. `auto` takes as a team the policies that are known to be rewarded alike (EnvironmentSpec.teams:
env.common_reward, what an environment says of itself, a league's side); any other policy is alone. It goes by
what is declared and not by the rewards of a batch, so that all batches have the same estimator and opponents
never enter a ratio. In turn-based games a ratio covers a policy's own decision.

    symbol -> variable, shape:  gamma discount  lambda trace_lambda  r reward [T, B, U]  V value [T, B, U]  A
        advantages [T, B, C]
    w exp(log_ratio) [T, B, C]  log pi logp [n]       (U units with a value: 1 or N; C columns with a ratio: 1
        or N)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from hpcmarl.algos.actor_critic import Columns
from hpcmarl.algos.batch import Batch, Evaluation, PolicyBatch, tensor
from hpcmarl.algos.design import teammates
from hpcmarl.algos.value_critic import ValueCritic, broadcast
from hpcmarl.config import MATraceConfig
from hpcmarl.maths.vtrace import VTrace, vtrace
from hpcmarl.types import EnvironmentSpec, FloatArray, PolicySpec


class MATrace(ValueCritic):
    """See the module's docstring for equations, variants and symbols."""

    _config: MATraceConfig

    def __init__(self, spec: EnvironmentSpec, config: MATraceConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        self._joint = self._central and config.ratios != "agent"
        self._mates = teammates(spec, config)

    def _trace(
        self, policy: PolicySpec, columns: Columns, batch: Batch, evaluations: Mapping[str, Evaluation]
    ) -> VTrace:
        config = self._config
        log_ratio = self._log_ratio(policy, batch, evaluations)
        shape = np.broadcast_shapes(log_ratio.shape, columns.value.shape)
        arrays = (columns.reward, columns.active, columns.terminated, columns.truncated, columns.final)
        return vtrace(
            broadcast(log_ratio, shape),
            broadcast(columns.value, shape),
            broadcast(columns.last, shape[1:]),
            *(broadcast(array, shape) for array in arrays),
            discount=config.discount,
            trace_lambda=config.trace_lambda,
            rho_max=config.rho_max,
            c_max=config.c_max,
        )

    def _log_ratio(
        self, policy: PolicySpec, batch: Batch, evaluations: Mapping[str, Evaluation]
    ) -> FloatArray:
        """log w: [T, B, 1] of the policy's team, or [T, B, N] of its agents; 0 where nobody acts."""
        if not self._config.importance_sampling:
            shape = evaluations[policy.name].rows.shape
            return np.zeros((*shape[:2], 1) if self._joint else shape, np.float32)
        if not self._joint:
            return _log_ratios(batch, evaluations, policy.name)
        team: FloatArray = np.concatenate(
            [_log_ratios(batch, evaluations, mate) for mate in self._mates[policy.name]], -1
        )
        return np.asarray(team.sum(-1, keepdims=True))

    def _surrogate_objective(
        self, part: PolicyBatch, evaluation: Evaluation, advantages: FloatArray
    ) -> tuple[torch.Tensor, dict[str, float]]:
        return (evaluation.logp * tensor(advantages)).sum(), {}


def _log_ratios(batch: Batch, evaluations: Mapping[str, Evaluation], name: str) -> FloatArray:
    """log pi - log mu of one policy's agents, [T, B, N]."""
    evaluation = evaluations[name]
    return evaluation.rows.spread(
        evaluation.logp.detach().numpy() - evaluation.rows.pick(batch.policies[name].logp)
    )
