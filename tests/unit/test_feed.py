"""What waits at a learner in deterministic runs: nothing is taken before everything that an actor's last step ended is there."""

from types import SimpleNamespace

import numpy as np

from hpcmarl.comm.codec import RolloutCodec
from hpcmarl.comm.protocol import FLAG_MORE, header_of
from hpcmarl.comm.transport import Message
from hpcmarl.config.file import load_config
from hpcmarl.optim.rounds import make_rule
from hpcmarl.roles.feed import Queue
from tests.support.rollouts import make_spec, random_rollout
from tests.support.worlds import SPREAD


def test_episodes_that_ended_in_the_same_step_are_taken_together():
    codec = RolloutCodec(make_spec())
    context = SimpleNamespace(queue_limit=lambda _: 8, config=load_config(SPREAD, ["algo.name=reinforce", "deterministic=true"]))
    feed = Queue(context, SimpleNamespace(index=0, actors=(1,)), make_rule("sync", 1, 2), SimpleNamespace(on_policy=True))
    for index, flags in enumerate((0, FLAG_MORE, 0)):
        assert feed.take(0, 0) is None
        rollout = random_rollout(make_spec(), 3, 1, np.random.default_rng(index), whole_episode=True)
        rollout.version = 0
        buffer = codec.pack(rollout)
        header_of(buffer)["flags"] = flags
        feed.add(Message(header_of(buffer), buffer, 1), codec.read(buffer, 0), 0)
    assert feed.take(0, 0).count == 3
