"""Real ranks that are killed or frozen while they train.

The tests check which ranks continue, which stop, and which files are left.
"""

import os
import signal

import pytest

from tests.support.hits import MORE, Hit, train_and_hit
from tests.support.launch import LIBRARIES, needs_horovod, rank_processes, ranks_take_seconds, run_train
from tests.support.worlds import final_state, summary

pytestmark = [pytest.mark.mpi, ranks_take_seconds]
THREE_LEARNERS = ("topology.groups=3", "topology.actors_per_learner=0", "topology.server=dedicated")
ENDLESS = 1_000_000
OTHER_RULES = pytest.mark.long("other rules lose ranks on virtual ranks in tests/runs/runtime/test_losses.py")


class HitBoth(Hit):
    """Freeze one rank and kill another at the same moment."""

    def __init__(self, directory, frozen, killed):
        super().__init__(directory, killed)
        self.frozen = frozen

    def hit(self, processes):
        os.kill(processes[self.frozen], signal.SIGSTOP)
        super().hit(processes)


def updates_of(directory):
    """Return the number of optimizer steps in the newest checkpoint.

    Loading the checkpoint compares this number with the version.
    """
    return final_state(directory)["engine"]["optimizer"]["updates"]


@pytest.mark.parametrize(
    ("ranks", "victim", "role", "changes"),
    [
        (4, 3, "actor", ()),
        (5, 3, "learner", ("topology.groups=2", "rounds.rule=rennala")),
        pytest.param(5, 3, "learner", ("topology.groups=2", "rounds.rule=afedpg"), marks=OTHER_RULES),
        (5, 3, "learner", ("topology.groups=2", "rounds.reduce=mpi")),
        (4, 2, "learner+actor", (*THREE_LEARNERS, "rounds.reduce=gloo")),
        pytest.param(4, 2, "learner+actor", (*THREE_LEARNERS, "rounds.reduce=horovod"), marks=needs_horovod),
        pytest.param(
            5,
            4,
            "actor",
            ("topology.groups=2", "rounds.rule=malenia", "rounds.on_loss=drop"),
            marks=OTHER_RULES,
        ),
    ],
)
def test_a_killed_rank_does_not_end_the_run(ranks, victim, role, changes, config, tmp_path):
    job, _ = train_and_hit("openmpi", ranks, config, tmp_path / "run", victim, *changes)
    assert job.code == 0, job.text
    told = summary(tmp_path / "run")
    assert (told["status"], told["updates"]) == ("finished", MORE)
    assert [(row["rank"], row["roles"]) for row in told["lost_ranks"]] == [(victim, role)]
    assert f"rank {victim} ({role}) on " in job.text


def test_death_beside_a_frozen_learner_kills_no_other(config, tmp_path):
    four = (
        "topology.groups=4",
        "topology.actors_per_learner=0",
        "topology.server=dedicated",
        "rounds.reduce=mpi",
    )
    hit = HitBoth(tmp_path / "run", frozen=2, killed=3)
    job, _ = train_and_hit("openmpi", 5, config, tmp_path / "run", 3, *four, hit=hit)
    assert job.code == 0, job.text
    told = summary(tmp_path / "run")
    assert (told["status"], told["updates"]) == ("finished", MORE)
    assert sorted(row["rank"] for row in told["lost_ranks"]) == [2, 3]


def test_a_killed_actor_is_replaced(config, tmp_path):
    told = "is replaced by process"
    job, _ = train_and_hit(
        "openmpi", 4, config, tmp_path / "run", 3, "topology.respawn=true", updates=ENDLESS, until=told
    )
    assert job.code == 75, job.text
    assert [(row["rank"], row["replaced"]) for row in summary(tmp_path / "run")["lost_ranks"]] == [(3, True)]
    assert "rank 3 (actor) on " in job.text
    assert told in job.text


@pytest.mark.parametrize(
    ("ranks", "victim", "changes"), [(4, 2, ()), (5, 3, ("topology.groups=2", "rounds.reduce=mpi"))]
)
def test_frozen_rank_is_detected_and_removed(ranks, victim, changes, config, tmp_path):
    """In the second case a learner is frozen, and the other learner waits for it in a collective sum."""
    told = "was not heard for 3 s (topology.heartbeat_timeout_seconds)"
    job, _ = train_and_hit(
        "openmpi",
        ranks,
        config,
        tmp_path / "run",
        victim,
        *changes,
        number=signal.SIGSTOP,
        updates=ENDLESS,
        until=told,
    )
    assert job.code == 75, job.text
    assert [row["rank"] for row in summary(tmp_path / "run")["lost_ranks"]] == [victim]
    assert told in job.text
    assert updates_of(tmp_path / "run") == summary(tmp_path / "run")["updates"]


@pytest.mark.parametrize(
    ("number", "limit", "told"),
    [
        (signal.SIGKILL, 10, "has died"),
        (signal.SIGSTOP, 10 + 3, "has taken no message for 3 s (topology.heartbeat_timeout_seconds)"),
    ],
)
def test_lost_server_ends_the_run_which_can_be_resumed(number, limit, told, config, tmp_path):
    directory = tmp_path / "run"
    job, seconds = train_and_hit("openmpi", 4, config, directory, 0, number=number, updates=ENDLESS)
    assert job.code == 75, job.text
    assert f"error: rank 0 (server) {told}; the job ends" in job.text
    assert seconds < limit
    version = final_state(directory)["engine"]["rule"]["round"]
    again = run_train(
        "openmpi", 1, config, "--run-dir", str(directory), "--resume", "auto", f"stop.updates={version + 5}"
    )
    assert again.code == 0, again.text
    assert summary(directory)["updates"] == version + 5
    assert f"checkpoint-{version:010d}" in summary(directory)["resumed_from"]


class SignalInWriting:
    """Ask the run to stop while a checkpoint is being written."""

    def __init__(self, directory, reached):
        self.directory, self.reached, self.done = directory, reached, False

    def __call__(self, _session):
        finished = self.directory.glob("checkpoints/checkpoint-*.h5")
        if (
            not self.done
            and any(int(path.stem[-10:]) >= self.reached for path in finished)
            and any(self.directory.glob("checkpoints/*.partial"))
        ):
            os.kill(rank_processes(str(self.directory))[0], signal.SIGUSR1)
            self.done = True


@pytest.mark.parametrize("reduce", ["server", "mpi"])
def test_signal_while_a_checkpoint_is_written_loses_nothing(reduce, config, tmp_path):
    directory = tmp_path / "run"
    changes = (
        "stop.updates=1000000",
        "checkpoint.every_updates=1",
        f"rounds.reduce={reduce}",
        "topology.groups=2",
        "topology.actors_per_learner=0",
    )
    job = run_train(
        "openmpi", 2, config, "--run-dir", str(directory), *changes, meanwhile=SignalInWriting(directory, 5)
    )
    assert job.code == 75, job.text
    assert updates_of(directory) == summary(directory)["updates"]
    assert not list(directory.glob("checkpoints/*.partial"))


@pytest.mark.parametrize("library", LIBRARIES[1:])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_mpi_without_fault_tolerance_ends_with_good_checkpoint(library, number, config, tmp_path):
    job, seconds = train_and_hit(library, 4, config, tmp_path / "run", 3, number=number, updates=ENDLESS)
    assert job.code != 0
    assert seconds < 10 + 3
    assert final_state(tmp_path / "run")["engine"]["rule"]["round"] >= 20
