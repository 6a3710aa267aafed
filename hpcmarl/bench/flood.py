"""How many small gradient messages a second the server takes: the real server on rank 0, flooded by all other
ranks.

Called by bench/comm.py. Messages go the whole way: transport, server, recorder, engine, optimizer. Each
sender keeps WINDOW of them under way instead of a learner's two, so that the server never waits.
"""

from __future__ import annotations

from hpcmarl.bench.runs import Stage, ends
from hpcmarl.comm.protocol import Buffer, Kind, vector_message
from hpcmarl.comm.transport import Transport
from hpcmarl.config.file import load_config
from hpcmarl.roles.learner.learner import Learner
from hpcmarl.runtime.rank import AbortHook

# The actors sleep through the run. Rennala, so that a message is added to a sum and every thousandth makes a
# step.
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
WINDOW = 16
WARM_UP = 1.0  # seconds
IDLE = "{delay: {trajectory: 1000000}}"


class FloodingLearner(Learner):
    """Sends the same gradient of one trajectory again and again, always of the newest version that it
    knows."""

    ready: tuple[int, Buffer] | None = None  # version, message

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
    """Gradient messages a second at rank 0 and the share that came too late for its round; {} elsewhere.
    Collective.

    Raises HpcmarlError on rank 0 where fewer than two rounds ended."""
    groups = ", ".join([IDLE] * (transport.size - 1))
    stage = Stage(transport, hook)
    try:
        moments = stage.play(
            load_config(CONFIG, [f"topology.groups=[{groups}]", f"stop.seconds={WARM_UP + seconds}"]),
            FloodingLearner,
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
