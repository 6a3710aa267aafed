"""The places in the memory that an actor shares with its workers: equal on all of them."""

from __future__ import annotations

from hpcmarl.algos.design import make_design
from hpcmarl.roles.base import Context
from hpcmarl.rollouts.codec import RolloutCodec
from hpcmarl.rollouts.exchange import ExchangePlan

ARENAS_OF_A_LANE = 3  # one that is being written, two that are being sent


def exchange_plan(context: Context, actor: int) -> ExchangePlan:
    """Return the places in the memory of an actor and its workers.

    Args:
        context: The run.
        actor: Rank of the actor.
    """
    design = make_design(context.spec, context.config.algo)
    memory = {name: shape.memory_size for name, shape in design.policies.items() if shape.memory_size}
    codec = RolloutCodec(context.spec, with_state=design.needs_state, memory=memory)
    return ExchangePlan(
        codec=codec,
        whole=context.environment_spec,
        steps=context.arena_steps,
        slots=context.config.topology.environments_per_actor,
        workers=len(context.topology.workers_of(actor)),
        # whole episodes are cut out of the arena, which is never sent
        arenas=1 if context.whole_episodes else ARENAS_OF_A_LANE,
        together=context.config.deterministic,
    )
