"""PPO (arXiv 1707.06347) for many agents: IPPO, and MAPPO (arXiv 2103.01955) with a central critic.

    w_t    = exp( log pi(a_k|o_k) - log mu(a_k|o_k) )      for each agent k; mu: the policy that sampled
    A_t    = sum_{i>=t} (gamma lambda)^{i-t} (r_i + gamma V_{i+1} - V_i)
    v_t    = A_t + V_t                                     target of the critic
    gain_t = sum_k min( w_t A_t, clip(w_t, 1 - epsilon, 1 + epsilon) A_t )

A_t is the generalised advantage estimate (arXiv 1506.02438, eq. 16). Settings in the section algo:

- critic: `independent` gives IPPO. `joint_observation` and `state` give MAPPO, where all agents of a policy
  share the team's A. With critic_input `agent`, each agent has an A from its own values.
- epochs, minibatches: a batch is gone through `epochs` times, each time in `minibatches` random parts. Each
  part makes a gradient and a step (roles/learner/rollout_queue.py).
- advantages: with `each_pass`, A and v follow from the V at the parameters of each step. Such advantages
  learn no worse than those from the beginning of the batch (arXiv 2006.05990, section 3.5). With `once`, A
  and v follow from the V at the beginning of the batch, as in the code of MAPPO's authors. A is then
  normalised over all rollouts that one learner has in its batch, instead of over a gradient.
- value_clip (value_loss.py): the learner records the critic's outputs at the beginning of a batch, before its
  first gradient, since actors have no critic. MAPPO's authors record them during sampling. Both are the same
  moment if sampling and learning take turns.
- kl_target: a batch ends with the first gradient that finds a larger KL(mu, pi). The estimate is w - 1 - log
  w, averaged over active rows and policies. That gradient is still delivered, since its round may wait for
  it. The learner's next gradient uses its next batch. Each learner decides from its own part.

The rest of the loss is in actor_critic.py.

    symbol     variable            shape
    gamma      discount
    lambda     trace_lambda
    epsilon    clip
    r          reward              [T, B, U]
    V          value               [T, B, U]
    A          advantages          [T, B, U]
    v          targets             [T, B, U]
    log pi     logp                [n]
    log mu     PolicyBatch.logp    [T, B, N]

U is the number of units with a value: 1 or N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from hpcmarl.algos.actor_critic import Columns, Shared
from hpcmarl.algos.batch import Batch, Evaluation, PolicyBatch, Rows, join
from hpcmarl.algos.value_critic import Estimates, ValueCritic, Valued, broadcast
from hpcmarl.algos.value_loss import clipped_value_losses, value_losses
from hpcmarl.config import PPOConfig
from hpcmarl.maths.vtrace import VTrace, normalised_advantages, vtrace
from hpcmarl.nets.device import array, numbers
from hpcmarl.types import CriticRecord, FloatArray, PolicySpec, Rollout


class PPO(ValueCritic):
    """Proximal policy optimisation; the module's docstring has the equations, variants and symbols."""

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
        """Return the records of the critics for a rollout, at the present parameters."""
        batch = join([rollout])
        shared = self._shared(batch, evaluated=False)
        records = {}
        for policy in self.spec.policies:
            valued = self._valued(policy, batch, shared)
            records[policy.name] = CriticRecord(valued.units.spread(array(valued.outputs)))
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
        return clipped_value_losses(
            self._config, outputs, targets, self.tensor(before), self._config.value_clip
        )

    def ends_batch(self, statistics: Mapping[str, float]) -> bool:
        return self._config.kl_target is not None and statistics["approximate_kl"] > self._config.kl_target

    def _trace(
        self, policy: PolicySpec, columns: Columns, batch: Batch, evaluations: Mapping[str, Evaluation]
    ) -> VTrace:
        """Return targets and advantages of generalised advantage estimation.

        V-trace with all ratios 1 has the same targets. The advantages are targets minus values.
        """
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
        log_ratio = evaluation.logp - self.tensor(evaluation.rows.pick(part.logp))
        ratio, weight, clip = log_ratio.exp(), self.tensor(advantages), self._config.clip
        gain = torch.minimum(ratio * weight, ratio.clamp(1.0 - clip, 1.0 + clip) * weight).sum()
        with torch.no_grad():
            # the second is an estimator of KL(mu, pi) that is never negative
            outside, divergence = numbers(
                ((ratio - 1.0).abs() > clip).float().sum(), (ratio - 1.0 - log_ratio).sum()
            )
        count = max(evaluation.rows.count, 1)
        return gain, {"clip_fraction": outside / count, "approximate_kl": divergence / count}


def normalise_together(name: str, rollouts: Sequence[Rollout]) -> None:
    """Normalise one policy's recorded advantages over the active rows of all rollouts, in place.

    They get mean 0 and standard deviation 1.

    Args:
        name: Name of the policy.
        rollouts: Rollouts with records.
    """
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
