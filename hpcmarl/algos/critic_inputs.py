"""Inputs of critics: observations, states, joint actions and agents' numbers, as their form lists them.

T    steps            B    slots
K    truncated episodes, which have a last observation
U    units with a value: 1 (a team) or the N agents of a policy
"""

from __future__ import annotations

from collections.abc import Mapping

from hpcmarl.algos.batch import Batch
from hpcmarl.algos.network_design import AGENT, STATE
from hpcmarl.nets.acting import agent_numbers
from hpcmarl.nets.input_form import Field, InputForm
from hpcmarl.types import Array, PolicySpec

# Places of observations in tables of features (shared_features.py), by policy: those of all rows [T+1, B, N]
# and of the ends of truncated episodes [K, N].
Places = Mapping[str, tuple[Array, Array]]
NOWHERE: Places = {}


def critic_inputs(
    form: InputForm, batch: Batch, policy: PolicySpec, units: int, places: Places = NOWHERE
) -> tuple[Array, Array]:
    """Return the inputs of a policy's critic.

    Args:
        form: The inputs.
        batch: The batch.
        policy: The policy.
        units: Number of units, U.
        places: Places of the observations of encoded fields in the tables of features.

    Returns:
        Inputs of all rows, [T+1, B, U, D] or records [T+1, B, U], and of the ends of truncated episodes,
        [K, U, D] or records [K, U].

    Raises:
        ValueError: If the critic sees the state and a rollout carries none.
    """
    rows, finals = zip(*(_arrays(field, batch, policy, places) for field in form.fields), strict=True)
    return (
        form.join((batch.steps + 1, batch.slots, units), rows),
        form.join((len(batch.final_step), units), finals),
    )


def action_critic_inputs(
    form: InputForm,
    batch: Batch,
    policy: PolicySpec,
    given: Mapping[str, Array],
    places: Places = NOWHERE,
) -> Array:
    """Return the inputs of a policy's critic of actions in all rows but the last.

    Args:
        form: The inputs.
        batch: The batch.
        policy: The policy.
        given: Arrays [T, B, N, size] of inputs that a batch does not have, by name.
        places: Places of the observations of encoded fields in the tables of features.

    Returns:
        Inputs, [T, B, N, D] or records [T, B, N].

    Raises:
        ValueError: If the critic sees the state and a rollout carries none.
    """
    steps = batch.steps
    arrays = []
    for field in form.fields:
        if field.name in given:
            arrays.append(given[field.name])
        else:
            rows, _ = _arrays(field, batch, policy, places)
            arrays.append(rows if field.name == AGENT else rows[:steps])
    return form.join((steps, batch.slots, len(policy.agents)), arrays)


def _arrays(field: Field, batch: Batch, policy: PolicySpec, places: Places) -> tuple[Array, Array]:
    """Return one input in all rows [T+1, B, U, ...] and at the ends of truncated episodes [K, U, ...].

    U may be 1, to be broadcast. Numbers of agents lack the other dimensions.
    """
    if field.name == STATE:
        if batch.state is None or batch.final_state is None:
            raise ValueError("algo.critic is state, but a rollout carries no state")
        return batch.state[:, :, None], batch.final_state[:, None]
    if field.name == AGENT:
        numbers = agent_numbers(len(policy.agents))
        return numbers, numbers
    assert field.policy is not None
    name = field.policy.name
    part = batch.policies[name]
    rows, finals = places[name] if field.encoded else (part.obs, part.final_obs)
    return (rows, finals) if field.count is None else (rows[:, :, None], finals[:, None])
