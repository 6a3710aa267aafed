"""Kill campaigns: starts `hpcmarl train`, kills a rank or the whole job with SIGKILL at random moments, and
judges what is left.

Called by `hpcmarl bench faults`, outside any MPI world. One run directory lasts through the whole campaign,
so that every kill meets what the former ones left. Knows the run's files and its command line, none of its
insides.

A kill of the job happens at a moment drawn evenly from a window after the first new update, one in five while
the job is still starting. Then every file under a final name is verified, no rollout may be in two shards, no
version in two rows of metrics, and every checkpoint must hold the parameters of its version. Open shards are
salvaged, and `--resume auto` has to go on from the newest checkpoint. A kill of an actor or a learner is
survived when the same job makes further updates and ends with exit 0.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from hpcmarl.bench.faults.jobs import Job, Progress, kill_process, wait_until
from hpcmarl.comm.topology import assign_roles
from hpcmarl.config.file import load_config
from hpcmarl.errors import EXIT_TRY_AGAIN, HpcmarlError
from hpcmarl.io.atomic import PARTIAL
from hpcmarl.io.checkpoint import find_checkpoint, load_checkpoint
from hpcmarl.io.describe import BAD, run_files, verify_file
from hpcmarl.io.trajectories.live_segments import overlaps
from hpcmarl.io.trajectories.salvage import salvage

CONFIG = """name: faults
env: {id: mpe2.simple_spread_v3}
algo: {unroll: 5, network: {hidden: [32]}}
topology: {environments_per_actor: 4}
trajectories: {shard_seconds: 1.5}
checkpoint: {every_updates: 1, every_seconds: null}
eval: {episodes: 0}
stop: {seconds: 1000000000}
logging: {progress: false, every_seconds: 0.001}
"""
RANKS = {"job": 4, "actor": 4, "learner": 5}
EXTRA = {"job": (), "actor": (), "learner": ("topology.groups=2", "rounds.rule=rennala")}
START_LIMIT, RECOVERY_LIMIT, END_LIMIT = 120.0, 60.0, 60.0  # seconds until a job counts as stuck
WINDOW = 1.5  # seconds after the first new update in which the job is killed
RANK_WINDOW = 1.5  # seconds after the first new update in which a rank is killed
STARTING_SHARE = 0.2
FAILED_STARTS = 3  # in a row: the campaign ends


@dataclass
class Tally:
    """What the campaign has counted so far."""

    injected: int = 0
    survived: int = 0
    resumed: int = 0
    while_starting: int = 0
    in_checkpoint: int = 0
    salvaged: int = 0
    corrupt: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    recovery: list[float] = field(default_factory=list)


def run(
    kills: int, seed: int, what: str, ranks: int | None, directory: str | None, reduce: str = "server"
) -> dict[str, Any]:
    """Run the whole campaign.

    Args:
        kills: how many.
        seed: of the moments and the victims.
        what: job, actor or learner.
        ranks: of each job; None: RANKS.
        directory: where the run is kept; it must not hold one yet. None: a temporary one.
        reduce: as rounds.reduce.

    Raises:
        HpcmarlError: the jobs do not start.
    """
    root = Path(directory) if directory else Path(tempfile.mkdtemp(prefix="hpcmarl-faults-"))
    numbers = (signal.SIGINT, signal.SIGTERM)  # either ends the campaign early, and no job stays behind
    handlers = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        root.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(root, what, ranks or RANKS[what], np.random.default_rng(seed), reduce)
        began = time.monotonic()
        try:
            campaign.run(kills)
        finally:
            campaign.close()
        return campaign.result(seed, time.monotonic() - began)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if directory is None:
            shutil.rmtree(root, ignore_errors=True)


class Campaign:
    """One run directory, killed again and again."""

    def __init__(
        self, root: Path, what: str, ranks: int, generator: np.random.Generator, reduce: str = "server"
    ) -> None:
        self.root, self.what, self.ranks, self.generator = root, what, ranks, generator
        self.extra = (*EXTRA[what], f"rounds.reduce={reduce}")
        self.config = root / "faults.yaml"
        self.config.write_text(CONFIG, encoding="utf-8")
        self.directory = root / "run"
        self.progress = Progress(self.directory)
        topology = assign_roles(ranks, ["here"] * ranks, load_config(self.config, self.extra).topology)
        self.victims = [rank for rank in range(1, ranks) if what in topology.roles_of(rank)]
        if what != "job" and not self.victims:
            raise HpcmarlError(f"--what {what}: no rank of {ranks} is {what} alone; use more ranks")
        self.tally = Tally()
        self.job: Job | None = None
        self.checkpoint: tuple[Path | None, int] = (None, 0)
        self.known: dict[Path, tuple[int, int, int]] = {}
        self.startup_seconds = 1.0  # of the last job, to its first update
        self.pending = 0  # kills after which no job has yet made an update
        self.exit_code: int | None = None

    def run(self, kills: int) -> None:
        """Kill so many times, then let the run end as a signal makes it end."""
        failed = 0
        with contextlib.suppress(KeyboardInterrupt):  # what was done until then is judged and told
            while self.tally.injected < kills:
                went_on = self._kill_job() if self.what == "job" else self._kill_rank()
                failed = 0 if went_on else failed + 1
                # before the first kill nothing was harmed: another start does no better
                if failed == (FAILED_STARTS if self.tally.injected else 1):
                    raise HpcmarlError(
                        f"{failed} start{'s in a row' if failed > 1 else ''} made no update: "
                        f"{self.tally.failures[-1]}"
                    )
                done = self.tally.injected
                if done and (done % 10 == 0 or done == kills):
                    print(
                        f"{done} of {kills} kills, {len(self.tally.corrupt)} corrupt files",
                        file=sys.stderr,
                        flush=True,
                    )
        self.close()
        self._judge()
        if self.pending:
            self._start()
            self._await_update()
            assert self.job is not None
            self.exit_code = self.job.stop(END_LIMIT)
        self._verify(everything=True)
        self._judge_versions()

    def close(self) -> None:
        """Nothing of the job stays behind."""
        if self.job is not None:
            self.job.kill()

    # ---- starting

    def _start(self, *extra: str) -> None:
        self.inode = self.progress.inode()
        arguments = [
            "train",
            str(self.config),
            *self.extra,
            *extra,
            "-n",
            str(self.ranks),
            "--run-dir",
            str(self.directory),
        ]
        self.job = Job([*arguments, "--resume", "auto"], self.root / "job.log")

    def _resumed_version(self) -> int:
        """The version behind which the job now running has to go on."""
        return self.checkpoint[1]

    def _updated(self) -> bool:
        """The rows past the checkpoint are dropped, and there is a new one."""
        return self.progress.inode() != self.inode and self.progress.version > self._resumed_version()

    def _await_update(self) -> bool:
        """Wait for the first new update; False (with a note) where the job ends or stays silent, or begins
        anew."""
        assert self.job is not None
        job, resuming = self.job, self.checkpoint[0] is not None
        wait_until(lambda: self._updated() or not job.running, START_LIMIT)
        self.startup_seconds = time.monotonic() - job.began
        if not self._updated() or (resuming and not self._continues()):
            self.tally.failures.append(
                f"{self.startup_seconds:.0f} s after the start it had not gone on: {job.closing_lines()}"
            )
            job.kill()
            return False
        if not resuming:  # the very first job: kills begin when there is something to lose
            wait_until(lambda: find_checkpoint(self.directory) is not None, START_LIMIT)
        self.tally.resumed += self.pending
        self.pending = 0
        return True

    def _continues(self) -> bool:
        """Whether the rows of metrics count on from the checkpoint instead of beginning anew."""
        from hpcmarl.io.row_files import read_csv

        versions = read_csv(self.progress.path)["version"]
        return bool((np.diff(versions) > 0).all() and self._resumed_version() + 1 in versions)

    # ---- killing

    def _kill_job(self) -> bool:
        """Start, wait, kill everything, judge. False where the job made no update though it had the time."""
        resuming, before = self.checkpoint[0] is not None, self._resumed_version()
        self._start()
        assert self.job is not None
        if resuming and self.generator.random() < STARTING_SHARE:
            self.tally.while_starting += 1
            time.sleep(float(self.generator.uniform(0.0, self.startup_seconds)))
        else:
            if not self._await_update():
                self._judge()
                return False
            if resuming:
                self.tally.recovery.append(self.startup_seconds)
            time.sleep(float(self.generator.uniform(0.0, WINDOW)))
        self.job.kill()
        self.tally.injected += 1
        self.pending += 1
        self.tally.in_checkpoint += any((self.directory / "checkpoints").glob("checkpoint-*" + PARTIAL))
        reached = self.progress.version if self.progress.inode() != self.inode else before
        self._judge()
        self.tally.lost.append(max(0, reached - self._resumed_version()))
        return True

    def _kill_rank(self) -> bool:
        """Start a job, kill one rank of it, see whether it goes on, and end it as a signal does."""
        self._start()
        assert self.job is not None
        job = self.job
        if not self._await_update():
            self._judge()
            return False
        time.sleep(float(self.generator.uniform(0.0, RANK_WINDOW)))
        victim = int(self.generator.choice(self.victims))
        numbers = [number for number, rank in job.processes().items() if rank == victim]
        if not numbers:
            raise HpcmarlError(f"rank {victim} is not there to be killed: {job.closing_lines()}")
        before, at = self.progress.version, time.monotonic()
        kill_process(numbers[0])
        self.tally.injected += 1
        wait_until(lambda: self.progress.version > before or not job.running, RECOVERY_LIMIT)
        recovered, reached = time.monotonic() - at, self.progress.version
        self.exit_code = job.stop(END_LIMIT)
        self._judge()
        self.tally.lost.append(max(0, reached - self._resumed_version()))
        if reached > before and self.exit_code == EXIT_TRY_AGAIN:
            self.tally.survived += 1
            self.tally.recovery.append(recovered)
        else:
            self.pending += 1
            self.tally.failures.append(
                f"rank {victim} killed at version {before}, exit {self.exit_code}: {job.closing_lines()}"
            )
        return True

    # ---- judging

    def _judge(self) -> None:
        """Verify what the dead job left, salvage its open shards, and find what the next one resumes from."""
        self._verify()
        self._judge_versions()
        trajectories = self.directory / "trajectories"
        for item in salvage(trajectories, remove=True) if trajectories.is_dir() else ():
            self.tally.salvaged += item.status == "recovered"
            failure = f"salvage: {item.note}"
            # the file stays, and is met again after the next kill
            if item.status == "failed" and failure not in self.tally.failures:
                self.tally.failures.append(failure)
        found = find_checkpoint(self.directory) if self.directory.is_dir() else None
        self.checkpoint = (found, int(load_checkpoint(found)[1]["version"]) if found else 0)

    def _judge_versions(self) -> None:
        """Nothing may stand twice: no version in metrics, no rollout in two shards."""
        from hpcmarl.io.row_files import read_csv

        if (
            self.progress.path.exists()
            and (np.diff(read_csv(self.progress.path).get("version", np.empty(0))) <= 0).any()
        ):
            self.tally.corrupt.append(f"{self.progress.path}: a version has two rows, or the rows fall back")
        for shard, why in overlaps(self.directory) if self.directory.is_dir() else ():
            self.tally.corrupt.append(f"{shard}: {why}")

    def _verify(self, *, everything: bool = False) -> None:
        """Read every file under a final name; those that have not changed since they were good, at the end
        only."""
        for path in run_files(self.directory) if self.directory.is_dir() else ():
            status = path.stat()
            print_of_file = (status.st_ino, status.st_mtime_ns, status.st_size)
            if path.name.endswith(PARTIAL) or (self.known.get(path) == print_of_file and not everything):
                continue
            found = verify_file(path)
            self.known[path] = print_of_file
            if found["status"] == BAD:
                self.tally.corrupt.append(f"{path}: {found['reason']}")

    def result(self, seed: int, seconds: float) -> dict[str, Any]:
        """The figures, units in the keys. survived: the same job went on; resumed: the next one went on from
        a checkpoint."""
        tally = self.tally
        return {
            "what": self.what,
            "ranks": self.ranks,
            "reduce": self.extra[-1].partition("=")[2],
            "seed": seed,
            "injected": tally.injected,
            "survived": tally.survived,
            "resumed": tally.resumed,
            "kills_while_starting": tally.while_starting,
            "kills_in_checkpoint_writing": tally.in_checkpoint,
            "corrupt_files": len(tally.corrupt),
            "files_verified": len(self.known),
            "salvaged_shards": tally.salvaged,
            "lost_updates_max": max(tally.lost, default=None),
            "lost_updates_median": median(tally.lost) if tally.lost else None,
            "recovery_seconds_median": median(tally.recovery) if tally.recovery else None,
            "updates": self.progress.version,
            "exit_code": self.exit_code,
            "seconds": seconds,
            "failures": [*tally.corrupt, *tally.failures],
        }
