"""The commands `hpcmarl league match` and `hpcmarl league tournament`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hpcmarl.cli.common import Json, Trust, finite, print_columns, print_json, printable, set_threads
from hpcmarl.cli.progress import Progress

Run = Annotated[str, typer.Argument(metavar="RUN", help="Run directory of a league, or a checkpoint in it.")]
Episodes = Annotated[
    int | None,
    typer.Option(
        "--episodes",
        min=1,
        help="Episodes of each match. Default: league.evaluation.episodes.",
        show_default=False,
    ),
]
Greedy = Annotated[
    bool | None,
    typer.Option(
        "--greedy/--sample",
        help="Take greedy or sampled actions. Default: league.evaluation.greedy.",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, help="Seed of the episodes. Default: eval.seed of the run.", show_default=False
    ),
]
MOST_SHOWN = 12  # entrants whose scores against each other are printed


def match(
    run: Run,
    first: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help=(
                "Snapshot, member for its newest snapshot, NAME@RUN for one of another league, random, or "
                "search:DEPTH."
            ),
        ),
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="Opponent of A, named in the same way.")],
    episodes: Episodes = None,
    greedy: Greedy = None,
    seed: Seed = None,
    trusted: Trust = None,
    as_json: Json = False,
) -> None:
    """Play A against B and print the score of A.

    search:DEPTH searches that many plies ahead, in connect four and tic-tac-toe.

    \b
    hpcmarl league match runs/rps main-000012 main-000003 --episodes 500
    hpcmarl league match runs/connect_four main search:3 --episodes 200 --greedy --json
    hpcmarl league match runs/connect_four main main@runs/another
    """
    set_threads(1)
    from hpcmarl.league.commands.match import play_match
    from hpcmarl.league.commands.reader import read_league

    with Progress("episodes") as progress:
        result = play_match(read_league(run), first, second, episodes, greedy, seed, on_progress=progress.at)
    if as_json:
        print_json(finite(result))
        return
    row, column = printable(result["row"]), printable(result["column"])
    typer.echo(
        f"{row} against {column}, {result['episodes']} episodes, seed {result['seed']}, "
        f"{'greedy' if result['greedy'] else 'sampled'}"
    )
    typer.echo(
        f"score of {row}: {result['score']:.3f} (95 % from {result['score_low']:.3f} to "
        f"{result['score_high']:.3f})"
    )
    if result["wins"] is not None:
        typer.echo(f"{result['wins']} won, {result['draws']} drawn, {result['losses']} lost")
    rows = []
    for key, name in (("row", row), ("column", column)):
        rows.append((name, f"{result[f'{key}_return_mean']:.4g}", f"{result[f'{key}_return_std']:.4g}"))
    print_columns(rows, ("player", "mean return", "std"), right=(1, 2))


def tournament(
    run: Run,
    players: Annotated[
        list[str],
        typer.Argument(
            metavar="PLAYER...", help="Snapshots, members, NAME@RUN, random or search:DEPTH, as in match."
        ),
    ],
    episodes: Episodes = None,
    greedy: Greedy = None,
    seed: Seed = None,
    trusted: Trust = None,
    as_json: Json = False,
) -> None:
    """Play all PLAYERs against each other and rate them on one scale, in Elo points.

    \b
    hpcmarl league tournament runs/a player player-000000 player@runs/b search:3 --episodes 200
    """
    set_threads(1)
    from hpcmarl.league.commands.reader import read_league
    from hpcmarl.league.commands.tournament import Tournament

    played = Tournament(read_league(run), players, episodes, greedy, seed)
    with Progress("matches", len(played.pairs)) as progress:
        for row, column in played.pairs:
            played.play(row, column)
            progress.advance()
    result = played.result()
    if as_json:
        print_json(finite(result))
    else:
        _print_tournament(result)


def _print_tournament(result: dict[str, Any]) -> None:
    """Print the table of players, best rating first, and their scores against each other."""
    entrants = result["entrants"]
    order = sorted(range(len(entrants)), key=lambda number: -(entrants[number]["rating_elo"] or 0.0))
    rows = []
    for place, number in enumerate(order, start=1):
        entrant = entrants[number]
        rating, low, high = (entrant[f"rating_elo{end}"] for end in ("", "_low", "_high"))
        rated = ("-", "-") if rating is None else (f"{rating:+.0f}", f"{low:+.0f} to {high:+.0f}")
        rows.append(
            (
                str(place),
                printable(entrant["entrant"]),
                *rated,
                f"{entrant['mean_score']:.3f}",
                f"{entrant['games']:,}",
            )
        )
    print_columns(rows, ("", "player", "rating", "95 %", "score", "games"), right=(0, 2, 3, 4, 5))
    if len(order) > MOST_SHOWN:
        return
    typer.echo("\nmean score of the row against the column (- : never played)")
    cells = [
        (
            str(place),
            *("-" if (score := result["score"][row][column]) is None else f"{score:.2f}" for column in order),
        )
        for place, row in enumerate(order, start=1)
    ]
    print_columns(
        cells, ("", *(str(place) for place in range(1, len(order) + 1))), right=range(len(order) + 1)
    )
