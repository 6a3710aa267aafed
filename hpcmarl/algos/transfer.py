"""Carrying trained networks over to changed observations: function-preserving surgery (as OpenAI Five's,
arXiv 1912.06680, section 3.3).

A feature that was seen before keeps its weights, a new one begins with weights of zero, so that every output
stays what it was whatever the new feature shows; learning can use it from there. A critic of all agents'
observations is widened agent by agent; one of the environment's state stays as it is where the state does.
Called by league/commands/transfer.py; knows arrays and algorithms, no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpcmarl.algos.model import Model
from hpcmarl.errors import ConfigError
from hpcmarl.types import FloatArray, IntArray, PolicySpec

NEW = -1  # in place of the number of an old feature
# names' ends of what reads a critic's input
CRITIC_INPUTS = (
    ".layers.layers.0.weight",
    ".body.layers.0.weight",
    "._inputs.moments",
)
CHECKED_ROWS = 256
TOLERANCE = 1e-4  # of an output, next to the largest: sums are taken in another order


@dataclass(frozen=True)
class Transferred:
    """parameters [P] of the new networks. carried, widened, begun: names of what was copied, given new
    inputs, or keeps its initial weights since its inputs could not be told apart. difference: largest change
    of any policy's output, as a share of the largest output."""

    parameters: FloatArray
    carried: list[str]
    widened: list[str]
    begun: list[str]
    difference: float


def transfer_parameters(old: Model, new: Model, features: Mapping[str, Sequence[int]]) -> Transferred:
    """Both algorithms with their parameters loaded (the new one's are overwritten). features: policy -> for
    each feature of the new, flattened observation the number of the old one, or NEW; policies whose
    observations are as they were may be left out.

    Raises ConfigError where policies, actions or networks differ otherwise, or where features do not fit."""
    places = {policy.name: _features(old, new, policy.name, features) for policy in new.spec.policies}
    before, after = old.named_parameters(), new.named_parameters()
    columns = {
        name: found
        for policy in new.spec.policies
        for name, found in _columns(old, new, policy, places[policy.name]).items()
    }
    carried: list[str] = []
    widened: list[str] = []
    begun: list[str] = []
    for name, target in after.items():
        source = before.get(name)
        if source is not None and name in columns and _fits(source, target, columns[name]):
            _fill(target, source, columns[name])
            (carried if source.shape == target.shape else widened).append(name)
        elif source is not None and name not in columns and source.shape == target.shape:
            target[...] = source
            carried.append(name)
        else:
            begun.append(name)
    new.load_parameters(new.parameters)  # they were written in place, which acting does not notice by itself
    acting = {name for policy in new.spec.policies for name in new.acting_parameters(policy.name)}
    if lost := sorted(acting.intersection(begun)):
        raise ConfigError(
            f"{lost[0]}: {list(after[lost[0]].shape)} cannot be made of what the snapshot has; keep "
            "algo.network as it was"
        )
    difference = max(_difference(old, new, policy.name, places[policy.name]) for policy in new.spec.policies)
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"the outputs change by {difference:.2g} of the largest; were features given in another order "
            "than they are seen?"
        )
    return Transferred(new.parameters.copy(), carried, widened, begun, difference)


def _features(old: Model, new: Model, name: str, features: Mapping[str, Sequence[int]]) -> IntArray:
    """For each new feature the old one. Raises ConfigError."""
    known = {policy.name: policy for policy in old.spec.policies}
    if name not in known:
        raise ConfigError(f"policy {name} is not in the snapshot; it has {', '.join(known)}")
    before, after = known[name], new.spec.policy(name)
    if before.action != after.action:
        raise ConfigError(
            f"policy {name} has other actions than in the snapshot ({before.action} became {after.action}); "
            "only observations may change"
        )
    extras = old.acting_extras(name), new.acting_extras(name)
    for what, count in extras[0].items():
        if count != extras[1][what]:
            raise ConfigError(
                f"policy {name} had {count} inputs for the {what} in the snapshot and has {extras[1][what]} "
                "now; keep algo.agent_id, algo.obs_last_action and the agents as they were"
            )
    if name not in features and before.observation_size != after.observation_size:
        added = abs(after.observation_size - before.observation_size)
        example = f"--features {name}=0-{before.observation_size - 1},new*{added}"
        raise ConfigError(
            f"policy {name} sees {after.observation_size} features where the snapshot saw "
            f"{before.observation_size}; say which are which, for instance {example}"
        )
    given = np.asarray(features.get(name, range(after.observation_size)), np.int64)
    if len(given) != after.observation_size:
        raise ConfigError(f"--features for {name}: {len(given)} given, and it sees {after.observation_size}")
    kept = given[given != NEW]
    if len(kept) and (kept.min() < 0 or kept.max() >= before.observation_size):
        raise ConfigError(
            f"--features for {name}: {int(kept.max())} is none of the old features 0 to "
            f"{before.observation_size - 1}"
        )
    if len(np.unique(kept)) != before.observation_size or len(kept) != before.observation_size:
        raise ConfigError(
            f"--features for {name}: every old feature must have one place; {before.observation_size} old "
            f"ones, {len(kept)} places"
        )
    return given


def _columns(old: Model, new: Model, policy: PolicySpec, features: IntArray) -> dict[str, IntArray]:
    """The parameters that read this policy's observations: for each of their inputs the old input, or NEW."""
    width, found = old.spec.policy(policy.name).observation_size, {}
    # last actions and numbers of agents follow the observation
    own = np.concatenate([features, np.arange(width, old.acting_inputs(policy.name))])
    for stage in new.networks()[policy.name]:
        first = stage.get("weight") or stage.get("weight_ih")
        name = str(first or stage["moments"])
        found[name] = own
        if (value := stage.get("value_weight")) is not None:
            found[value] = own
        if first is not None:
            break
    if new.needs_state and new.known_critic_inputs:  # its critic does not see observations
        return found
    acting = set(new.acting_parameters(policy.name))
    for name, array in new.named_parameters().items():
        if name in acting or name.partition(".")[0] != policy.name or not name.endswith(CRITIC_INPUTS):
            continue
        if not new.known_critic_inputs:
            found[name] = np.zeros(0, np.int64)  # fits nothing: begins anew
            continue
        # a critic of one agent's observation (and number), or of all
        one = _inputs(array) - len(features) in (
            0,
            len(own) - len(features),
        )
        blocks = 1 if one else len(policy.agents)
        rest = _inputs(array) - blocks * len(features)
        if rest >= 0 and (blocks == 1 or len(new.spec.policies) == 1):
            shifted = [np.where(features == NEW, NEW, features + block * width) for block in range(blocks)]
            found[name] = np.concatenate([*shifted, np.arange(blocks * width, blocks * width + rest)])
    return found


def _inputs(array: FloatArray) -> int:
    """Of weights [H, inputs] or moments [1 + 2 inputs]."""
    return int(array.shape[1]) if array.ndim == 2 else (int(array.shape[0]) - 1) // 2


def _fits(source: FloatArray, target: FloatArray, columns: IntArray) -> bool:
    """Whether the one can be made of the other: as many outputs, and each old input has a place."""
    same = source.ndim == target.ndim and (source.ndim == 1 or source.shape[0] == target.shape[0])
    return same and _inputs(source) == np.count_nonzero(columns != NEW) and _inputs(target) == len(columns)


def _fill(target: FloatArray, source: FloatArray, columns: IntArray) -> None:
    """Weights [H, inputs], or moments [1 + 2 inputs] (count, sums, sums of squares): new features weigh
    nothing, and have mean 0 and deviation 1."""
    kept = columns != NEW
    if target.ndim == 2:
        target[...] = 0.0
        target[:, kept] = source[:, columns[kept]]
        return
    size, before = len(columns), (len(source) - 1) // 2
    target[0] = source[0]
    sums, squares = np.zeros(size, np.float32), np.full(size, source[0], np.float32)
    sums[kept], squares[kept] = source[1 : 1 + before][columns[kept]], source[1 + before :][columns[kept]]
    target[1:] = np.concatenate([sums, squares])


def _difference(old: Model, new: Model, policy: str, features: IntArray) -> float:
    """Outputs of both networks on the same random observations, the new features random too."""
    generator = np.random.default_rng(0)
    width = old.spec.policy(policy).observation_size
    more = old.acting_inputs(policy) - width  # what the network sees beside the observation
    seen = generator.standard_normal((CHECKED_ROWS, width + more)).astype(np.float32)
    widened = generator.standard_normal((CHECKED_ROWS, len(features) + more)).astype(np.float32)
    widened[:, : len(features)][:, features != NEW] = seen[:, features[features != NEW]]
    widened[:, len(features) :] = seen[:, width:]
    before, after = old.raw_outputs(policy, seen), new.raw_outputs(policy, widened)
    return float(np.abs(after - before).max() / max(1e-6, np.abs(before).max()))
