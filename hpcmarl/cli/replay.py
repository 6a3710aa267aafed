"""The command `hpcmarl replay`. The work is done in hpcmarl/interface/replaying.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcmarl.cli.common import Json, Trust, config_of, finite, print_json, printable, set_threads
from hpcmarl.cli.progress import Progress


def replay(
    path: Annotated[str, typer.Argument(metavar="RUN|CHECKPOINT", help="Run directory or checkpoint file.")],
    episode: Annotated[
        str,
        typer.Option(
            "--episode",
            metavar="N|best|worst|failed",
            help="Number of the episode, from 0; or best, worst or failed.",
        ),
    ] = "best",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="FILE.html, FILE.gif or FILE.mp4. Default: RUN/replays/episode-N.html.",
            show_default=False,
        ),
    ] = None,
    play: Annotated[
        bool, typer.Option("--play", help="Play new episodes with the checkpoint instead of stored ones.")
    ] = False,
    episodes: Annotated[
        int, typer.Option("--episodes", min=1, help="Episodes to play, of which one is shown.")
    ] = 10,
    greedy: Annotated[
        bool | None,
        typer.Option(
            "--greedy/--sample",
            help="With --play: take greedy or sampled actions. Default: eval.greedy of the run.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            help="With --play: seed of the episodes. Default: eval.seed of the run.",
            show_default=False,
        ),
    ] = None,
    trusted: Trust = None,
    as_json: Json = False,
) -> None:
    """Make a page or video of one episode.

    The episode is a stored one of the run's trajectories. A CHECKPOINT, --play, or a run without stored
    episodes plays new ones with the trained policies.

    The environment is drawn if it repeats the episode from its seed with the same observations and rewards.
    Otherwise positions come from the observations, or the page shows actions, rewards and observations.

    best and worst go by the mean return of all agents. failed is the newest episode that was cut off because
    its environment raised, hung or returned non-finite values. Among played episodes it is also one that the
    environment reports as lost; stored episodes do not say who won.

    Pages need no package and no network. GIF and MP4 files need pip install "hpcmarl[video]".

    \b
    hpcmarl replay runs/quickstart-20260101-120000
    hpcmarl replay runs/quickstart-20260101-120000 --episode worst --out worst.gif
    hpcmarl replay runs/smax --play --episodes 20 --episode failed --out lost.mp4
    """
    config_of(path)
    set_threads(1)
    from hpcmarl.interface.replaying import replay as make

    with Progress("episodes") as progress:
        result = make(
            path,
            episode=episode,
            out=out,
            play=play,
            episodes=episodes,
            greedy=greedy,
            seed=seed,
            say=lambda line: typer.echo(printable(line), err=True),
            on_progress=progress.at,
        )
    if as_json:
        print_json(finite(result))
        return
    for note in result["notes"]:
        typer.echo(printable(note), err=True)
    typer.echo(
        f"{result['path']}: {result['source']}, {result['steps']} steps, return {result['return_mean']:.6g}"
    )
