"""Count the small gradient messages that the server processes per second.

The real server runs on rank 0, and all other ranks flood it. Messages take the whole path: transport, server,
recorder, engine, optimizer. Each sender keeps WINDOW messages in flight instead of a learner's two, so that
the server never waits.
"""

from __future__ import annotations

from hpcmarl.bench.runs import Stage, ends
from hpcmarl.comm.protocol import Buffer, Kind, vector_message
from hpcmarl.comm.transport import Transport
from hpcmarl.config.file import load_config
from hpcmarl.roles.learner.learner import Learner
from hpcmarl.runtime.abort import AbortHook

# The actors sleep through the whole run. With Rennala most messages are added to a sum, and every thousandth
# message causes a step of the optimizer.
CONFIG = """name: flood
env: {id: mpe2.simple_v3}
algo: {network: {hidden: [8]}}
optimizer: {name: sgd, step_size: 0.0001}
rounds: {rule: rennala, batch: 1000}
topology: {actors_per_learner: 0, server: dedicated, heartbeat_timeout_seconds: null}
trajectories: {enabled: false}
checkpoint: {every_seconds: null}
eval: {episodes: 0}
logging: {progress: false, level: warning}
"""
WINDOW = 16  # messages in flight of each sender
WARM_UP = 1.0  # seconds
IDLE = "{delay: {trajectory: 1000000}}"


class FloodingLearner(Learner):
    """Learner that sends the same gradient of one trajectory again and again.

    The gradient always claims the newest version that the learner knows.

    Attributes:
        ready: Version and message that are sent next.
    """

    ready: tuple[int, Buffer] | None = None

    def work(self) -> bool:
        if self.stopping:
            return self._stop()
        if self.version < 0:
            return False
        self.sending = [handle for handle in self.sending if not handle.done()]
        if self.ready is None or self.ready[0] != self.version:
            message = vector_message(
                Kind.GRADIENT,
                0.0 * self.algorithm.parameters,
                source=self.context.rank,
                role=self.name,
                group=self.group.index,
                version=self.version,
                trajectories=1,
            )
            self.ready = (self.version, message)
        missing = WINDOW - len(self.sending)
        self.sending += [
            self.transport.send(self.context.topology.server, self.ready[1]) for _ in range(missing)
        ]
        return missing > 0


def flood(transport: Transport, hook: AbortHook, seconds: float) -> dict[str, float]:
    """Measure gradient messages per second at rank 0. Collective.

    Args:
        transport: The world.
        hook: Ends the world if a rank fails.
        seconds: Time to measure, after WARM_UP.

    Returns:
        On rank 0 messages per second, the share that came too late for its round, and the number of senders;
        empty on other ranks.

    Raises:
        HpcmarlError: Fewer than two rounds ended; raised on rank 0.
    """
    groups = ", ".join([IDLE] * (transport.size - 1))
    stage = Stage(transport, hook)
    try:
        moments = stage.play(
            load_config(CONFIG, [f"topology.groups=[{groups}]", f"stop.seconds={WARM_UP + seconds}"]),
            {"learner": FloodingLearner},
        )
    finally:
        stage.close()
    if transport.rank != 0:
        return {}
    first, last = ends(moments, WARM_UP)
    used, wasted = last.used - first.used, last.wasted - first.wasted
    return {
        "gradient_messages_per_second": (used + wasted) / (last.seconds - first.seconds),
        "gradient_messages_late_share": wasted / (used + wasted),
        "gradient_senders": transport.size - 1,
    }
