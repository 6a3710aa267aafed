"""MA-Trace (arXiv 2111.11229): V-trace for many agents, off-policy within the clips, on unrolls of T steps.

    w_t = exp( sum_k [log pi(a_k|o_k) - log mu(a_k|o_k)] )       rho_t = min(rho_max, w_t)     c_t = lambda min(c_max, w_t)
    v_t = V_t + delta_t + gamma c_t (v_{t+1} - V_{t+1})          delta_t = rho_t (r_t + gamma V_{t+1} - V_t)
    A_t = rho_t (r_t + gamma v_{t+1} - V_t)                      gain_t = sum_k log pi(a_k|o_k) A_t

The rest of the loss, the critics (algo.critic) and what k runs over: actor_critic.py. With critic obs or full, algo.ratios:
  joint   the equations above.   agent   w, A per agent (an agent that does not act has w = 1); v_t is the mean of the acting agents' targets.
With critic dec V, w, r, flags and A are per agent.

    symbol -> variable, shape:  gamma discount  lambda trace_lambda  r reward [T, B, U]  V value [T, B, U]  A advantages [T, B, C]
    w exp(log_ratio) [T, B, C]  log pi logp [n]       (U units with a value: 1 or N; C columns with a ratio: 1 or N)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from hpcmarl.algos.actor_critic import Columns
from hpcmarl.algos.batch import Batch, Evaluation, PolicyBatch, tensor
from hpcmarl.algos.value_critic import ValueCritic, broadcast
from hpcmarl.config import MATraceConfig
from hpcmarl.errors import ConfigError
from hpcmarl.maths.vtrace import VTrace, vtrace
from hpcmarl.types import EnvironmentSpec, FloatArray, PolicySpec


class MATrace(ValueCritic):
    """See the module's docstring for equations, variants and symbols."""

    summary = "V-trace for teams: importance ratios correct the age of rollouts"
    paper = "arXiv 2111.11229"
    on_policy = False
    _config: MATraceConfig

    def __init__(self, spec: EnvironmentSpec, config: MATraceConfig, seed: int) -> None:
        if config.critic == "dec" and config.ratios == "joint":
            raise ConfigError("algo.ratios: joint does not go with algo.critic: dec, which has one value per agent; use algo.ratios: agent")
        super().__init__(spec, config, seed)
        self._joint = self._central and config.ratios != "agent"

    def _trace(self, policy: PolicySpec, columns: Columns, batch: Batch, evaluations: Mapping[str, Evaluation]) -> VTrace:
        config, part, evaluation = self._config, batch.policies[policy.name], evaluations[policy.name]
        rows = evaluation.rows
        if config.importance_sampling:
            log_ratio = rows.spread(evaluation.logp.detach().numpy() - rows.pick(part.logp))
        else:
            log_ratio = np.zeros(rows.shape, np.float32)
        if self._joint:
            log_ratio = log_ratio.sum(-1, keepdims=True)
        shape = log_ratio.shape
        arrays = (columns.reward, columns.acts, columns.terminated, columns.truncated, columns.final)
        return vtrace(
            log_ratio,
            broadcast(columns.value, shape),
            broadcast(columns.last, shape[1:]),
            *(broadcast(array, shape) for array in arrays),
            discount=config.discount,
            trace_lambda=config.trace_lambda,
            rho_max=config.rho_max,
            c_max=config.c_max,
        )

    def _gain(self, part: PolicyBatch, evaluation: Evaluation, advantages: FloatArray) -> tuple[torch.Tensor, dict[str, float]]:
        return (evaluation.logp * tensor(advantages)).sum(), {}
