"""Draws of single steps from kept episodes: numbers, uniformity, the limit on draws, and files."""

import numpy as np
import pytest

from hpcmarl.algos import make_model
from hpcmarl.comm.protocol import read_header
from hpcmarl.comm.transport import Message
from hpcmarl.config import ReplayConfig
from hpcmarl.config.file import load_config
from hpcmarl.roles.learner.replay_buffer import ReplayBuffer
from hpcmarl.roles.learner.step_store import StepStore
from hpcmarl.rollouts.codec import RolloutCodec
from hpcmarl.rollouts.slabs import Slabs
from tests.support.contexts import make_context
from tests.support.rollouts import make_spec, random_rollout
from tests.support.worlds import ECHO

SPEC = make_spec()
CODEC = RolloutCodec(SPEC, with_state=False)


def episode(index, length):
    rollout = random_rollout(SPEC, length, 1, np.random.default_rng(index), whole_episode=True)
    rollout.version, rollout.episode[:] = 0, index
    return rollout


def replay_of(tmp_path, batch=8, changes=(), **keys):
    keys = {"learning_starts": 1, "samples_per_insert": 2.0, "draw": "steps", **keys}
    config = load_config(ECHO, ["algo.name=maddpg", f"rounds.batch={batch}", *changes])
    replay = ReplayConfig(**keys)
    config = config.model_copy(update={"algo": config.algo.model_copy(update={"replay": replay})})
    context = make_context(config, directory=tmp_path, ranks=2, spec=SPEC)
    algorithm = make_model(SPEC, config.algo, 0)
    return ReplayBuffer(context, context.topology.groups[0], context.rule(), algorithm, replay)


def fill(replay, lengths, first=0):
    for index, length in enumerate(lengths, first):
        buffer = CODEC.pack(episode(index, length))
        replay.add(Message(read_header(buffer), buffer, 1), CODEC.read(buffer, 0), 0)


def drawn(work):
    """Return the pairs of episode and step."""
    return [
        (int(index), int(step))
        for rollout in work.rollouts
        for index, step in zip(rollout.episode, rollout.first_step, strict=True)
    ]


def test_numbers_of_steps_follow_the_kept_episodes():
    """The memory of the messages is reused: eight slabs hold 48 kB of about 150 kB."""
    store, kept = StepStore(CODEC, 1, 48_000), []
    generator = np.random.default_rng(0)
    for number in range(3000):
        length = int(generator.integers(1, 6))
        store.add(CODEC.pack(episode(number, length)))
        kept.append((number, length))
        if len(kept) > 40:
            store.forget_oldest()
            kept.pop(0)
        if number % 500 == 499:
            assert store.total == sum(length for _, length in kept)
            found = store.find(np.arange(store.total))
            wanted = [(place, step) for place, (_, length) in enumerate(kept) for step in range(length)]
            assert list(zip(*(each.tolist() for each in found[:2]), strict=True)) == wanted
            assert set(found[2].tolist()) == {1}
            (pieces,) = store.read(np.arange(store.total))[0]
            assert pieces.episode.tolist() == [index for index, length in kept for _ in range(length)]
            assert store.newest(3) == sum(length for _, length in kept[-3:])
            assert store.newest(1000) == store.total


@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_slabs_return_what_was_stored(size):
    """Buffers may be larger than a slab, and values may have any size and alignment."""
    generator, slabs = np.random.default_rng(0), Slabs(size)
    buffers = [
        generator.integers(256, size=int(length)).astype(np.uint8) for length in (40, 7, 300, 41, 1000)
    ]
    added = [slabs.add(buffer) for buffer in buffers]
    for (_, _, copy), buffer in zip(added, buffers, strict=True):
        np.testing.assert_array_equal(copy, buffer)
    chosen = np.array([4, 0, 2, 4])
    numbers = np.array([added[index][0] for index in chosen])
    offsets = np.array([3, 1, 17, 900]) + [added[index][1] for index in chosen]
    found = slabs.gather(numbers, offsets, np.dtype(("<i4", (2, 3))))
    for row, index, first in zip(found, chosen, (3, 1, 17, 900), strict=True):
        assert row.tobytes() == buffers[index][first : first + 24].tobytes()
    slabs.forget_before(int(numbers.max()))
    last = slabs.gather(numbers[:1], offsets[:1], np.dtype("<u2"))
    assert last.tobytes() == buffers[4][3:5].tobytes()


def test_steps_of_unequal_episodes_are_drawn_alike(tmp_path):
    lengths = [1, 2, 3, 10]
    replay = replay_of(tmp_path, batch=4, samples_per_insert=1e6)
    fill(replay, lengths)
    draws = [drawn(replay.take(version, 0)) for version in range(1000)]
    assert all(len(set(draw)) == 4 for draw in draws)
    steps = [(place, step) for place, length in enumerate(lengths) for step in range(length)]
    counts = np.array([sum(step in draw for draw in draws) for step in steps])
    assert abs(counts - 250).max() < 70  # 5 standard deviations


def test_each_step_permits_its_draws(tmp_path):
    replay = replay_of(tmp_path, batch=8)
    fill(replay, [3])
    assert replay.take(0, 0).count == 3
    fill(replay, [10], first=1)
    assert (replay.inserted, replay.collected, replay.allowed) == (13, 2, 2 * 13 - 3)
    assert [replay.take(version, 0) is None for version in range(3)] == [False, False, True]
    assert replay.statistics()["replay_ratio"] == pytest.approx(19 / 13)
    assert replay.statistics()["replay_episodes"] == 2


def test_recent_share_is_drawn_from_steps_of_newest_episodes(tmp_path):
    replay = replay_of(tmp_path, batch=16, samples_per_insert=1e6, recent=2, recent_share=0.5)
    fill(replay, [5] * 200)
    shares = [[place >= 198 for place, _ in drawn(replay.take(version, 0))] for version in range(40)]
    assert min(map(sum, shares)) >= 8
    assert np.mean([sum(share) for share in shares]) == pytest.approx(8 + 8 * 0.01, abs=0.3)


def test_replay_of_steps_continues_from_its_file(tmp_path):
    replay = replay_of(tmp_path, save="checkpoint", episodes=4)
    fill(replay, [3, 4, 5, 6, 7])
    replay.take(0, 0)
    replay.save(7, final=False)
    replay.close()
    other = replay_of(tmp_path, episodes=4)
    other.resume(tmp_path, 7)
    names = ("collected", "inserted", "used", "allowed")
    assert [getattr(other, name) for name in names] == [getattr(replay, name) for name in names]
    assert other.steps.total == replay.steps.total == 4 + 5 + 6 + 7
    replay.on_version(3)
    assert drawn(other.take(3, 0)) == drawn(replay.take(3, 0))


def test_memory_and_priorities_draw_episodes_by_default():
    defaults = {
        (): True,
        ("algo.network.body=gru",): False,
        ("algo.replay.priority={}",): False,
        ("algo.replay.draw=episodes",): False,
        ("algo.name=vdn",): False,
    }
    for changes, steps in defaults.items():
        algo = load_config(ECHO, ["algo.name=maddpg", *changes]).algo
        assert (algo.draws_steps, algo.gradient_draws) == (steps, 1024 if steps else 32), changes
