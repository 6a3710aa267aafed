"""replay/: pages, pictures and videos of made-up episodes."""

import base64
import io
import itertools
import json
import re

import numpy as np
import pytest

from hpcmarl.envs.drawing import Scene, Shape
from hpcmarl.errors import MissingPackageError, StorageError, UsageError
from hpcmarl.replay.observed import observe
from hpcmarl.replay.page import page_data, render_page
from hpcmarl.replay.pictures import LONGEST_SIDE, Pictures, data_uri, png
from hpcmarl.replay.recording import PolicySteps, Recording, Scenes, choose
from hpcmarl.replay.words import action_words
from hpcmarl.replay.writing import write_recording

SPREAD = "mpe2.simple_spread_v3"


def recording(steps=4, agents=("a", "b"), environment=SPREAD, features=12, **more):
    generator = np.random.default_rng(0)
    shape = (steps, len(agents))
    policy = PolicySteps(
        "agent",
        agents,
        "discrete",
        obs=generator.standard_normal((*shape, features)).astype(np.float32),
        action=generator.integers(5, size=shape),
        reward=generator.standard_normal(shape).astype(np.float32),
        alive=np.ones(shape, bool),
        logp=np.full(shape, np.log(0.25), np.float32),
    )
    return Recording(environment, (policy,), "truncated", **more)


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def moving(steps):
    return Scenes(
        tuple(Scene((-1, -1, 1, 1), (Shape("disc", "agent", t / 10, 0, 0.1),)) for t in range(steps + 1))
    )


def test_a_page_holds_the_rewards_exactly_and_names_no_host():
    made = recording()
    page = render_page(made)
    data = data_of(page)
    np.testing.assert_array_equal(np.array(data["rewards"], np.float32), made.policies[0].reward.T)
    assert [data["words"][place] for place in data["actions"][0]] == action_words(SPREAD, made.policies[0])[0]
    assert data["extras"] == [{"name": "Prob.", "values": [[0.25] * 4] * 2}]
    assert "http:" not in page
    assert "https:" not in page
    assert "default-src 'none'" in page


def test_names_from_files_cannot_leave_the_data_of_a_page():
    name = "</script><script>alert(1)</script>@SCRIPT@<!--"
    page = render_page(recording(agents=(name, "b"), environment=name))
    assert page.count("</script>") == 2
    assert data_of(page)["agents"][0]["name"] == name
    assert "<title>&lt;/script&gt;" in page


def test_numbers_that_are_not_finite_become_null():
    made = recording()
    made.policies[0].reward[2, 1] = np.nan
    assert page_data(made)["rewards"][1][2] is None
    render_page(made)


def test_long_episodes_make_small_pages():
    made = recording(steps=20_000, features=200)
    assert len(render_page(made)) < 4_000_000


def test_the_generic_view_scales_each_observed_number():
    made = recording()
    strip = page_data(made)["strips"][0]
    values = np.frombuffer(base64.b64decode(strip["values"]), np.uint8).reshape(4, 2, 12)
    assert values.min((0, 1)).tolist() == [0] * 12
    assert values.max((0, 1)).tolist() == [255] * 12


def test_positions_come_from_known_observations():
    made = recording()
    observe(made)
    seen = made.policies[0].obs[1, 0]
    shapes = made.drawn.scenes[1].shapes
    agents = [shape for shape in shapes if shape.colour == "agent"]
    marks = [shape for shape in shapes if shape.colour == "thing"]
    assert (agents[0].x, agents[0].y) == pytest.approx(seen[2:4].tolist())
    assert (marks[0].x, marks[0].y) == pytest.approx((seen[2:4] + seen[4:6]).tolist())
    assert len(marks) == 2  # as many as agents
    unknown = recording(environment="a.b")
    observe(unknown)
    assert unknown.drawn is None


def test_smax_units_come_from_the_stored_state():
    state = np.zeros((4, 36), np.float32)  # three units of twelve numbers
    state[:, [0, 10]], state[:, 1:3], state[:, 11:13] = 1.0, 0.25, 0.5
    made = recording(environment="smax:x", features=30, state=state)
    observe(made)
    units = made.drawn.scenes[0].shapes
    assert [(unit.colour, unit.x, unit.level) for unit in units] == [
        ("agent", 8.0, 1.0),
        ("agent", 16.0, 1.0),
    ]


def test_choices_of_episodes():
    returns, failed = np.array([1.0, np.nan, 3.0, -2.0]), np.array([False, True, False, False])
    assert [choose(wanted, returns, failed) for wanted in ("best", "worst", "failed", "3", "4")] == [
        2,
        3,
        1,
        3,
        None,
    ]
    assert choose("failed", returns, ~failed | True) == 3
    assert choose("best", returns[1:2], failed[1:2]) is None


def test_black_and_equal_pictures_are_refused():
    black, grey = np.zeros((4, 6, 3), np.uint8), np.full((4, 6, 3), 99, np.uint8)
    for shown, problem in (([], "no picture"), ([black, black], "all black"), ([grey, grey], "all the same")):
        pictures = Pictures()
        for picture in shown:
            pictures.append(picture)
        assert problem in pictures.problem
    pictures.append(black)
    assert not pictures.problem
    assert (pictures.places, len(pictures.kept)) == ([0, 0, 1], 2)


def test_pictures_are_encoded_and_reduced():
    image = pytest.importorskip("PIL.Image")
    picture = np.random.default_rng(0).integers(256, size=(5, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.array(image.open(io.BytesIO(png(picture)))), picture)
    pictures = Pictures()
    pictures.append(np.full((900, 1200, 3), 77, np.uint8))
    assert pictures.pixels(0).shape == (LONGEST_SIDE * 3 // 4, LONGEST_SIDE, 3)
    assert data_uri(picture).startswith("data:image/")


@pytest.mark.parametrize("drawn", [None, moving(4)], ids=["generic", "scenes"])
def test_a_gif_has_a_frame_for_each_step_and_the_end(drawn, tmp_path):
    image = pytest.importorskip("PIL.Image")
    write_recording(recording(drawn=drawn), tmp_path / "new" / "a.gif")
    with image.open(tmp_path / "new" / "a.gif") as gif:
        frames = []
        for number in range(gif.n_frames):
            gif.seek(number)
            frames.append(np.asarray(gif.convert("RGB"), int))
    assert len(frames) == 5
    assert all(frame.max() > 200 for frame in frames)
    assert all((one != other).sum() > 50 for one, other in itertools.pairwise(frames))


def test_an_mp4_has_all_frames(tmp_path):
    av = pytest.importorskip("av", reason='needs PyAV: pip install "hpcmarl[video]"')
    write_recording(recording(drawn=moving(4)), tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as video:
        assert len(list(video.decode(video=0))) >= 5


@pytest.mark.parametrize(("suffix", "module", "name"), [(".mp4", "av", "PyAV"), (".gif", "PIL", "Pillow")])
def test_a_missing_video_package_names_the_extra(suffix, module, name, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingPackageError, match=rf'{name}.*pip install "hpcmarl\[video\]"'):
        write_recording(recording(), tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


def test_unwritable_files_are_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"allowed: \.html, \.gif, \.mp4"):
        write_recording(recording(), tmp_path / "a.avi")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot create the directory"):
        write_recording(recording(), tmp_path / "file" / "a.html")
