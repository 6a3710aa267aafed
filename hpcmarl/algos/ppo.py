"""PPO (arXiv 1707.06347) for many agents: IPPO with a critic of each agent, MAPPO (arXiv 2103.01955) with a
central one.

    w_t = exp( log pi(a_k|o_k) - log mu(a_k|o_k) )                     for each agent k, mu: the policy that
        sampled
    A_t = sum_{i>=t} (gamma lambda)^{i-t} (r_i + gamma V_{i+1} - V_i)   generalised advantage estimation
        (arXiv 1506.02438, eq. 16)
    v_t = A_t + V_t                                                     the critic's target
    gain_t = sum_k min( w_t A_t, clip(w_t, 1 - epsilon, 1 + epsilon) A_t )

A batch is gone through `epochs` times in `minibatches` random parts, each a gradient and a step of its own
(roles/learner/rollout_queue.py). V, and with it A and v, are of the parameters of each step (algo.advantages:
each_pass): advantages of fresh values learn no worse than those of the batch's beginning (arXiv 2006.05990,
section 3.5). With `once` A and v are made of the V of the batch's beginning, as MAPPO's authors do, and A is
normalised over all that one learner has in its batch instead of over a gradient. Actors have no critic. With
value_clip (value_loss.py) the learner records the critic's outputs when a batch begins, before its first
gradient: those of MAPPO's authors are of the sampling, which is the same moment where sampling and learning
take turns. With kl_target a batch ends with the first gradient that finds a larger KL(mu, pi), estimated by w
- 1 - log w, mean over acting rows and policies. That gradient is still delivered, since its round may wait
for it; the learner's next one is of its next batch. Each learner judges by its own part. Critics
(algo.critic): independent is IPPO; joint_observation and state are MAPPO, where all agents of a policy share
the team's A (with critic_input agent each has one of its own values). The rest of the loss: actor_critic.py.

    symbol -> variable, shape:  gamma discount   lambda trace_lambda   epsilon clip   r reward [T, B, U]   V
        value [T, B, U]   A advantages [T, B, U]
    v targets   log pi logp [n]   log mu PolicyBatch.logp [T, B, N]       (U units with a value: 1 or N)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from hpcmarl.algos.actor_critic import Columns, Shared
from hpcmarl.algos.batch import Batch, Evaluation, PolicyBatch, Rows, join, tensor
from hpcmarl.algos.value_critic import Estimates, ValueCritic, Valued, broadcast
from hpcmarl.algos.value_loss import clipped_value_losses, value_losses
from hpcmarl.config import PPOConfig
from hpcmarl.maths.vtrace import VTrace, normalised_advantages, vtrace
from hpcmarl.types import CriticRecord, FloatArray, PolicySpec, Rollout


class PPO(ValueCritic):
    """See the module's docstring for equations, variants and symbols."""

    _config: PPOConfig

    def begin_batch(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        if self._config.value_clip is None and self._config.advantages == "each_pass":
            return list(rollouts)
        begun = [replace(rollout, records=self._recorded(rollout)) for rollout in rollouts]
        if self._config.advantages == "once" and self._config.normalise_advantages:
            for policy in self.spec.policies:
                normalise_together(policy.name, begun)
        return begun

    @torch.no_grad()
    def _recorded(self, rollout: Rollout) -> dict[str, CriticRecord]:
        """What the critics say of a rollout at the present parameters."""
        batch = join([rollout])
        shared = self._shared(batch, evaluated=False)
        records = {}
        for policy in self.spec.policies:
            valued = self._valued(policy, batch, shared)
            records[policy.name] = CriticRecord(valued.units.spread(valued.outputs.numpy()))
            if self._config.advantages == "once":
                fresh, agents = (
                    self._fresh(policy, batch, shared, valued),
                    Rows(batch.policies[policy.name].alive[: batch.steps]),
                )
                estimates = (
                    valued.units.spread(fresh.targets),
                    valued.units.spread(fresh.counted),
                    agents.spread(fresh.advantages),
                )
                records[policy.name] = CriticRecord(records[policy.name].outputs, *estimates)
        return records

    def _estimates(self, policy: PolicySpec, batch: Batch, shared: Shared, valued: Valued) -> Estimates:
        record = None if batch.records is None else batch.records[policy.name]
        if record is None or record.advantages is None or record.targets is None or record.counted is None:
            return super()._estimates(policy, batch, shared, valued)
        units, advantages = valued.units, shared.evaluations[policy.name].rows.pick(record.advantages)
        return Estimates(
            advantages,
            np.ones_like(advantages),
            units.pick(record.targets),
            units.pick(record.counted),
            1.0,
            self._config.trace_lambda,
        )

    def _value_losses(
        self, outputs: torch.Tensor, targets: torch.Tensor, before: FloatArray | None
    ) -> torch.Tensor:
        if before is None or self._config.value_clip is None:
            return value_losses(self._config, outputs, targets)
        return clipped_value_losses(self._config, outputs, targets, tensor(before), self._config.value_clip)

    def ends_batch(self, statistics: Mapping[str, float]) -> bool:
        return self._config.kl_target is not None and statistics["approximate_kl"] > self._config.kl_target

    def _trace(
        self, policy: PolicySpec, columns: Columns, batch: Batch, evaluations: Mapping[str, Evaluation]
    ) -> VTrace:
        """V-trace with all ratios 1 has GAE's targets; the advantages are what these add to the values."""
        arrays = (columns.reward, columns.active, columns.terminated, columns.truncated, columns.final)
        trace = vtrace(
            np.zeros_like(columns.value),
            columns.value,
            columns.last,
            *arrays,
            discount=self._config.discount,
            trace_lambda=self._config.trace_lambda,
        )
        advantages = np.where(columns.active, trace.targets - columns.value, np.float32(0.0))
        return replace(trace, advantages=advantages)

    def _surrogate_objective(
        self, part: PolicyBatch, evaluation: Evaluation, advantages: FloatArray
    ) -> tuple[torch.Tensor, dict[str, float]]:
        log_ratio = evaluation.logp - tensor(evaluation.rows.pick(part.logp))
        ratio, weight, clip = log_ratio.exp(), tensor(advantages), self._config.clip
        gain = torch.minimum(ratio * weight, ratio.clamp(1.0 - clip, 1.0 + clip) * weight).sum()
        with torch.no_grad():
            outside = float(((ratio - 1.0).abs() > clip).float().sum())
            # KL(mu, pi), the estimator that is never negative
            divergence = float((ratio - 1.0 - log_ratio).sum())
        count = max(evaluation.rows.count, 1)
        return gain, {"clip_fraction": outside / count, "approximate_kl": divergence / count}


def normalise_together(name: str, rollouts: Sequence[Rollout]) -> None:
    """Give the recorded advantages of one policy mean 0 and deviation 1 over the acting rows of all
    rollouts."""
    records = [rollout.records[name] for rollout in rollouts if rollout.records is not None]
    rows = [Rows(rollout.policies[name].alive[: rollout.steps]) for rollout in rollouts]
    advantages = [
        own.pick(record.advantages)
        for own, record in zip(rows, records, strict=True)
        if record.advantages is not None
    ]
    counted = [
        own.pick(broadcast(record.counted, own.shape))
        for own, record in zip(rows, records, strict=True)
        if record.counted is not None
    ]
    normalised = normalised_advantages(np.concatenate(advantages), np.concatenate(counted))
    ends = np.cumsum([own.count for own in rows])
    for own, record, part in zip(rows, records, np.split(normalised, ends[:-1]), strict=True):
        record.advantages = own.spread(part)
