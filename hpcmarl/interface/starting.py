"""Start a training or an evaluation from Python: a script, a notebook or another program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hpcmarl.config import Config
from hpcmarl.config.file import dump_config, load_config
from hpcmarl.errors import EXIT_TRY_AGAIN, EXIT_USAGE, ConfigError, HpcmarlError
from hpcmarl.interface.run import Run, open_run
from hpcmarl.io.run_directory import home_of, new_run_directory

LAST_LINES = 20  # kept for the message of a failure


def train(
    config: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None,
    *,
    ranks: int = 1,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    run_dir: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Run:
    """Train policies on ranks that are started here, and wait for the end.

    The ranks are processes of their own, also with one rank, so that a notebook never initialises MPI. Ctrl-C
    asks them to write a checkpoint and stop.

    Args:
        config: YAML file, a configuration as a dictionary, or a Config. None: that of `resume`, or all of it
            in `overrides`.
        ranks: Number of ranks.
        overrides: Changes, {"stop.seconds": 30} or ["stop.seconds=30"].
        run_dir: Run directory; None: runs/NAME-DATE-TIME.
        resume: Run directory or checkpoint to resume from.
        quiet: Whether to hide the progress, which otherwise goes to standard error.

    Returns:
        The run. Its state is "finished", or "interrupted" if a signal has stopped it after a good checkpoint.

    Raises:
        ConfigError: The configuration is wrong.
        HpcmarlError: The training has failed.
    """
    changes = _changes(overrides)
    with tempfile.TemporaryDirectory(prefix="hpcmarl-") as scratch:
        file = _config_file(config, Path(scratch))
        if run_dir is None and resume is None:
            run_dir = new_run_directory(load_config(file, changes).name)
        arguments = ["train", *([str(file)] if file is not None else []), *changes, "-n", str(ranks)]
        arguments += ["--run-dir", os.fspath(run_dir)] if run_dir is not None else []
        arguments += ["--resume", os.fspath(resume)] if resume is not None else []
        code, lines = _run(arguments, quiet=quiet)
    if code not in (0, EXIT_TRY_AGAIN):
        errors = [line.partition("error: ")[2] for line in lines if "error: " in line]
        message = (
            errors[-1] if errors else (lines[-1] if lines else f"the training ended with exit code {code}")
        )
        raise (ConfigError if code == EXIT_USAGE else HpcmarlError)(message)
    place = run_dir if run_dir is not None else home_of(Path(resume or "."))
    return open_run(place or ".")


def _changes(overrides: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return changes as arguments of the command line; values become JSON, which is YAML."""
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    return list(overrides)


def _config_file(
    config: str | os.PathLike[str] | Mapping[str, Any] | Config | None, scratch: Path
) -> Path | None:
    """Return the file of a configuration; one that is no file is written into `scratch`."""
    if config is None or isinstance(config, str | os.PathLike):
        return None if config is None else Path(config)
    file = scratch / "config.yaml"
    text = dump_config(config) if isinstance(config, Config) else yaml.safe_dump(dict(config))
    file.write_text(text, encoding="utf-8")
    return file


def _run(arguments: Sequence[str], *, quiet: bool) -> tuple[int, list[str]]:
    """Run hpcmarl in a process of its own.

    Returns:
        Its exit code and its last lines.
    """
    lines: deque[str] = deque(maxlen=LAST_LINES)
    command = [sys.executable, "-m", "hpcmarl", *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        while True:
            try:
                for line in process.stdout:
                    text = line.decode(errors="replace").rstrip()
                    lines.append(text)
                    if not quiet:
                        print(text, file=sys.stderr, flush=True)
                return process.wait(), list(lines)
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)  # once: write a checkpoint and stop; twice: stop at once


def evaluate(
    path: str | os.PathLike[str],
    *,
    episodes: int | None = None,
    greedy: bool | None = None,
    seed: int | None = None,
    random_agents: Sequence[str] = (),
) -> dict[str, Any]:
    """Play evaluation episodes with the policies of a run, in this process and without MPI.

    Args:
        path: Run, run directory or checkpoint file.
        episodes: Number of episodes; None: eval.episodes of the run, or 100 if that is 0.
        greedy: Whether agents act greedily instead of sampling; None: eval.greedy of the run.
        seed: Seed of the episodes; None: eval.seed of the run.
        random_agents: Names of agents that take random actions.

    Returns:
        return_mean, return_std, return_sem, episodes, length_mean, returns, win_rate, agents, checkpoint and
        version, as `hpcmarl eval --json` prints them.

    Raises:
        ConfigError: The path does not exist, or the checkpoint is of a league.
        FormatError: No checkpoint verifies, or it does not fit its own configuration.
    """
    from hpcmarl.evaluation import evaluate_checkpoint

    return evaluate_checkpoint(path, episodes, greedy, seed, random_agents)
