"""Kinds of workers: their environments, their share of random actions, and their metrics."""

import csv

import h5py
import pytest

from hpcmarl.errors import ConfigError
from tests.support.worlds import ECHO, run_world, summary

ONE_ACTOR = ("topology.actors_per_learner=1", "topology.environments_per_actor=6")


def kinds(*entries):
    return f"topology.workers=[{', '.join(entries)}]"


def test_each_kind_of_workers_has_its_environment_and_metrics(tmp_path):
    lengths = kinds("{env: {kwargs: {max_cycles: 3}}}", "{env: {kwargs: {max_cycles: 7}}}")
    changes = ("topology.workers_per_actor=3", lengths, "trajectories.enabled=true", "stop.updates=12")
    run_world(5, tmp_path, *ONE_ACTOR, *changes)
    found = {worker: set() for worker in range(3)}
    for path in tmp_path.glob("trajectories/*/*.h5"):
        with h5py.File(path) as file:
            whole = file["segments/truncated"][:] & (file["segments/first_step"][:] == 0)
            for worker, length in zip(
                file["segments/worker"][whole], file["segments/length"][whole], strict=True
            ):
                found[int(worker)].add(int(length))
    assert found == {0: {3}, 1: set(), 2: {3}}  # an unroll has six steps, less than the second kind's episode
    told = summary(tmp_path)["returns_by_worker_kind"]
    assert len(told) == 2
    assert None not in told
    with (tmp_path / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert [float(last[f"return_worker_kind/{kind}"]) for kind in range(2)] == pytest.approx(told)


@pytest.mark.parametrize("deterministic", ["true", "false"])
def test_each_kind_of_workers_has_its_share_of_random_actions(tmp_path, deterministic):
    shares = kinds("{epsilon: 0.0}", "{epsilon: 1.0}", "{}")
    changes = ("topology.workers_per_actor=3", shares, f"deterministic={deterministic}")
    more = ("trajectories.enabled=true", "algo.epsilon_start=0.5", "algo.epsilon_final=0.5")
    more += ("algo.replay.learning_starts=4000", "stop={seconds: 0.5}")  # no parameter changes
    run_world(5, tmp_path, *ONE_ACTOR, *changes, *more, text=ECHO)
    chosen = {worker: {} for worker in range(3)}
    for path in tmp_path.glob("trajectories/*/*.h5"):
        with h5py.File(path) as file:
            columns = (
                file[f"segments/{name}"][:].tolist() for name in ("worker", "version", "start", "length")
            )
            for worker, version, start, length in zip(*columns, strict=True):
                rows = slice(start, start + length)
                [policy] = set(file["steps"]) - {"env"}
                steps = (file[f"steps/{policy}/{name}"][rows, 0] for name in ("obs", "action"))
                for seen, action in zip(*steps, strict=True):
                    chosen[worker].setdefault((version, seen.tobytes()), set()).add(int(action))
    most = [max(len(actions) for actions in chosen[worker].values()) for worker in range(3)]
    assert most[0] == 1  # one action for each observation and version
    assert most[1] > 1
    assert most[2] > 1


def test_a_kind_with_delayed_trajectories_makes_fewer_of_them(tmp_path):
    slow = kinds("{}", "{delay: {trajectory: 0.05}}")
    changes = ("topology.workers_per_actor=2", slow, "trajectories.enabled=true", "stop={seconds: 1.0}")
    run_world(4, tmp_path, *ONE_ACTOR, *changes)
    found = []
    for path in tmp_path.glob("trajectories/*/*.h5"):
        with h5py.File(path) as file:
            found += file["segments/worker"][:].tolist()
    assert 0 < found.count(1) < found.count(0) / 2


def test_a_kind_with_other_spaces_is_refused(tmp_path):
    other = kinds("{}", "{env: {kwargs: {N: 4}}}")
    with pytest.raises(ConfigError, match=r"topology.workers.1.env changes"):
        run_world(4, tmp_path, *ONE_ACTOR, "topology.workers_per_actor=2", other)
    assert not list(tmp_path.iterdir())
