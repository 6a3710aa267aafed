"""envs/games/search.py: searching opponents.

They are compared with a slow recursive twin, and tested on positions that are set up by hand.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config import EnvConfig
from hpcmarl.envs import Seeds, make_environment, new_frame, new_outcome
from hpcmarl.envs.games.search import CONNECT_FOUR, FEW, GAMES, TIC_TAC_TOE, WIN, Board, Negamax, Searcher
from hpcmarl.envs.resolve import resolve
from hpcmarl.errors import ConfigError

SPIEL = importlib.util.find_spec("pyspiel") is not None
CLASSIC = "pettingzoo.classic.connect_four_v3"
IDS = [
    pytest.param(
        id, marks=pytest.mark.skipif(id.startswith("openspiel") and not SPIEL, reason="needs OpenSpiel")
    )
    for id in GAMES
]
# [rows][columns], the bottom row first. 1: mark of the mover, -1: mark of the opponent, 0: empty.
Squares = tuple[tuple[int, ...], ...]


def move(board: Board, squares: Squares, action: int) -> Squares | None:
    """Return the board after a move, as seen by the mover; None if the move is not allowed."""
    column = action if board.gravity else action % board.columns
    rows = range(board.rows) if board.gravity else [action // board.columns]
    for row in rows:
        if squares[row][column] == 0:
            changed = [list(line) for line in squares]
            changed[row][column] = 1
            return tuple(map(tuple, changed))
    return None


def wins(board: Board, squares: Squares) -> bool:
    for row in range(board.rows):
        for column in range(board.columns):
            for down, right in ((1, 0), (0, 1), (1, 1), (1, -1)):
                places = [(row + down * step, column + right * step) for step in range(board.line)]
                inside = all(0 <= r < board.rows and 0 <= c < board.columns for r, c in places)
                if inside and all(squares[r][c] == 1 for r, c in places):
                    return True
    return False


@pytest.mark.parametrize("board", [CONNECT_FOUR, TIC_TAC_TOE], ids=["connect four", "tic-tac-toe"])
@pytest.mark.parametrize("count", [50, FEW + 1])
def test_lines_are_found_among_few_and_many_boards(board: Board, count: int) -> None:
    squares = np.random.default_rng(count).random((count, board.rows, board.columns)) < 0.5
    marks = (squares * board.bits).sum((1, 2), dtype=np.uint64)
    wanted = [wins(board, tuple(map(tuple, each))) for each in squares.astype(int).tolist()]
    assert board.wins(marks).tolist() == wanted
    assert 0 < sum(wanted) < count


def worth(board: Board, squares: Squares, action: int, depth: int) -> int | None:
    """Return the value of a move to the mover, by plain recursion; None if it is not allowed."""
    after = move(board, squares, action)
    if after is None:
        return None
    if wins(board, after):
        return WIN + depth
    if depth == 1:
        return sum(line[board.columns // 2] for line in after)
    turned = tuple(tuple(-mark for mark in line) for line in after)
    replies = [
        reply
        for answer in range(board.actions)
        if (reply := worth(board, turned, answer, depth - 1)) is not None
    ]
    return -max(replies) if replies else 0


def position(board: Board, moves: list[int]) -> Squares | None:
    """Return the board after these moves from an empty board, as seen by the next player.

    Each number selects one of the allowed moves, modulo their number. The result is None if the game is over.
    """
    squares: Squares = ((0,) * board.columns,) * board.rows
    for choice in moves:
        allowed = [action for action in range(board.actions) if move(board, squares, action) is not None]
        if not allowed:
            return None
        after = move(board, squares, allowed[choice % len(allowed)])
        assert after is not None
        if wins(board, after):
            return None
        squares = tuple(tuple(-mark for mark in line) for line in after)
    return squares if any(0 in line for line in squares) else None


def bits(board: Board, squares: Squares, mark: int) -> Any:
    found = sum(
        1 << board.bit(row, column)
        for row, line in enumerate(squares)
        for column, value in enumerate(line)
        if value == mark
    )
    return np.array([found], np.uint64)


@given(
    board=st.sampled_from([CONNECT_FOUR, TIC_TAC_TOE, Board(4, 5, 3, gravity=True)]),
    moves=st.lists(st.integers(0, 100), max_size=36),
    depth=st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_negamax_values_equal_the_recursive_twin(board: Board, moves: list[int], depth: int) -> None:
    squares = position(board, moves)
    while squares is None:
        moves = moves[:-1]
        squares = position(board, moves)
    assert_equals_twin(board, squares, depth)


def assert_equals_twin(board: Board, squares: Squares, depth: int) -> None:
    found = Negamax(board).worth(bits(board, squares, 1), bits(board, squares, -1), depth)[0]
    for action in range(board.actions):
        expected = worth(board, squares, action, depth)
        assert expected is None or found[action] == expected


def test_full_boards_before_the_horizon_have_value_zero() -> None:
    generator, nothing = np.random.default_rng(0), 0
    for length in np.repeat([6, 7, 8], 20).tolist():
        squares = position(TIC_TAC_TOE, generator.integers(0, 9, length).tolist())
        if squares is not None:
            assert_equals_twin(TIC_TAC_TOE, squares, 4)
            nothing += any(worth(TIC_TAC_TOE, squares, action, 4) == 0 for action in range(9))
    assert nothing > 5


def test_chunked_search_equals_the_whole_search(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    boards = [
        found
        for _ in range(40)
        if (found := position(CONNECT_FOUR, generator.integers(0, 50, 8).tolist())) is not None
    ]
    own, other = (
        np.concatenate([bits(CONNECT_FOUR, squares, mark) for squares in boards]) for mark in (1, -1)
    )
    whole = Negamax(CONNECT_FOUR).worth(own, other, 3)
    monkeypatch.setattr("hpcmarl.envs.games.search.MAX_POSITIONS", 7**3 * 6)
    np.testing.assert_array_equal(Negamax(CONNECT_FOUR).worth(own, other, 3), whole)
    assert len(boards) > 12
    assert Negamax(CONNECT_FOUR).worth(own[:0], other[:0], 3).shape == (0, 7)


class Table:
    """A game with PettingZoo's interface after a list of actions."""

    def __init__(self, id: str, actions: list[int]) -> None:
        self.environment = resolve(EnvConfig(id=id))[1]
        self.environment.reset(seed=0)
        for action in actions:
            self.environment.step(action)

    def ask(self, searcher: Searcher) -> int:
        seen = self.environment.observe(self.environment.agent_selection)
        return int(searcher(seen["observation"][None], seen["action_mask"][None].astype(bool))[0])


CONNECT_FOURS = [id for id in IDS if "connect_four" in str(id.values[0])]
TIC_TAC_TOES = [id for id in IDS if "tac" in str(id.values[0])]


@pytest.mark.parametrize("id", CONNECT_FOURS)
def test_searcher_finds_connect_four_tactics(id: str) -> None:
    for seed in range(5):
        one, two, three = (Searcher(id, depth, np.random.default_rng(seed)) for depth in (1, 2, 3))
        upright = [2, 5, 2, 5, 2, 5]  # three of the mover in column 2, of the opponent in 5
        assert {Table(id, upright).ask(player) for player in (one, two, three)} == {2}
        assert {Table(id, [*upright, 0]).ask(player) for player in (one, two, three)} == {5}
        threatened = [2, 5, 2, 5, 2]  # the mover has to block column 2
        assert Table(id, threatened).ask(two) == Table(id, threatened).ask(three) == 2
        # 1 and 4 give three in a row with both ends free; 0 and 5 do not.
        flat = [3, 3, 2, 2]
        assert Table(id, flat).ask(three) in (1, 4)
        diagonal = [1, 2, 2, 3, 3, 4, 3, 4, 4, 0]  # the mover lacks the top of 1-2-3-4
        assert Table(id, diagonal).ask(one) == 4


def test_one_ply_does_not_see_the_threat() -> None:
    chosen = {
        Table(CLASSIC, [2, 5, 2, 5, 2]).ask(Searcher(CLASSIC, 1, np.random.default_rng(seed)))
        for seed in range(3)
    }
    assert chosen == {3}  # the middle column, after which the opponent wins


@pytest.mark.parametrize("id", TIC_TAC_TOES)
def test_searcher_finds_tic_tac_toe_wins_and_blocks(id: str) -> None:
    for seed in range(5):
        one, two = (Searcher(id, depth, np.random.default_rng(seed)) for depth in (1, 2))
        assert Table(id, [0, 4, 1, 3]).ask(one) == 2  # 0 1 2
        assert Table(id, [0, 4, 1]).ask(two) == 2
        assert Table(id, [0, 1, 4, 2]).ask(one) == 8  # 0 4 8
        assert Table(id, [3, 8, 0, 7]).ask(one) == 6  # 0 3 6


def test_equal_moves_are_drawn_evenly() -> None:
    """Equal values in tic-tac-toe: the squares above and below the centre, at one ply.

    The centre itself is taken.
    """
    searcher = Searcher("pettingzoo.classic.tictactoe_v3", 1, np.random.default_rng(0))
    seen = np.zeros((800, 3, 3, 2), np.float32)
    seen[:, 1, 1, 1] = 1
    masks = np.ones((800, 9), bool)
    masks[:, 4] = False
    chosen = np.bincount(searcher(seen, masks), minlength=9)
    assert set(np.flatnonzero(chosen)) == {1, 7}
    assert abs(chosen[1] - 400) < 85  # six standard deviations
    again = Searcher("pettingzoo.classic.tictactoe_v3", 1, np.random.default_rng(0))
    np.testing.assert_array_equal(np.bincount(again(seen, masks), minlength=9), chosen)
    assert searcher(seen[:2], np.zeros((2, 9), bool)).tolist() == [0, 0]


@pytest.mark.parametrize("id", IDS)
def test_deeper_searchers_beat_random_players(id: str) -> None:
    """The searcher makes no forbidden move and wins nearly all games.

    The games are played through hpcmarl.envs. The seat of the searcher changes with the slot.
    """
    slots = 8
    environment = make_environment(EnvConfig(id=id), {}, slots, Seeds(0))
    frame, outcome = new_frame(environment.spec, slots), new_outcome(environment.spec, slots)
    environment.reset(frame)
    generator = np.random.default_rng(1)
    searcher = Searcher(id, 3, generator)
    won, games = 0.0, 0
    while games < 24:
        view = frame.policies["player"]
        assert view.action_mask is not None
        random = (generator.random(view.action_mask.shape) * view.action_mask).argmax(-1)
        rows = np.arange(slots)
        seat = rows % 2
        searched = searcher(view.obs[rows, seat], view.action_mask[rows, seat])
        assert view.action_mask[rows, seat, searched].all()
        random[rows, seat] = searched
        environment.step({"player": random}, outcome, frame)
        for episode in outcome.episodes:
            games += 1
            won += float(outcome.policies["player"].reward[episode.slot, seat[episode.slot]])
    assert won >= 0.75 * games


def test_unsupported_games_and_depths_are_rejected() -> None:
    for id in ("openspiel:leduc_poker", "mpe2.simple_tag_v3"):
        with pytest.raises(ConfigError, match=f"env.id {id} has no searching opponent; allowed: {CLASSIC}"):
            Searcher(id, 1, np.random.default_rng(0))
    make = functools.partial(Searcher, CLASSIC, generator=np.random.default_rng(0))
    for depth in (0, 7):
        with pytest.raises(ConfigError, match=f"depth {depth} of a search in {CLASSIC}; allowed: 1 to 6"):
            make(depth)
    make(6)
