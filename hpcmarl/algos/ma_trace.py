"""MA-Trace (arXiv 2111.11229): V-trace for many agents, off-policy within the clips, on unrolls of T steps.

    w_t     = exp( sum_k [log pi(a_k|o_k) - log mu(a_k|o_k)] )
    rho_t   = min(rho_max, w_t),    c_t = lambda min(c_max, w_t)
    delta_t = rho_t (r_t + gamma V_{t+1} - V_t)
    v_t     = V_t + delta_t + gamma c_t (v_{t+1} - V_{t+1})
    A_t     = rho_t (r_t + gamma v_{t+1} - V_t)
    gain_t  = sum_k log pi(a_k|o_k) A_t

The rest of the loss and the critics (algo.critic) are in actor_critic.py. Variants:

- critic joint_observation or state, ratios joint: the equations above.
- critic joint_observation or state, ratios agent: w and A per agent, with w = 1 for an agent that does not
  act. v_t is the mean of the active agents' targets.
- critic joint_observation or state, critic_input agent: V and A per agent. Each agent's v_t uses its own V.
- critic independent: V, w, r, ends and A per agent.

In w, k runs over the active agents of all policies of a team (algo.teams). In gain_t, k runs over the agents
of one policy. The value of a team's reward depends on all contributing agents. The policies of all of them
have changed since the rollout.

With `auto`, a team consists of the policies that are known to share a reward (EnvironmentSpec.teams). Sources
of this knowledge are env.common_reward, the environment's own declaration, and a side of a league. Every
other policy is a team alone. The rule uses declarations instead of the rewards of a batch. All batches thus
have the same estimator, and opponents never enter a ratio. In turn-based games, a ratio covers a policy's own
decision.

    symbol    variable          shape
    gamma     discount
    lambda    trace_lambda
    r         reward            [T, B, U]
    V         value             [T, B, U]
    A         advantages        [T, B, C]
    w         exp(log_ratio)    [T, B, C]
    log pi    logp              [n]

U is the number of units with a value, C the number of columns with a ratio. Each is 1 or N.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from hpcmarl.algos.actor_critic import Columns
from hpcmarl.algos.batch import Batch, Evaluation, PolicyBatch
from hpcmarl.algos.design import teammates
from hpcmarl.algos.value_critic import ValueCritic, broadcast
from hpcmarl.config import MATraceConfig
from hpcmarl.maths.vtrace import VTrace, vtrace
from hpcmarl.nets.device import array
from hpcmarl.types import EnvironmentSpec, FloatArray, PolicySpec


class MATrace(ValueCritic):
    """Actor-critic with V-trace; the module's docstring has the equations, variants and symbols."""

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
            *(broadcast(each, shape) for each in arrays),
            discount=config.discount,
            trace_lambda=config.trace_lambda,
            rho_max=config.rho_max,
            c_max=config.c_max,
        )

    def _log_ratio(
        self, policy: PolicySpec, batch: Batch, evaluations: Mapping[str, Evaluation]
    ) -> FloatArray:
        """Return log w, with 0 in rows without an action.

        Returns:
            The ratio of the policy's team, shape [T, B, 1], or of each of its agents, shape [T, B, N].
        """
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
        return (evaluation.logp * self.tensor(advantages)).sum(), {}


def _log_ratios(batch: Batch, evaluations: Mapping[str, Evaluation], name: str) -> FloatArray:
    """Return log pi - log mu of one policy's agents, shape [T, B, N]."""
    evaluation = evaluations[name]
    return evaluation.rows.spread(array(evaluation.logp) - evaluation.rows.pick(batch.policies[name].logp))
