"""Replay of whole episodes: what is kept, drawn and allowed; files; whole runs on virtual ranks that learn, resume and repeat bit for bit."""

from types import SimpleNamespace

import numpy as np
import pytest

from hpcmarl.comm.codec import RolloutCodec
from hpcmarl.comm.protocol import FLAG_MORE, header_of
from hpcmarl.comm.transport import Message
from hpcmarl.config import ReplayConfig
from hpcmarl.config.file import load_config
from hpcmarl.io.checkpoint import list_checkpoints, load_checkpoint
from hpcmarl.optim.rounds import make_rule
from hpcmarl.roles.replay import Replay
from tests.rollouts import make_spec, random_rollout
from tests.worlds import ECHO, final_state, run_world, summary

SPEC = make_spec()
CODEC = RolloutCodec(SPEC)


class Letter(Message):
    """An episode's message that remembers whether it was given back."""

    released = False

    def release(self):
        self.released = True


def letter(index, source=1, length=3, flags=0):
    rollout = random_rollout(SPEC, length, 1, np.random.default_rng(index), whole_episode=True)
    rollout.version, rollout.episode[:] = 0, index
    buffer = CODEC.pack(rollout)
    header_of(buffer)["source"], header_of(buffer)["flags"] = source, flags
    return Letter(header_of(buffer), buffer, source)


def replay_of(tmp_path, *, batch=4, rule="sync", deterministic=False, actors=(1,), **keys):
    config = load_config(ECHO, [f"rounds.rule={rule}", f"rounds.batch={batch}", f"deterministic={str(deterministic).lower()}"])
    keys = ReplayConfig(**{"starts": 3, "ratio": 2.0, **keys})
    config = config.model_copy(update={"algo": config.algo.model_copy(update={"replay": keys})})
    group = SimpleNamespace(index=0, actors=actors)
    made_rule = make_rule(rule, 1, batch)
    context = SimpleNamespace(
        config=config, run_directory=tmp_path, rank=0, codec=lambda _: CODEC, spec=SPEC, queue_limit=lambda _: 8, rule=lambda: made_rule, batch=batch
    )
    context.topology = SimpleNamespace(groups=[group])
    context.attributes = lambda role, index: {"env": "tests.random"}
    return Replay(context, group, made_rule, None, keys)


def fill(replay, indices, **keys):
    letters = [letter(index, **keys) for index in indices]
    for each in letters:
        replay.add(each, CODEC.read(each.buffer, 0), 0)
    assert all(each.released for each in letters)


def drawn(work):
    return [int(episode) for rollout in work.rollouts for episode in rollout.episode]


def test_it_begins_with_enough_episodes_and_waits_when_each_was_learned_from_often_enough(tmp_path):
    replay = replay_of(tmp_path, batch=2)
    fill(replay, range(2))
    assert replay.take(0, 0) is None
    fill(replay, [2])
    work = replay.take(0, 0)
    assert work.count == 2
    assert replay.take(1, 0) is None  # two for the third episode
    fill(replay, [3, 4])
    assert [replay.take(version, 0) is None for version in range(1, 4)] == [False, False, True]
    assert replay.statistics()["replay_ratio"] == 6 / 5


def test_what_is_drawn_is_unchanged_though_its_message_was_given_back_and_written_over(tmp_path):
    replay, sent = replay_of(tmp_path, batch=3, ratio=9.0), letter(0, length=4)
    wanted = CODEC.read(sent.buffer.copy(), 0)
    replay.add(sent, CODEC.read(sent.buffer, 0), 0)
    sent.buffer[:] = 255
    fill(replay, [1, 2])
    found = next(rollout for rollout in replay.take(0, 0).rollouts if rollout.episode[0] == 0)
    np.testing.assert_array_equal(found.policies["agent"].obs, wanted.policies["agent"].obs)
    np.testing.assert_array_equal(found.policies["agent"].final_obs, wanted.policies["agent"].final_obs)


def test_the_oldest_leave_by_number_and_by_megabytes(tmp_path):
    size = letter(0).buffer.nbytes
    for keys in ({"episodes": 5}, {"megabytes": 5.9 * size / 1e6}):
        replay = replay_of(tmp_path, batch=100, **keys)
        fill(replay, range(12))
        replay.allowed = 100
        assert drawn(replay.take(0, 0)) == [7, 8, 9, 10, 11]
        assert replay.statistics()["replay_megabytes"] == pytest.approx(replay.bytes / 1e6)
        assert replay.bytes == sum(episode.buffer.nbytes for episode in replay.episodes)


def test_draws_are_uniform_without_repetition_and_repeatable(tmp_path):
    replay = replay_of(tmp_path, batch=4, ratio=1e6)
    fill(replay, range(10))
    draws = []
    for version in range(500):
        replay.on_version(version)
        draws.append(drawn(replay.take(version, 0)))
    assert all(len(set(draw)) == 4 for draw in draws)
    counts = np.bincount(np.concatenate(draws), minlength=10)
    assert abs(counts - 200).max() < 60  # 5 deviations
    replay.on_version(7)
    again, other = (drawn(replay.take(7, 0)) for _ in range(2))
    assert draws[7] == again != other
    assert len(drawn(replay.take(0, 3))) == 1  # what is left of the share


def test_a_part_comes_from_the_newest(tmp_path):
    replay = replay_of(tmp_path, batch=32, ratio=1e6, recent=8, recent_share=0.375)
    fill(replay, range(100))
    shares = np.array([np.array(drawn(replay.take(version, 0))) >= 92 for version in range(50)])
    assert shares.shape == (50, 32)
    # eight of the newest exist: at most so many without repetition; the other 24 are drawn from all
    assert shares.sum(1).min() >= 8
    assert shares.sum(1).mean() == pytest.approx(8 + 24 * 0.08, abs=0.7)


def test_the_oldest_leave_early_where_the_policy_has_moved_on(tmp_path):
    looked = []

    def distance(rollouts):
        looked.append([int(episode) for rollout in rollouts for episode in rollout.episode])
        return 0.7 if looked[-1][0] < 8 else 0.3

    replay = replay_of(tmp_path, dynamic={"every": 20, "oldest": 3, "distance": 0.5, "least": 30})
    replay.algorithm = SimpleNamespace(distance=distance)
    fill(replay, range(100))
    assert looked == [[0, 1, 2], [4, 5, 6], [9, 10, 11], [9, 10, 11]]  # after 40, 60, 80 and 100: not while the least number is there
    assert (len(replay.episodes), replay.collected) == (100 - 9, 100)
    assert replay.bytes == sum(episode.buffer.nbytes for episode in replay.episodes)
    assert replay.statistics()["replay_distance"] == 0.3
    replay = replay_of(tmp_path, dynamic={"every": 1, "oldest": 1, "distance": 0.0, "least": 12})
    replay.algorithm = SimpleNamespace(distance=lambda rollouts: 1.0)
    fill(replay, range(50))
    assert len(replay.episodes) == 12
    assert "replay_distance" not in replay_of(tmp_path).statistics()


def test_credit_goes_with_the_episodes_that_leave(tmp_path):
    replay = replay_of(tmp_path, episodes=4, ratio=2.0)
    fill(replay, range(50))
    assert replay.allowed == 8


def test_in_deterministic_runs_episodes_wait_for_every_actor_and_for_the_end_of_its_step(tmp_path):
    replay = replay_of(tmp_path, deterministic=True, actors=(1, 2), batch=4, ratio=1.0, starts=4)
    fill(replay, [0, 1], source=2)
    fill(replay, [2], source=1)
    assert replay.take(0, 0) is None
    fill(replay, [3], source=1, flags=FLAG_MORE)
    assert replay.take(0, 0) is None  # another one that ended in that step is on its way
    fill(replay, [4], source=1)
    assert replay.take(0, 0).count == 4
    assert [int(CODEC.read(episode.buffer, 0).episode[0]) for episode in replay.episodes] == [2, 3, 4, 0, 1]
    assert replay.take(0, 4) is None
    assert replay.take(1, 0) is None


def test_the_file_holds_everything_and_what_is_no_replay_is_told(tmp_path, caplog):
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
    assert "is that of checkpoint-0000000007.h5, not of version 9" in caplog.text
    path = list_checkpoints(tmp_path / "replay" / "group-0000")[0]
    path.write_bytes(path.read_bytes()[:-100])
    damaged = replay_of(tmp_path)
    damaged.resume(tmp_path, 7)
    assert "cannot be used" in caplog.text
    damaged.resume(tmp_path / "elsewhere", 7)
    assert "no replay of group 0" in caplog.text
    assert not damaged.episodes


@pytest.mark.parametrize("harm", ["action", "reward", "middle", "length"])
def test_a_file_with_impossible_episodes_is_not_used(tmp_path, caplog, harm):
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


@pytest.mark.parametrize(("save", "final", "files"), [("stop", False, 0), ("stop", True, 1), ("never", True, 0), ("checkpoint", False, 1)])
def test_when_it_is_written(tmp_path, save, final, files):
    replay = replay_of(tmp_path, save=save)
    fill(replay, range(3))
    replay.save(1, final=final)
    replay.close()
    assert len(list_checkpoints(tmp_path / "replay" / "group-0000")) == files


# ---- whole runs


@pytest.mark.parametrize("name", ["vdn", "wqmix"])
@pytest.mark.parametrize("changes", [(), ("rounds.reduce=mpi",), ("rounds.rule=rennala",), ("rounds.rule=malenia",), ("rounds.rule=afedpg",)])
def test_ranks_train_and_resume(tmp_path, name, changes):
    changes = (f"algo.name={name}", "topology.groups=2", *changes)
    run_world(5, tmp_path, *changes, text=ECHO)
    assert (summary(tmp_path)["status"], summary(tmp_path)["updates"]) == ("finished", 6)
    held = [load_checkpoint(list_checkpoints(tmp_path / "replay" / f"group-000{group}")[0])[0] for group in range(2)]
    assert max(state["collected"] for state in held) >= 16
    ranks = run_world(5, tmp_path, *changes, "stop.updates=9", text=ECHO, resume="auto")
    assert summary(tmp_path)["updates"] == 9
    learners = [rank.roles["learner"] for rank in ranks if "learner" in rank.roles]
    assert all(learner.feed.collected >= state["collected"] for learner, state in zip(learners, held, strict=True))


MAST = ("algo.operator=mellowmax", "algo.trace_lambda=0.6", "algo.trace_from=300", "algo.replay.recent=16")
RLX2 = ("algo.trace_lambda=0.6", "algo.trace_from=300", "algo.replay.dynamic={every: 20, oldest: 10, distance: 0.3, least: 40}")


@pytest.mark.parametrize(("name", "extra"), [("iql", ()), ("vdn", ()), ("qmix", ()), ("qmix", MAST), ("qmix", RLX2)])
def test_it_learns(tmp_path, name, extra):
    run_world(1, tmp_path, f"algo.name={name}", *extra, "eval.episodes=40", "stop.updates=250", text=ECHO)
    assert summary(tmp_path)["eval_return_mean"] > 0.9  # random play: 1/3


def test_exploration_follows_the_steps_of_the_whole_run(tmp_path):
    for updates, resume in ((5, None), (10, "auto")):
        ranks = run_world(3, tmp_path, f"stop.updates={updates}", "algo.epsilon_steps=1000", text=ECHO, resume=resume)
        actors = [rank.roles["actor"] for rank in ranks if "actor" in rank.roles]
        assert len(actors) == 2
        done = [(1.0 - next(iter(actor.algorithm._policies.values())).chooser.epsilon) / 0.95 * 1000 for actor in actors]
        steps = summary(tmp_path)["env_steps"]
        assert max(done) <= steps
        assert min(done) > 0.4 * steps


EXACT = ("deterministic=true", "algo.network.recurrent=true", "algo.network.memory=8", "algo.replay={starts: 6, ratio: 3, recent: 4}")
MORE = ("algo.target_every=3", "algo.epsilon_steps=150", "algo.trace_lambda=0.5", "algo.trace_from=60", "topology.environments_per_actor=3")


@pytest.mark.parametrize("extra", [(), ("rounds.reduce=mpi",), ("algo.name=qmix", "algo.target_rate=0.1")])
def test_half_and_half_is_the_whole_bit_for_bit(tmp_path, extra):
    extra = (*EXACT, *MORE, *extra)
    run_world(4, tmp_path / "whole", *extra, "stop.updates=12", text=ECHO)
    run_world(4, tmp_path / "half", *extra, "stop.updates=6", text=ECHO, order=7)
    run_world(4, tmp_path / "half", *extra, "stop.updates=12", text=ECHO, resume=str(tmp_path / "half"), order=8)
    whole, half = final_state(tmp_path / "whole"), final_state(tmp_path / "half")
    for name, value in whole["engine"]["optimizer"].items():
        np.testing.assert_array_equal(value, half["engine"]["optimizer"][name], err_msg=name)
    replays = [load_checkpoint(list_checkpoints(tmp_path / run / "replay" / "group-0000")[0])[0] for run in ("whole", "half")]
    np.testing.assert_array_equal(replays[0]["episodes"], replays[1]["episodes"])


def test_checkpoints_in_between_change_nothing(tmp_path):
    for run, extra in (("a", ()), ("b", ("checkpoint.every_updates=3",))):
        run_world(3, tmp_path / run, *EXACT, *MORE, *extra, "stop.updates=8", text=ECHO, order=len(extra))
    first, second = (final_state(tmp_path / run)["engine"]["optimizer"]["parameters"] for run in "ab")
    np.testing.assert_array_equal(first, second)
    versions = [[path.name for path in list_checkpoints(tmp_path / "b" / place)] for place in ("replay/group-0000", "checkpoints")]
    assert versions[0][0] == versions[1][0]  # of those that wait to be written the newest wins, so that others may differ


def test_a_checkpoint_resumes_on_other_ranks_and_without_its_replay(tmp_path, caplog):
    run_world(4, tmp_path, "algo.replay.save=never", text=ECHO)
    assert not (tmp_path / "replay").exists()
    run_world(2, tmp_path, "stop.updates=9", text=ECHO, resume="auto")
    assert (summary(tmp_path)["updates"], summary(tmp_path)["ranks"]) == (9, 2)
    assert "it is filled anew" in caplog.text
