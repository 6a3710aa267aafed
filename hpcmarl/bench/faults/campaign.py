"""Kill campaigns: start `hpcmarl train`, kill a rank or the whole job, and check the remains.

Kills are SIGKILL at random moments. The campaign runs outside any MPI world. One run directory lasts through
all of it, so that every kill meets the remains of the earlier ones. Only the run's files and its command line
are used.

A kill of the job happens at a moment drawn evenly from a window after the first new update. One kill in five
happens while the job is still starting. After each kill the campaign checks the run:

- Every file under a final name verifies.
- No rollout is in two shards, and no version is in two rows of metrics.
- Every checkpoint holds the parameters of its version.
- Open shards are salvaged.
- `--resume auto` continues from the newest checkpoint.

A kill of an actor or a learner counts as survived if the same job makes further updates and later stops on
SIGTERM with exit code 75.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
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
# Seconds after which a job counts as stuck: at the start, after a kill of a rank, and at the end.
START_LIMIT, RECOVERY_LIMIT, END_LIMIT = 120.0, 60.0, 60.0
WINDOW = 1.5  # seconds after the first new update in which the job is killed
RANK_WINDOW = 1.5  # seconds after the first new update in which a rank is killed
STARTING_SHARE = 0.2  # share of the kills of a job that happen while it is starting
FAILED_STARTS = 3  # failed starts in a row that end the campaign


@dataclass
class Tally:
    """Counts of the campaign so far.

    Attributes:
        injected: Kills.
        survived: Kills after which the same job made further updates.
        resumed: Kills after which the next job resumed.
        while_starting: Kills of jobs that were still starting.
        in_checkpoint: Kills while a checkpoint was being written.
        salvaged: Open shards that were recovered.
        corrupt: Corrupt files, each with the reason.
        failures: Other failures, in one line each.
        lost: Updates that each kill lost.
        recovery: Seconds of each recovery.
    """

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


OnProgress = Callable[[int, int, str], object]  # kills so far, all kills, and what is counted


def _ignore(done: int, total: int, words: str) -> None:
    """Ignore progress."""


def run(
    kills: int,
    seed: int,
    what: str,
    ranks: int | None,
    directory: str | None,
    reduce: str = "server",
    on_progress: OnProgress = _ignore,
) -> dict[str, Any]:
    """Run the whole campaign.

    Args:
        kills: Number of kills.
        seed: Seed of the moments and the victims.
        what: Target of the kills: job, actor or learner.
        ranks: Ranks of each job; None: RANKS.
        directory: Directory for the run, which must not hold one yet; None: a temporary one.
        reduce: Value of rounds.reduce.
        on_progress: Called at the beginning and after each kill.

    Returns:
        The figures of `Campaign.result`.

    Raises:
        HpcmarlError: The jobs do not start.
    """
    root = Path(directory) if directory else Path(tempfile.mkdtemp(prefix="hpcmarl-faults-"))
    numbers = (signal.SIGINT, signal.SIGTERM)  # each ends the campaign early, and its job with it
    handlers = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        root.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(root, what, ranks or RANKS[what], np.random.default_rng(seed), reduce)
        began = time.monotonic()
        try:
            campaign.run(kills, on_progress)
        finally:
            campaign.close()
        return campaign.result(seed, time.monotonic() - began)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if directory is None:
            shutil.rmtree(root, ignore_errors=True)


class Campaign:
    """Campaign on one run directory.

    Args:
        root: Directory for the configuration, the run and the output of the jobs.
        what: Target of the kills: job, actor or learner.
        ranks: Ranks of each job.
        generator: Draws the moments and the victims.
        reduce: Value of rounds.reduce.

    Attributes:
        victims: Ranks that may be killed.
        checkpoint: Newest valid checkpoint and its version.
        known: Verified file -> inode, time of change (ns) and size at that moment.
        startup_seconds: Seconds of the last job until its first update.
        pending: Kills after which no job has made an update yet.
        exit_code: Exit code of the last job that ended by a signal.
    """

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
            raise HpcmarlError(
                f"--what {what}: none of {ranks} ranks can be killed as {what}; use a larger -n"
            )
        self.tally = Tally()
        self.job: Job | None = None
        self.checkpoint: tuple[Path | None, int] = (None, 0)
        self.known: dict[Path, tuple[int, int, int]] = {}
        self.startup_seconds = 1.0
        self.pending = 0
        self.exit_code: int | None = None

    def run(self, kills: int, on_progress: OnProgress = _ignore) -> None:
        """Kill the run `kills` times, then end it with a signal and verify everything."""
        failed = 0
        on_progress(0, kills, "kills")
        with contextlib.suppress(KeyboardInterrupt):  # the kills so far are still verified and reported
            while self.tally.injected < kills:
                updated = self._kill_job() if self.what == "job" else self._kill_rank()
                failed = 0 if updated else failed + 1
                # Before the first kill no file is damaged, so another start would fail as well.
                if failed == (FAILED_STARTS if self.tally.injected else 1):
                    raise HpcmarlError(
                        f"{failed} start{'s in a row' if failed > 1 else ''} made no update: "
                        f"{self.tally.failures[-1]}"
                    )
                on_progress(self.tally.injected, kills, f"kills, {len(self.tally.corrupt)} corrupt files")
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
        """Kill the job, so that no process stays behind."""
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
        """Return the version that the current job resumes from."""
        return self.checkpoint[1]

    def _updated(self) -> bool:
        """Return whether the job has dropped the rows after the checkpoint and has written a new one."""
        return self.progress.inode() != self.inode and self.progress.version > self._resumed_version()

    def _await_update(self) -> bool:
        """Wait for the first new update.

        Returns:
            True after the update. False, with a note, if the job ends, stays silent, or starts from scratch.
        """
        assert self.job is not None
        job, resuming = self.job, self.checkpoint[0] is not None
        wait_until(lambda: self._updated() or not job.running, START_LIMIT)
        self.startup_seconds = time.monotonic() - job.began
        if not self._updated() or (resuming and not self._continues()):
            self.tally.failures.append(
                f"no update {self.startup_seconds:.0f} s after the start: {job.closing_lines()}"
            )
            job.kill()
            return False
        if not resuming:  # the first job: kills begin once it has written a checkpoint
            wait_until(lambda: find_checkpoint(self.directory) is not None, START_LIMIT)
        self.tally.resumed += self.pending
        self.pending = 0
        return True

    def _continues(self) -> bool:
        """Return whether the rows of metrics continue from the checkpoint."""
        from hpcmarl.io.row_files import read_csv

        versions = read_csv(self.progress.path)["version"]
        return bool((np.diff(versions) > 0).all() and self._resumed_version() + 1 in versions)

    # ---- killing

    def _kill_job(self) -> bool:
        """Start a job, wait, kill all of its processes, and check the remains.

        Returns:
            False if the job made no update although it had time to.
        """
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
        """Start a job, kill one of its ranks, check that it continues, and end it with a signal.

        Returns:
            False if the job made no update before the kill.
        """
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
            raise HpcmarlError(f"rank {victim} has no process to kill: {job.closing_lines()}")
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
        """Verify the remains of the dead job, salvage open shards, and find the checkpoint to resume from."""
        self._verify()
        self._judge_versions()
        trajectories = self.directory / "trajectories"
        for item in salvage(trajectories, remove=True) if trajectories.is_dir() else ():
            self.tally.salvaged += item.status == "recovered"
            failure = f"salvage: {item.note}"
            # The file stays and fails again after the next kill; it is noted once.
            if item.status == "failed" and failure not in self.tally.failures:
                self.tally.failures.append(failure)
        found = find_checkpoint(self.directory) if self.directory.is_dir() else None
        self.checkpoint = (found, int(load_checkpoint(found)[1]["version"]) if found else 0)

    def _judge_versions(self) -> None:
        """Check that no version has two rows in metrics and that no rollout is in two shards."""
        from hpcmarl.io.row_files import read_csv

        if (
            self.progress.path.exists()
            and (np.diff(read_csv(self.progress.path).get("version", np.empty(0))) <= 0).any()
        ):
            self.tally.corrupt.append(f"{self.progress.path}: a version has two rows, or versions decrease")
        for shard, why in overlaps(self.directory) if self.directory.is_dir() else ():
            self.tally.corrupt.append(f"{shard}: {why}")

    def _verify(self, *, everything: bool = False) -> None:
        """Read every file under a final name.

        Args:
            everything: Whether to read files again that have not changed since they were last verified.
        """
        for path in run_files(self.directory) if self.directory.is_dir() else ():
            status = path.stat()
            fingerprint = (status.st_ino, status.st_mtime_ns, status.st_size)
            if path.name.endswith(PARTIAL) or (self.known.get(path) == fingerprint and not everything):
                continue
            found = verify_file(path)
            self.known[path] = fingerprint
            if found["status"] == BAD:
                self.tally.corrupt.append(f"{path}: {found['reason']}")

    def result(self, seed: int, seconds: float) -> dict[str, Any]:
        """Return the figures, with units in the keys.

        `survived` counts kills after which the same job continued, `resumed` those after which the next job
        continued from a checkpoint.

        Args:
            seed: Seed of the campaign.
            seconds: Duration of the campaign.
        """
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
