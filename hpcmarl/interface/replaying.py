"""A page or video of one episode, from a run or a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.config import Config
from hpcmarl.errors import ConfigError, UsageError
from hpcmarl.evaluation import load_trained, read_checkpoint, record_episodes
from hpcmarl.interface.run import open_run
from hpcmarl.io.run_directory import RunDirectory, home_of
from hpcmarl.replay.observed import observe
from hpcmarl.replay.recording import Recording, choose
from hpcmarl.replay.redrawing import redraw
from hpcmarl.replay.stored import choose_stored, find_stored, read_recording
from hpcmarl.replay.writing import check_out, write_recording
from hpcmarl.roles.origin import check_environments_of

CHOICES = ("best", "worst", "failed")


def replay(
    path: str | os.PathLike[str],
    *,
    episode: str | int = "best",
    out: str | os.PathLike[str] | None = None,
    play: bool = False,
    episodes: int = 10,
    greedy: bool | None = None,
    seed: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """Make a page or video of one episode.

    Args:
        path: Run directory, of a run in any state, or a checkpoint file. With a file episodes are played.
        episode: Number of the episode, best or worst by the mean return of all agents, or failed: cut off
            because the environment failed, or lost.
        out: File with the ending .html, .gif or .mp4; None: RUN/replays/episode-N.html.
        play: Play new episodes instead of reading stored ones.
        episodes: Number of episodes to play in each environment of the run.
        greedy: Whether played agents act greedily; None: eval.greedy of the run.
        seed: Seed of played episodes; None: eval.seed of the run.
        say: Called with one line when something is worth knowing before the end.
        on_progress: Called while episodes are played, with finished and all episodes.

    Returns:
        path: the file; episode: number of the episode; source; environment; steps; return_mean; returns by
        agent; end: terminated, truncated or failed; drawn: whether the environment is drawn; notes:
        sentences about the drawing.

    Raises:
        UsageError: There is no such run or episode, the run is a league, or a value is not allowed.
        MissingPackageError: The kind of file needs a package that is not installed.
        FormatError: A file of the run is damaged.
        StorageError: The file cannot be written.
    """
    wanted = _wanted(episode)
    if out is not None:
        check_out(Path(out))
    place = Path(path)
    number, recording = None, None
    if not (play or place.is_file()) and (greedy, seed) != (None, None):
        raise UsageError("--greedy, --sample and --seed are for new episodes; add --play, or remove them")
    if not play and not place.is_file():
        number, recording = _stored(place, wanted, say)
    if recording is None:
        number, recording = _played(place, wanted, episodes, greedy, seed, on_progress)
        default = f"played-{recording.facts['version']}-episode-{number}.html"
    else:
        default = f"episode-{number}.html"
    for _ in redraw(recording):
        pass
    if recording.drawn is None:
        observe(recording)
    target = Path(out) if out is not None else (home_of(place) or place.parent) / "replays" / default
    write_recording(recording, target)
    return {
        "path": str(target),
        "episode": number,
        "source": recording.facts["source"],
        "environment": recording.environment,
        "steps": recording.steps,
        "return_mean": recording.return_mean,
        "returns": recording.returns,
        "end": recording.end,
        "drawn": recording.drawn is not None,
        "notes": recording.notes,
    }


def _wanted(episode: str | int) -> str:
    text = str(episode)
    if text not in CHOICES and not (text.isascii() and text.isdigit()):
        raise UsageError(f"--episode {text}: unknown; allowed: a number from 0, {', '.join(CHOICES)}")
    return text


def _stored(run: Path, wanted: str, say: Callable[[str], None]) -> tuple[int | None, Recording | None]:
    """Read the wanted stored episode; None: the run has no stored episodes, so they have to be played."""
    config = open_run(run).config
    _refuse_league(run, config)
    table, problems = find_stored(run)
    for problem in problems:
        say(problem)
    if not len(table):
        open_files = any(RunDirectory(run).trajectories.glob("*/*.partial"))
        advice = " (hpcmarl data salvage recovers open files of a killed run)" if open_files else ""
        say(
            f"{run}: no complete episode in its finished trajectory files{advice}; episodes are played with "
            "the newest checkpoint"
        )
        return None, None
    number = choose_stored(table, wanted)
    if number is None:
        if wanted == "failed":
            raise UsageError(
                f"{run}: none of its {len(table)} stored episodes was cut off by its environment; to search "
                "for lost episodes add --play"
            )
        raise _no_such(run, wanted, len(table))
    check_environments_of(run, config)
    return number, read_recording(table, number, config)


def _played(
    path: Path,
    wanted: str,
    episodes: int,
    greedy: bool | None,
    seed: int | None,
    on_progress: Callable[[int, int], object],
) -> tuple[int, Recording]:
    """Play episodes with the newest checkpoint, and return the wanted one."""
    found, state, attributes = read_checkpoint(path)
    if "league" in state:
        raise _league_error(path)
    trained = load_trained(found, state, attributes)
    recordings = record_episodes(trained, episodes, greedy, seed, on_progress)
    number = _choose_played(recordings, wanted)
    if number is None:
        if wanted == "failed":
            raise UsageError(
                f"{path}: none of {len(recordings)} played episodes was lost or cut off; play more with "
                "--episodes, or choose best or worst"
            )
        raise _no_such(path, wanted, len(recordings))
    return number, recordings[number]


def _choose_played(recordings: Sequence[Recording], wanted: str) -> int | None:
    returns = [np.nan if own.end == "failed" else own.return_mean for own in recordings]
    return choose(wanted, np.array(returns), np.array([own.failed for own in recordings]))


def _no_such(path: Path, wanted: str, count: int) -> UsageError:
    return UsageError(f"--episode {wanted}: {path} has {count} episodes; allowed: 0 to {count - 1}")


def _refuse_league(path: Path, config: Config) -> None:
    if config.league is not None:
        raise _league_error(path)


def _league_error(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} is a league, whose matches cannot be replayed; replay the stored episodes of a member, "
        "RUN/members/NAME/NNNN, or play matches with hpcmarl league match"
    )
