"""Pictures and files of a league, from invented leagues of any size.

The tests check the places of all marks, omitted marks, and that nothing lies outside the picture.
"""

import csv
import json

import numpy as np
import pytest

from hpcmarl.analysis import league as pictures
from hpcmarl.analysis.league_export import check_outputs, write_parameters, write_payoff
from hpcmarl.errors import StorageError, UsageError
from hpcmarl.maths.ratings import elo, expected_score

plt = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed (extra analysis)")


def made_up(members, terms, sides=("player",), played=0.8, resets=False):
    """Return the plain values of a league in which later snapshots are better."""
    generator = np.random.default_rng(members * 100 + terms)
    names, snapshots, skill = [f"league_exploiter-{number + 1}" for number in range(members)], [], []
    for term in range(terms):
        for member, name in enumerate(names):
            older = generator.permutation(len(snapshots))[:5]
            met = [
                {"snapshot": snapshots[other]["name"], "games": int(generator.integers(1, 99))}
                for other in older
            ]
            generation = 1 + (term // 3 if resets and member else 0)
            facts = {
                "side": sides[member % len(sides)],
                "term": term,
                "generation": generation,
                "env_steps": 5000 * term,
                "seconds": 60.0 * term + member,
            }
            snapshots.append(
                {"name": f"{name}-{term:06d}", "member": name, "met_most": met if term else [], **facts}
            )
            skill.append(40.0 * term)
    own = np.array([each["side"] for each in snapshots])
    games = np.triu(generator.random((len(own), len(own))) < played, 1) * 32
    games = (games + games.T) * ((own[:, None] != own) if len(sides) > 1 else 1)
    chance = expected_score(np.subtract.outer(skill, skill))
    score = np.triu(generator.binomial(games, chance), 1)
    score = score + np.tril(games - score.T, -1)
    fitted = elo(games, score)
    rated = [
        {"rating_elo": rating, "rating_elo_low": rating - error, "rating_elo_high": rating + error}
        for rating, error in zip(fitted.rating.tolist(), fitted.error.tolist(), strict=True)
    ]
    payoff = [
        [won / count if count else None for won, count in zip(*pair, strict=True)]
        for pair in zip(score.tolist(), games.tolist(), strict=True)
    ]
    members_told = [{"name": name} for name in names]
    return {
        "name": "made",
        "env": "up",
        "sides": list(sides),
        "members": members_told,
        "snapshots": snapshots,
        "payoff": payoff,
        "ratings": rated,
    }


SIZES = {
    "three": made_up(1, 3),
    "sixty": made_up(6, 10, resets=True),
    "sides": made_up(4, 3, ("predators", "prey")),
    "one": made_up(1, 1),
}


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plt.close("all")


def inside(figure, artists):
    """Check that all artists lie within the picture, and return the pairs that overlap."""
    figure.canvas.draw()
    boxes = [artist.get_window_extent() for artist in artists]
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
    return [(one, other) for place, one in enumerate(boxes) for other in boxes[:place] if one.overlaps(other)]


@pytest.mark.parametrize("size", SIZES)
def test_heat_map_shows_each_pair_with_separate_labels(size):
    told = SIZES[size]
    figure = pictures.payoff_picture(told)
    axis = figure.axes[0]
    shown = axis.images[0].get_array()
    rows, columns = pictures.ordered(told, told["sides"][0]), pictures.ordered(told, told["sides"][-1])
    assert shown.shape == (len(rows), len(columns))
    for row, number in enumerate(rows):
        for column, other in enumerate(columns):
            score = told["payoff"][number][other]
            assert shown.mask[row, column] if score is None else shown[row, column] == pytest.approx(score)
    labels = [
        label
        for one in (axis, *axis.child_axes)
        for label in (*one.get_xticklabels(), *one.get_yticklabels())
        if label.get_text()
    ]
    assert not inside(figure, labels)
    assert {label.get_text() for label in labels} >= {
        told["snapshots"][number]["member"] for number in (*rows, *columns)
    }
    known = sum(
        score is not None for number in rows for other in columns for score in [told["payoff"][number][other]]
    )
    assert len(axis.texts) == (known if max(shown.shape) <= pictures.NUMBERS_UP_TO else 0)


def test_snapshots_are_ordered_by_member_and_age():
    told = SIZES["sixty"]
    order = [told["snapshots"][number] for number in pictures.ordered(told, "player")]
    assert [each["name"] for each in order] == sorted(each["name"] for each in order)
    told = SIZES["sides"]
    assert {told["snapshots"][number]["side"] for number in pictures.ordered(told, "prey")} == {"prey"}


def test_rating_curves_break_where_a_member_was_reset():
    told = SIZES["sixty"]
    axis = pictures.ratings_picture(told).axes[0]
    curves = [line for line in axis.lines if line.get_marker() == "o"]
    # The first member has one curve. The others have ten terms in generations of three.
    assert len(curves) == 1 + 5 * 4
    first = curves[0]
    own = [number for number, each in enumerate(told["snapshots"]) if each["member"] == "league_exploiter-1"]
    assert first.get_xdata().tolist() == [told["snapshots"][number]["env_steps"] for number in own]
    assert first.get_ydata().tolist() == pytest.approx(
        [told["ratings"][number]["rating_elo"] for number in own]
    )
    assert len({line.get_color() for line in curves}) == 6


def test_snapshots_without_games_have_no_point():
    first, second, third = SIZES["three"]["ratings"]
    told = {**SIZES["three"], "ratings": [first, dict.fromkeys(second), third]}
    (curve,) = [line for line in pictures.ratings_picture(told).axes[0].lines if line.get_marker() == "o"]
    assert len(curve.get_xdata()) == 2


@pytest.mark.parametrize("size", SIZES)
def test_lineage_arrows_point_at_most_met_opponents(size):
    told = SIZES[size]
    figure = pictures.lineage_picture(told)
    axis = figure.axes[0]
    each = min(pictures.MOST_EDGES_EACH, max(1, pictures.MOST_EDGES // len(told["snapshots"])))
    arrows = axis.texts
    wanted = []
    names = {snapshot["name"]: snapshot for snapshot in told["snapshots"]}
    places = [member["name"] for member in told["members"]]
    for snapshot in told["snapshots"]:
        wanted += [(snapshot, names[met["snapshot"]]) for met in snapshot["met_most"][:each]]
    assert len(arrows) == len(wanted)
    for arrow, (snapshot, met) in zip(arrows, wanted, strict=True):
        assert arrow.xy == pytest.approx((met["seconds"] / 60, places.index(met["member"])))
        assert arrow.xyann == pytest.approx((snapshot["seconds"] / 60, places.index(snapshot["member"])))
    figure.canvas.draw()
    title = axis.title.get_window_extent()
    assert not any(arrow.arrow_patch.get_window_extent().overlaps(title) for arrow in arrows)
    crosses = [line for line in axis.lines if line.get_marker() == "x"]
    assert len(crosses) == sum(
        len({each["generation"] for each in told["snapshots"] if each["member"] == name}) - 1
        for name in places
    )


def test_large_pools_have_arrows_for_newest_snapshots_only(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_SOURCES", 7)
    axis = pictures.lineage_picture(SIZES["sixty"]).axes[0]
    assert {arrow.xyann[0] for arrow in axis.texts} == {
        each["seconds"] / 60 for each in SIZES["sixty"]["snapshots"][-7:]
    }
    assert "(arrows: newest 7)" in axis.get_title(loc="left")


@pytest.mark.parametrize("terms", [2, 15])
def test_plots_are_not_clipped_at_the_edges(tmp_path, terms):
    told = made_up(2, terms)
    for path in pictures.plot_league(told, tmp_path):
        picture = plt.imread(path)[..., :3]
        edges = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
        assert all((edge == 1.0).all() for edge in edges), path.name


def test_only_available_plots_are_written(tmp_path):
    written = pictures.plot_league(SIZES["three"], tmp_path / "new" / "pictures")
    assert [path.name for path in written] == ["payoff.png", "lineage.png", "ratings.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    told = {**SIZES["three"], "ratings": None}
    assert [path.name for path in pictures.plot_league(told, tmp_path)] == ["payoff.png", "lineage.png"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the directory"):
        pictures.plot_league(told, tmp_path / "file" / "pictures")


def test_written_parameters_have_a_json_description(tmp_path):
    arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.ones(2, np.float32)}
    told = write_parameters(tmp_path / "p.npz", arrays, {"snapshot": "main-000001"})
    assert told["parameters"] == 8
    with np.load(tmp_path / "p.npz") as read:
        assert {name: read[name].tolist() for name in read.files} == {
            name: value.tolist() for name, value in arrays.items()
        }
    about = json.loads((tmp_path / "p.json").read_text())
    assert (about["snapshot"], about["parameters"]) == ("main-000001", {"a.weight": [2, 3], "a.bias": [2]})
    with pytest.raises(UsageError, match=r"p\.npz: exists"):
        check_outputs(tmp_path / "p.npz", None)
    with pytest.raises(UsageError, match=r"q\.json: given for two files"):
        check_outputs(tmp_path / "q.npz", tmp_path / "q.json")
    check_outputs(tmp_path / "q.npz", tmp_path / "q.csv")


def test_pairs_without_games_are_not_in_the_table(tmp_path):
    told = write_payoff(
        tmp_path / "t.csv",
        ["a", "b"],
        [[0, 3], [3, 0]],
        [[None, 1.0], [0.0, None]],
        [[None, 2.5], [-2.5, None]],
    )
    assert told["pairs"] == 2
    with (tmp_path / "t.csv").open() as stream:
        assert list(csv.reader(stream))[1:] == [["a", "b", "3", "1.0", "2.5"], ["b", "a", "3", "0.0", "-2.5"]]
