"""Transfer of trained networks to changed observations, without a change of their outputs.

The method is the function-preserving surgery of OpenAI Five (arXiv 1912.06680, section 3.3). A feature that
existed before keeps its weights. A new feature starts with zero weights, so every output stays the same for
any value of the new feature. Training can use the feature from there.

A critic of all agents' observations is widened agent by agent. A critic of the environment's state stays as
it is if the state does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpcmarl.algos.model import Model
from hpcmarl.errors import ConfigError
from hpcmarl.types import FloatArray, IntArray, PolicySpec

NEW = -1  # replaces the number of an old feature
# Ends of the names of parameters that read a critic's input.
CRITIC_INPUTS = (
    ".layers.layers.0.weight",
    ".body.layers.0.weight",
    "._inputs.moments",
)
CHECKED_ROWS = 256
# Largest change of an output relative to the largest output. Sums are computed in another order.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Transferred:
    """Result of a transfer.

    Attributes:
        parameters: Parameters of the new networks, shape [P].
        carried: Names of parameters that were copied.
        widened: Names of parameters that were copied and received new inputs.
        begun: Names of parameters that keep their initial values, since their inputs could not be matched
            with old ones.
        difference: Largest change of any policy's output, relative to the largest output.
    """

    parameters: FloatArray
    carried: list[str]
    widened: list[str]
    begun: list[str]
    difference: float


def transfer_parameters(old: Model, new: Model, features: Mapping[str, Sequence[int]]) -> Transferred:
    """Transfer the parameters of `old` to `new`, which is overwritten.

    Args:
        old: Model with the trained parameters loaded.
        new: Model with initial parameters loaded.
        features: For each policy, one number per feature of the new, flattened observation: the number of the
            old feature, or NEW. Policies with unchanged observations may be omitted.

    Raises:
        ConfigError: If policies, actions or networks differ in other ways, or if the features do not fit.
    """
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
    new.load_parameters(new.parameters)  # acting does not notice writes in place
    acting = {name for policy in new.spec.policies for name in new.acting_parameters(policy.name)}
    if lost := sorted(acting.intersection(begun)):
        raise ConfigError(
            f"{lost[0]}: its shape {list(after[lost[0]].shape)} does not fit the snapshot's parameters; keep "
            "algo.network as it was"
        )
    difference = max(_difference(old, new, policy.name, places[policy.name]) for policy in new.spec.policies)
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"the outputs change by {difference:.2g} of the largest output; allowed: {TOLERANCE}; check that "
            "--features has the order of the observation"
        )
    return Transferred(new.parameters.copy(), carried, widened, begun, difference)


def _features(old: Model, new: Model, name: str, features: Mapping[str, Sequence[int]]) -> IntArray:
    """Return the old feature, or NEW, of each new feature of a policy.

    Raises:
        ConfigError: If the policy, its actions, its further inputs or the features do not fit.
    """
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
    for extra, count in extras[0].items():
        if count != extras[1][extra]:
            raise ConfigError(
                f"policy {name} had {count} inputs for the {extra} in the snapshot and has "
                f"{extras[1][extra]} now; keep algo.agent_id, algo.obs_last_action and the agents as they "
                "were"
            )
    if name not in features and before.observation_size != after.observation_size:
        added = abs(after.observation_size - before.observation_size)
        example = f"--features {name}=0-{before.observation_size - 1},new*{added}"
        raise ConfigError(
            f"policy {name} sees {after.observation_size} features, but {before.observation_size} in the "
            f"snapshot; assign them, for instance with {example}"
        )
    given = np.asarray(features.get(name, range(after.observation_size)), np.int64)
    if len(given) != after.observation_size:
        raise ConfigError(
            f"--features for {name}: {len(given)} features given, but the policy sees "
            f"{after.observation_size}"
        )
    kept = given[given != NEW]
    unknown = kept[(kept < 0) | (kept >= before.observation_size)]
    if len(unknown):
        raise ConfigError(
            f"--features for {name}: {int(unknown[0])} is not an old feature; allowed: 0 to "
            f"{before.observation_size - 1}, or new"
        )
    if len(np.unique(kept)) != before.observation_size or len(kept) != before.observation_size:
        raise ConfigError(
            f"--features for {name}: every old feature must have exactly one place; "
            f"{before.observation_size} old features have {len(kept)} places"
        )
    return given


def _columns(old: Model, new: Model, policy: PolicySpec, features: IntArray) -> dict[str, IntArray]:
    """Map the inputs of all parameters that read this policy's observations.

    Returns:
        For each parameter name, one number per new input: the old input, or NEW. An empty array fits no
        parameter.
    """
    width, columns = old.spec.policy(policy.name).observation_size, {}
    # the last action and the number of the agent follow the observation
    own = np.concatenate([features, np.arange(width, old.acting_inputs(policy.name))])
    for stage in new.networks()[policy.name]:
        first = stage.get("weight") or stage.get("weight_ih")
        name = str(first or stage["moments"])
        columns[name] = own
        if (value := stage.get("value_weight")) is not None:
            columns[value] = own
        if first is not None:
            break
    if new.needs_state and new.known_critic_inputs:  # the critic sees the state alone
        return columns
    acting = set(new.acting_parameters(policy.name))
    for name, array in new.named_parameters().items():
        if name in acting or name.partition(".")[0] != policy.name or not name.endswith(CRITIC_INPUTS):
            continue
        if not new.known_critic_inputs:
            columns[name] = np.zeros(0, np.int64)  # fits no parameter, so initial values stay
            continue
        # the critic sees the observation (and number) of one agent, or the observations of all agents
        one = _inputs(array) - len(features) in (
            0,
            len(own) - len(features),
        )
        blocks = 1 if one else len(policy.agents)
        rest = _inputs(array) - blocks * len(features)
        if rest >= 0 and (blocks == 1 or len(new.spec.policies) == 1):
            shifted = [np.where(features == NEW, NEW, features + block * width) for block in range(blocks)]
            columns[name] = np.concatenate([*shifted, np.arange(blocks * width, blocks * width + rest)])
    return columns


def _inputs(array: FloatArray) -> int:
    """Return the number of inputs of weights [H, inputs] or moments [1 + 2 inputs]."""
    return int(array.shape[1]) if array.ndim == 2 else (int(array.shape[0]) - 1) // 2


def _fits(source: FloatArray, target: FloatArray, columns: IntArray) -> bool:
    """Return whether `target` can be filled from `source`.

    It can if both have the same number of outputs and each old input has a place.
    """
    same = source.ndim == target.ndim and (source.ndim == 1 or source.shape[0] == target.shape[0])
    return same and _inputs(source) == np.count_nonzero(columns != NEW) and _inputs(target) == len(columns)


def _fill(target: FloatArray, source: FloatArray, columns: IntArray) -> None:
    """Fill weights [H, inputs] or moments [1 + 2 inputs] (count, sums, sums of squares).

    New features get zero weights, or mean 0 and standard deviation 1.
    """
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
    """Compare the outputs of both networks on the same random observations; new features are random, too.

    Returns:
        Largest difference, relative to the largest output.
    """
    generator = np.random.default_rng(0)
    width = old.spec.policy(policy).observation_size
    more = old.acting_inputs(policy) - width  # inputs beside the observation
    seen = generator.standard_normal((CHECKED_ROWS, width + more)).astype(np.float32)
    widened = generator.standard_normal((CHECKED_ROWS, len(features) + more)).astype(np.float32)
    widened[:, : len(features)][:, features != NEW] = seen[:, features[features != NEW]]
    widened[:, len(features) :] = seen[:, width:]
    before, after = old.raw_outputs(policy, seen), new.raw_outputs(policy, widened)
    return float(np.abs(after - before).max() / max(1e-6, np.abs(before).max()))
