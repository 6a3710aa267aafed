"""Payoffs and live records, compared with lists of games."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.errors import FormatError
from hpcmarl.league.core.payoff import LiveRecord, Payoff
from hpcmarl.packing import pack, unpack

SIZE = 4
# (row, column, [(score, row's return, column's return), ...])
match = st.tuples(
    st.integers(0, SIZE - 1),
    st.integers(0, SIZE - 1),
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-9, 9), st.floats(-9, 9)),
        min_size=1,
        max_size=4,
    ),
)


def recorded(matches, size=SIZE, **options):
    payoff = Payoff(**options)
    payoff.grow(size)
    for row, column, games in matches:
        score, rows, columns = np.array(games).T
        payoff.record(
            row,
            column,
            len(games),
            score.sum(),
            rows.sum(),
            (rows**2).sum(),
            columns.sum(),
            (columns**2).sum(),
        )
    return payoff


def seen_by(matches, one, other, shared):
    """Return (score, return) of every game of `one` against `other`, once for each seat."""
    found = []
    for row, column, games in matches:
        for score, mine, theirs in games:
            if (row, column) == (one, other):
                found.append((score, mine))
            if (column, row) == (one, other):
                found.append((score if shared else 1 - score, theirs))
    return np.array(found).reshape(-1, 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(match, max_size=12), st.booleans())
def test_payoff_equals_statistics_of_a_list_of_games(matches, shared):
    payoff = recorded(matches, shared_score=shared)
    assert payoff.recorded == sum(len(games) for *_, games in matches)
    for one in range(SIZE):
        for other in range(SIZE):
            games = seen_by(matches, one, other, shared)
            seats = 2 if one == other else 1
            assert payoff.games()[one, other] == len(games) / seats
            if len(games):
                assert payoff.mean_score()[one, other] == pytest.approx(games[:, 0].mean())
                assert payoff.mean_return()[one, other] == pytest.approx(games[:, 1].mean(), abs=1e-9)
                with_prior = (games[:, 0].sum() / seats + 1.5) / (len(games) / seats + 3)
                assert payoff.mean_score([one], [other], prior_games=3.0)[0, 0] == pytest.approx(with_prior)
            else:
                assert payoff.mean_score()[one, other] == 0.5
                assert np.isnan(payoff.mean_return()[one, other])
            if one != other:
                expected = np.std(games[:, 1], ddof=1) / np.sqrt(len(games)) if len(games) > 1 else np.inf
                assert payoff.return_error()[one, other] == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(match, max_size=8), st.integers(0, 40))
def test_payoff_growth_and_serialization_preserve_results(matches, more):
    payoff, whole = recorded(matches), recorded(matches, SIZE + more)
    payoff.grow(SIZE + more)
    again = Payoff()
    again.load_state_dict(unpack(pack(payoff.state_dict())))
    for each in (payoff, again):
        assert each.size == whole.size == SIZE + more
        assert each.recorded == whole.recorded
        np.testing.assert_array_equal(each.games(), whole.games())
        np.testing.assert_array_equal(each.mean_score(), whole.mean_score())
        np.testing.assert_array_equal(each.return_error(), whole.return_error())
    again.grow(SIZE + more + 3)
    again.record(SIZE + more + 2, 0, 1, 1.0, 2.0, 4.0, -2.0, 4.0)
    assert again.mean_return([0], [SIZE + more + 2]) == -2.0


def test_submatrices_are_rows_and_columns_of_the_whole():
    rng = np.random.default_rng(0)
    payoff = recorded([(int(i), int(j), [(1.0, 1.0, 0.0)]) for i, j in rng.integers(0, 6, (40, 2))], 6)
    rows, columns = np.array([5, 2]), [0, 1, 4]
    for query in (
        payoff.games,
        payoff.score,
        payoff.mean_score,
        payoff.score_error,
        payoff.mean_return,
        payoff.return_error,
    ):
        np.testing.assert_array_equal(query(rows, columns), query()[np.ix_(rows, columns)])


def test_score_error_equals_that_of_a_beta_distribution():
    beta = pytest.importorskip("scipy.stats").beta
    payoff = recorded([(0, 1, [(1.0, 0, 0)] * 7 + [(0.0, 0, 0)] * 2)], 3)
    found = payoff.score_error(prior_games=2.0)
    assert found[0, 1] == pytest.approx(beta(8, 3).std())
    assert found[1, 0] == pytest.approx(beta(8, 3).std())
    assert found[0, 2] == pytest.approx(beta(1, 1).std())
    with pytest.raises(ValueError, match="prior"):
        payoff.score_error(prior_games=0.0)


def test_thousand_snapshot_payoff_stays_within_documented_memory():
    payoff = Payoff()
    for size in range(0, 1001, 10):
        payoff.grow(size)
    assert 28e6 <= sum(table.nbytes for table in payoff._tables.values()) <= 44e6


@pytest.mark.parametrize(
    "change",
    [
        {"row": 3},
        {"column": -1},
        {"games": 0},
        {"score": 2.5},
        {"score": -0.1},
        {"row_return_sum": np.nan},
        {"column_return_sum": np.inf},
    ],
)
def test_impossible_payoff_results_are_rejected(change):
    payoff = recorded([], 3)
    right = dict(
        row=0,
        column=1,
        games=2,
        score=1.5,
        row_return_sum=0.0,
        row_return_square_sum=0.0,
        column_return_sum=0.0,
        column_return_square_sum=0.0,
    )
    payoff.record(**right)
    with pytest.raises(ValueError, match=r"snapshots|games cannot have"):
        payoff.record(**right | change)
    assert payoff.recorded == 2


def test_rounding_errors_of_summed_scores_are_accepted():
    payoff, record = Payoff(), LiveRecord(prior_games=0.0)
    payoff.grow(2)
    for score in (3.0 + 4e-16, -1e-17):
        payoff.record(0, 1, 3, score, 0.0, 0.0, 0.0, 0.0)
        record.record(0, 3, score)
    assert payoff.score().tolist() == [[0.0, 3.0], [3.0, 0.0]]
    assert 0 <= record.mean_score(np.array([0]))[0] <= 1


def test_inconsistent_saved_tables_are_rejected():
    state = recorded([(0, 1, [(1.0, 1.0, 1.0)])]).state_dict()
    with pytest.raises(FormatError, match="square"):
        Payoff().load_state_dict(state | {"score": state["score"][:2]})
    with pytest.raises(FormatError, match="length"):
        LiveRecord().load_state_dict({"games": np.zeros(2), "score": np.zeros(3)})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.floats(0, 1)), max_size=12),
    st.sampled_from([0.5, 0.99, 1.0]),
    st.floats(0, 3),
)
def test_live_record_equals_per_game_decay(reports, decay, prior):
    record = LiveRecord(decay, prior)
    games, score = np.zeros(5), np.zeros(5)
    for snapshot, count, share in reports:
        record.record(snapshot, count, share * count)
        for _ in range(count):
            games[snapshot] = decay * games[snapshot] + 1
            score[snapshot] = decay * score[snapshot] + share
    numbers = np.array([4, 0, 2, 1, 3])
    again = LiveRecord(decay, prior)
    again.load_state_dict(unpack(pack(record.state_dict())))
    expected = [
        (s + prior / 2) / (g + prior) if g + prior else 0.5
        for g, s in zip(games[numbers], score[numbers], strict=True)
    ]
    for each in (record, again):
        np.testing.assert_allclose(each.games(numbers), games[numbers], rtol=1e-9)
        np.testing.assert_allclose(each.mean_score(numbers), expected, rtol=1e-9)
    record.clear()
    np.testing.assert_array_equal(record.games(numbers), 0.0)


@pytest.mark.parametrize("report", [(-1, 1, 0.0), (0, 0, 0.0), (0, 1, 1.5)])
def test_impossible_live_results_are_rejected(report):
    with pytest.raises(ValueError, match="games"):
        LiveRecord().record(*report)
