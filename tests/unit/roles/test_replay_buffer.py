"""Replay of whole episodes: storage, draws, the limit on draws, and files."""

from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm, make_model
from hpcmarl.algos.replayed import EpisodeErrors
from hpcmarl.comm.protocol import Flags, read_header, write_header
from hpcmarl.comm.transport import Message
from hpcmarl.config import AgentNetworkConfig, ReplayConfig, SgdConfig, VDNConfig
from hpcmarl.config.file import load_config
from hpcmarl.io.checkpoint import list_checkpoints
from hpcmarl.optim import make_optimizer
from hpcmarl.roles.learner.priorities import SMALLEST, UNKNOWN
from hpcmarl.roles.learner.replay_buffer import ReplayBuffer
from hpcmarl.rollouts.codec import RolloutCodec
from tests.support.contexts import make_context
from tests.support.rollouts import make_spec, random_rollout
from tests.support.worlds import ECHO

SPEC = make_spec()
CODEC = RolloutCodec(SPEC, with_state=False)


class FakeMessage(Message):
    """An episode's message that records its release."""

    released = False

    def release(self):
        self.released = True


def message_of(index, source=1, length=3, flags=Flags.NONE):
    rollout = random_rollout(SPEC, length, 1, np.random.default_rng(index), whole_episode=True)
    rollout.version, rollout.episode[:] = 0, index
    buffer = CODEC.pack(rollout)
    header = read_header(buffer)._replace(source=source, flags=flags)
    return FakeMessage(header, write_header(buffer, header), source)


def replay_of(tmp_path, *, batch=4, rule="sync", deterministic=False, actors=(1,), spec=SPEC, **keys):
    config = load_config(
        ECHO, [f"rounds.rule={rule}", f"rounds.batch={batch}", f"deterministic={str(deterministic).lower()}"]
    )
    keys = ReplayConfig(**{"learning_starts": 3, "samples_per_insert": 2.0, **keys})
    config = config.model_copy(update={"algo": config.algo.model_copy(update={"replay": keys})})
    context = make_context(config, directory=tmp_path, ranks=1 + len(actors), spec=spec)
    algorithm = make_model(spec, config.algo, 0)
    return ReplayBuffer(context, context.topology.groups[0], context.rule(), algorithm, keys)


def fill(replay, indices, **keys):
    messages = [message_of(index, **keys) for index in indices]
    for each in messages:
        replay.add(each, CODEC.read(each.buffer, 0), 0)
    assert all(each.released for each in messages)


def drawn(work):
    return [int(episode) for rollout in work.rollouts for episode in rollout.episode]


def test_replay_waits_for_starts_and_keeps_its_ratio(tmp_path):
    replay = replay_of(tmp_path, batch=2)
    fill(replay, range(2))
    assert replay.take(0, 0) is None
    fill(replay, [2])
    work = replay.take(0, 0)
    assert work.count == 2
    # The third episode allows two draws, and both are used.
    assert replay.take(1, 0) is None
    fill(replay, [3, 4])
    assert [replay.take(version, 0) is None for version in range(1, 4)] == [False, False, True]
    assert replay.statistics()["replay_ratio"] == 6 / 5


def test_replay_copies_episodes_out_of_their_messages(tmp_path):
    replay, sent = replay_of(tmp_path, batch=3, samples_per_insert=9.0), message_of(0, length=4)
    wanted = CODEC.read(sent.buffer.copy(), 0)
    replay.add(sent, CODEC.read(sent.buffer, 0), 0)
    sent.buffer[:] = 255
    fill(replay, [1, 2])
    found = next(rollout for rollout in replay.take(0, 0).rollouts if rollout.episode[0] == 0)
    np.testing.assert_array_equal(found.policies["agent"].obs, wanted.policies["agent"].obs)
    np.testing.assert_array_equal(found.policies["agent"].final_obs, wanted.policies["agent"].final_obs)


def test_oldest_episodes_are_evicted_by_count_and_size(tmp_path):
    size = message_of(0).buffer.nbytes
    for keys in ({"episodes": 5}, {"megabytes": 5.9 * size / 1e6}):
        replay = replay_of(tmp_path, batch=100, **keys)
        fill(replay, range(12))
        replay.allowed = 100
        assert drawn(replay.take(0, 0)) == [7, 8, 9, 10, 11]
        assert replay.statistics()["replay_megabytes"] == pytest.approx(replay.bytes / 1e6)
        assert replay.bytes == sum(episode.buffer.nbytes for episode in replay.episodes)


def test_draws_are_uniform_without_repetition_and_repeatable(tmp_path):
    replay = replay_of(tmp_path, batch=4, samples_per_insert=1e6)
    fill(replay, range(10))
    draws = []
    for version in range(500):
        replay.on_version(version)
        draws.append(drawn(replay.take(version, 0)))
    assert all(len(set(draw)) == 4 for draw in draws)
    counts = np.bincount(np.concatenate(draws), minlength=10)
    assert abs(counts - 200).max() < 60  # 5 standard deviations
    replay.on_version(7)
    again, other = (drawn(replay.take(7, 0)) for _ in range(2))
    assert draws[7] == again != other
    # One trajectory of the group's share is left.
    assert len(drawn(replay.take(0, 3))) == 1


def test_recent_share_is_drawn_from_newest_episodes(tmp_path):
    replay = replay_of(tmp_path, batch=32, samples_per_insert=1e6, recent=8, recent_share=0.375)
    fill(replay, range(100))
    shares = np.array([np.array(drawn(replay.take(version, 0))) >= 92 for version in range(50)])
    assert shares.shape == (50, 32)
    # Only eight newest episodes exist, and draws do not repeat. The other 24 are drawn from all episodes.
    assert shares.sum(1).min() >= 8
    assert shares.sum(1).mean() == pytest.approx(8 + 24 * 0.08, abs=0.7)


@pytest.mark.parametrize("priority", [None, {"alpha": 1.0}])
def test_batch_drawn_ahead_equals_one_drawn_in_time(priority, tmp_path):
    ahead, plain = (replay_of(tmp_path, samples_per_insert=1e6, priority=priority) for _ in range(2))
    for replay in (ahead, plain):
        replay.algorithm = make_algorithm(SPEC, replay.context.config.algo, 0)
        fill(replay, range(10))
        assert replay.take(0, 0).count == 4
    assert not ahead.take_ahead(1, 3)  # a part of this round is missing
    assert ahead.take_ahead(1, 4)
    assert (ahead.used, ahead.allowed) == (plain.used, plain.allowed)
    assert not ahead.take_ahead(1, 4)
    for replay in (ahead, plain):
        replay.on_version(1)
    found, wanted = ahead.take(1, 0), plain.take(1, 0)
    assert drawn(found) == drawn(wanted)
    assert (ahead.used, ahead.allowed, ahead.draws) == (plain.used, plain.allowed, plain.draws)
    assert (found.staged.count, wanted.staged) == (4, None)
    other = ahead.algorithm.gradient(wanted.rollouts)[0]
    if priority is None:
        np.testing.assert_array_equal(ahead.gradient(found)[0], other)


def test_batch_drawn_ahead_is_used_for_its_version_and_size_only(tmp_path):
    replay = replay_of(tmp_path, samples_per_insert=1e6)
    replay.algorithm = make_algorithm(SPEC, replay.context.config.algo, 0)
    fill(replay, range(10))
    assert replay.take_ahead(1, 4)
    assert replay.take(2, 0).staged is None  # another version came first
    assert replay.ahead is None
    replay.on_version(2)
    assert replay.take_ahead(3, 4)
    replay.on_version(3)
    assert replay.take(3, 1).count == 3  # the share of the group has changed
    keys = {"deterministic": True, "samples_per_insert": 1.0, "learning_starts": 4}
    waiting = replay_of(tmp_path, actors=(1, 2), **keys)
    for source in (1, 2):
        fill(waiting, [0, 1], source=source)
    assert waiting.take(0, 0).count == 4
    assert not waiting.take_ahead(1, 4)  # the actors have to send theirs first
    assert not replay_of(tmp_path).take_ahead(1, 4)  # there are no episodes


def test_dynamic_replay_evicts_distant_old_episodes(tmp_path):
    looked = []

    def distance(rollouts):
        looked.append([int(episode) for rollout in rollouts for episode in rollout.episode])
        return 0.7 if looked[-1][0] < 8 else 0.3

    replay = replay_of(tmp_path, dynamic={"every": 20, "oldest": 3, "distance": 0.5, "least": 30})
    replay.algorithm = SimpleNamespace(distance=distance)
    fill(replay, range(100))
    # The check runs after 40, 60, 80 and 100 episodes, but not before the least number is exceeded.
    assert looked == [
        [0, 1, 2],
        [4, 5, 6],
        [9, 10, 11],
        [9, 10, 11],
    ]
    assert (len(replay.episodes), replay.collected) == (100 - 9, 100)
    assert replay.bytes == sum(episode.buffer.nbytes for episode in replay.episodes)
    assert replay.statistics()["replay_distance"] == 0.3
    replay = replay_of(tmp_path, dynamic={"every": 1, "oldest": 1, "distance": 0.0, "least": 12})
    replay.algorithm = SimpleNamespace(distance=lambda rollouts: 1.0)
    fill(replay, range(50))
    assert len(replay.episodes) == 12
    assert "replay_distance" not in replay_of(tmp_path).statistics()


def test_draw_allowance_is_bounded_by_stored_episodes(tmp_path):
    replay = replay_of(tmp_path, episodes=4, samples_per_insert=2.0)
    fill(replay, range(50))
    assert replay.allowed == 8


def test_deterministic_replay_waits_for_all_actors(tmp_path):
    replay = replay_of(
        tmp_path, deterministic=True, actors=(1, 2), batch=4, samples_per_insert=1.0, learning_starts=4
    )
    fill(replay, [0, 1], source=2)
    fill(replay, [2], source=1)
    assert replay.take(0, 0) is None
    fill(replay, [3], source=1, flags=Flags.MORE)
    # Another episode that ended in the same step is on its way.
    assert replay.take(0, 0) is None
    fill(replay, [4], source=1)
    assert replay.take(0, 0).count == 4
    assert [int(CODEC.read(episode.buffer, 0).episode[0]) for episode in replay.episodes] == [2, 3, 4, 0, 1]
    assert replay.take(0, 4) is None
    assert replay.take(1, 0) is None


def test_replay_file_round_trips_and_bad_files_are_logged(tmp_path, caplog):
    replay = replay_of(tmp_path, batch=2, save="checkpoint")
    fill(replay, range(6))
    replay.take(0, 0)
    replay.save(7, final=False)
    replay.close()
    other = replay_of(tmp_path, batch=2)
    other.resume(tmp_path, 7)
    replay.on_version(3)
    assert (other.collected, other.used, other.allowed) == (replay.collected, replay.used, replay.allowed)
    assert other.bytes == replay.bytes
    assert drawn(other.take(3, 0)) == drawn(replay.take(3, 0))
    assert not caplog.records
    replay_of(tmp_path, batch=2).resume(tmp_path, 9)
    assert "is read from checkpoint-0000000007.h5, because no file of version 9 exists" in caplog.text
    path = list_checkpoints(tmp_path / "replay" / "group-0000")[0]
    path.write_bytes(path.read_bytes()[:-100])
    damaged = replay_of(tmp_path)
    damaged.resume(tmp_path, 7)
    assert "cannot be used" in caplog.text
    damaged.resume(tmp_path / "elsewhere", 7)
    assert "no replay file of group 0" in caplog.text
    assert not damaged.episodes


# ---- priorities


class Weighing:
    """An algorithm with a given error for each episode index.

    It records the weights that it receives with the episodes.
    """

    env_steps = 0

    def __init__(self, error):
        self.error, self.weights = error, {}

    def stage(self, rollouts):
        return rollouts

    def staged_gradient(self, rollouts, weights):
        indices = [int(index) for rollout in rollouts for index in rollout.episode]
        self.weights = {index: float(weight) for index, weight in zip(indices, weights, strict=True)}
        errors = np.array([self.error(index) for index in indices])
        return np.zeros(1), {}, SimpleNamespace(of_episodes=lambda: EpisodeErrors(errors, errors))


def learn(replay, version):
    work = replay.take(version, 0)
    replay.gradient(work)
    replay.done(work, 0)
    return drawn(work)


def test_errors_and_weights_reach_their_episodes(tmp_path):
    """Episodes have different lengths and are drawn repeatedly while the oldest ones leave."""
    algorithm = Weighing(lambda index: float(index % 7))
    replay = replay_of(
        tmp_path,
        batch=12,
        samples_per_insert=1e6,
        episodes=20,
        priority={"alpha": 1.0, "beta": 1.0, "max_share": 1.0},
    )
    replay.algorithm = algorithm
    learned = set()
    for turn in range(30):
        for index in range(3 * turn, 3 * turn + 3):
            fill(replay, [index], length=2 + index % 4)
        before = np.array(replay.priorities.errors) + SMALLEST
        found = learn(replay, turn)
        first = replay.collected - len(replay.episodes)
        weights = before.sum() / (len(before) * before[np.array(found) - first])
        np.testing.assert_allclose(
            [algorithm.weights[index] for index in found], weights / weights.max(), rtol=1e-5
        )
        learned.update(found)
        for index, error in enumerate(replay.priorities.errors, first):
            if index in learned:
                assert error == index % 7
    assert len(replay.priorities.errors) == len(replay.episodes) == 20
    assert len(learned) > 60


def test_rare_errors_are_drawn_often(tmp_path):
    """One episode in fifty has an error of 1, the others of 0.01.

    The chance of the one in a draw is P = 1/(1 + 49 0.01^0.6).
    """
    replay = replay_of(tmp_path, batch=4, samples_per_insert=1e6, priority={"alpha": 0.6})
    replay.algorithm = Weighing(lambda index: 1.0 if index == 17 else 0.01)
    fill(replay, range(50))
    for version in range(100):
        learn(replay, version)
    often = np.mean([learn(replay, version).count(17) / 4 for version in range(100, 500)])
    assert often == pytest.approx(1 / (1 + 49 * 0.01**0.6), abs=0.03)


def updates_until_rare_is_known(tmp_path, **keys):
    """Return the number of gradients until the value of a rare action is known.

    Three of 600 episodes have the rare action and a reward of 1. All others have another action and a reward
    of 0. The value is known when it is within 0.2 of 1.
    """
    spec = make_spec(agents=1)
    config = VDNConfig(network=AgentNetworkConfig(hidden=(), body="mlp"), agent_id=False, discount=0.5)
    algorithm = make_algorithm(spec, config, 0)
    algorithm.on_version(0)
    optimizer = make_optimizer(SgdConfig(step_size=0.1), algorithm.initial_parameters())
    replay = replay_of(tmp_path, batch=8, samples_per_insert=1e6, spec=spec, **keys)
    replay.algorithm = algorithm
    for index in range(600):
        rollout = random_rollout(
            spec, 1, 1, np.random.default_rng(index), whole_episode=True, truncations=False
        )
        part, rare = rollout.policies["agent"], index % 200 == 50
        part.obs[:], part.action[:], part.reward[:] = np.eye(6)[int(rare)], int(rare), float(rare)
        buffer = RolloutCodec(spec, with_state=False).pack(rollout)
        replay.add(FakeMessage(read_header(buffer), buffer, 1), rollout, 0)
    for version in range(2000):
        algorithm.load_parameters(optimizer.query_point())
        if abs(algorithm.raw_outputs("agent", np.eye(6, dtype=np.float32)[1:2])[0, 1] - 1.0) < 0.2:
            return version
        replay.on_version(version)
        work = replay.take(version, 0)
        optimizer.step(replay.gradient(work)[0] / work.count)
        replay.done(work, 0)
    return 2000


def test_prioritised_replay_learns_rare_episodes_sooner(tmp_path):
    uniform = updates_until_rare_is_known(tmp_path)
    assert updates_until_rare_is_known(tmp_path, priority={}) < uniform / 3


def test_newest_episodes_count_as_if_all_were_drawn_alike(tmp_path):
    """Weights before normalisation are 1 for the newest episodes, whatever their errors.

    Episodes drawn by priority have weights of (N P)^-beta.
    """
    replay = replay_of(
        tmp_path,
        batch=8,
        samples_per_insert=1e6,
        recent=4,
        recent_share=0.5,
        priority={"alpha": 1.0, "beta": 1.0},
    )
    replay.algorithm = Weighing(lambda index: 1.0)
    fill(replay, range(40))
    replay.priorities.errors.extend([3.0 if index < 20 else 0.0 for index in range(40)])
    for _ in range(40):
        replay.priorities.errors.popleft()
    found = learn(replay, 0)
    # Priorities alone would draw none of the newest.
    assert sum(index >= 36 for index in found) == 4
    assert sum(index < 20 for index in found) == 4
    # Drawn by priority: (N P)^-beta = 1 / (40 * 1/20) = 0.5. The newest have 1.
    for index in found:
        assert replay.algorithm.weights[index] == pytest.approx(1.0 if index >= 36 else 0.5)


def test_dynamic_replay_keeps_errors_with_their_episodes(tmp_path):
    replay = replay_of(
        tmp_path,
        dynamic={"every": 20, "oldest": 3, "distance": 0.0, "least": 30},
        samples_per_insert=1e6,
        priority={"max_share": 1.0},
    )
    replay.algorithm = Weighing(float)
    replay.algorithm.distance = lambda rollouts: 1.0
    fill(replay, range(39))
    for version in range(200):
        learn(replay, version)
    assert list(replay.priorities.errors) == list(range(39))
    fill(replay, [39])
    # A tenth of the episodes was evicted.
    assert list(replay.priorities.errors) == [*range(4, 39), 38.0]
    assert len(replay.episodes) == 36


def test_replay_file_keeps_priorities(tmp_path, caplog):
    keys = {"batch": 3, "samples_per_insert": 1e6, "save": "checkpoint", "priority": {}}
    replay = replay_of(tmp_path, **keys)
    replay.algorithm = Weighing(lambda index: 0.1 + index / 3)
    fill(replay, range(9))
    learn(replay, 0)
    replay.save(1, final=False)
    replay.close()
    other, fewer, without = (
        replay_of(tmp_path, **keys),
        replay_of(tmp_path, episodes=4, **keys),
        replay_of(tmp_path, batch=3),
    )
    for each in (other, fewer, without):
        each.algorithm = Weighing(lambda index: 0.1 + index / 3)
        each.resume(tmp_path, 1)
        assert not caplog.records
    assert other.priorities.errors == replay.priorities.errors
    assert list(fewer.priorities.errors) == list(replay.priorities.errors)[5:]
    assert without.priorities is None
    for version in range(2, 6):
        for each in (replay, other):
            each.on_version(version)
        assert learn(other, version) == learn(replay, version)
        assert other.algorithm.weights == replay.algorithm.weights


def test_replay_file_without_priorities_starts_them_anew(tmp_path, caplog):
    replay = replay_of(tmp_path, save="checkpoint")
    fill(replay, range(5))
    replay.save(1, final=False)
    replay.close()
    other = replay_of(tmp_path, priority={})
    other.resume(tmp_path, 1)
    assert list(other.priorities.errors) == [UNKNOWN] * 5
    assert not caplog.records


@pytest.mark.parametrize("errors", [[0.5, -1.0, 0.0, 0.1], [0.5, np.nan, 0.0, 0.1], [0.5]])
def test_replay_file_with_invalid_errors_is_ignored(tmp_path, caplog, errors):
    replay = replay_of(tmp_path, save="checkpoint", priority={})
    fill(replay, range(4))
    replay.priorities.errors = deque(errors)
    replay.save(1, final=False)
    replay.close()
    other = replay_of(tmp_path, priority={})
    other.resume(tmp_path, 1)
    assert "cannot be used" in caplog.text
    assert not other.episodes


@pytest.mark.parametrize("harm", ["action", "reward", "middle", "length"])
def test_replay_file_with_invalid_episodes_is_ignored(tmp_path, caplog, harm):
    replay = replay_of(tmp_path, save="checkpoint")
    fill(replay, range(4))
    rollout = CODEC.read(replay.episodes[2].buffer, 0)
    if harm == "action":
        rollout.policies["agent"].action[1, 0, 1] = 5
    elif harm == "reward":
        rollout.policies["agent"].reward[0, 0, 0] = np.nan
    elif harm == "middle":
        rollout.episode_end[0] = 1
    else:
        replay.episodes[2] = replay.episodes[2]._replace(buffer=replay.episodes[2].buffer[:-8])
    replay.save(1, final=False)
    replay.close()
    other = replay_of(tmp_path)
    other.resume(tmp_path, 1)
    assert "cannot be used" in caplog.text
    assert not other.episodes


@pytest.mark.parametrize(
    ("save", "final", "files"),
    [("stop", False, 0), ("stop", True, 1), ("never", True, 0), ("checkpoint", False, 1)],
)
def test_replay_is_saved_according_to_its_setting(tmp_path, save, final, files):
    replay = replay_of(tmp_path, save=save)
    fill(replay, range(3))
    replay.save(1, final=final)
    replay.close()
    assert len(list_checkpoints(tmp_path / "replay" / "group-0000")) == files
