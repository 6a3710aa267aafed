"""hpcmarl replay on runs of virtual ranks: stored and played episodes, and pages of evaluations."""

import json
import logging
import re
import shutil

import numpy as np
import pytest

from hpcmarl.config.file import load_config
from hpcmarl.errors import StorageError, UsageError
from hpcmarl.interface.replaying import replay
from hpcmarl.interface.run import open_run
from hpcmarl.io.trajectories.episodes import find_episodes, read_episode
from hpcmarl.io.trajectories.shard_reader import list_shards
from hpcmarl.replay.pictures import Pictures
from hpcmarl.replay.redrawing import redraw
from hpcmarl.replay.stored import find_stored, read_recording
from tests.support.leagues import RPS
from tests.support.worlds import run_world, summary

TICTACTOE = """
env: {id: pettingzoo.classic.tictactoe_v3}
algo: {name: ppo, unroll: 8, network: {hidden: [8]}, critic: independent}
topology: {environments_per_actor: 2}
trajectories: {enabled: false}
eval: {episodes: 0}
stop: {updates: 2}
logging: {progress: false}
"""


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """A finished run on simple_spread with two actors. Tests must not change it."""
    directory = tmp_path_factory.mktemp("spread")
    run_world(3, directory, "trajectories.enabled=true")
    return directory


@pytest.fixture(scope="module")
def tictactoe(tmp_path_factory):
    """A finished run on tic-tac-toe without trajectories. Tests must not change it."""
    directory = tmp_path_factory.mktemp("tictactoe")
    run_world(1, directory, text=TICTACTOE)
    return directory


def data_of(path):
    page = path.read_text()
    assert "http:" not in page
    assert "https:" not in page
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])


@pytest.mark.parametrize(("wanted", "extreme"), [("best", np.argmax), ("worst", np.argmin)])
def test_a_page_equals_the_stored_episode(spread, tmp_path, wanted, extreme):
    result = replay(spread, episode=wanted, out=tmp_path / "a.html")
    table = find_episodes(list_shards(spread))
    number = int(extreme(table.columns["return_mean"]))
    steps = read_episode(table, number)[0]["agent"]
    data = data_of(tmp_path / "a.html")
    assert result["episode"] == number
    np.testing.assert_array_equal(np.array(data["rewards"], np.float32), steps["reward"].T)
    total = np.array(data["rewards"]).sum(1).mean()
    assert total == pytest.approx(table.columns["return_mean"][number], rel=1e-5)
    assert result["return_mean"] == pytest.approx(total)
    pushes = ("stay", "left", "right", "down", "up")
    words = [data["words"][place] for place in data["actions"][0]]
    assert words == [pushes[action] for action in steps["action"][:, 0]]
    positions = [shape[2:4] for shape in data["drawn"]["frames"][2] if shape[6:7] == ["0"]]
    assert positions == [pytest.approx(steps["obs"][2, 0, 2:4].tolist(), abs=1e-3)]
    assert len(data["drawn"]["frames"]) == 6


def test_every_stored_episode_of_all_actors_repeats(spread):
    config = load_config(spread / "config.yaml")
    table, problems = find_stored(spread)
    assert not problems
    assert set(table.columns["actor"]) == {0, 1}
    for number in range(len(table)):
        recording = read_recording(table, number, config)
        for _ in redraw(recording):
            pass
        frames = [scene.shapes for scene in recording.drawn.scenes]
        assert len(set(frames)) >= recording.steps  # the first step only changes velocities


def test_an_environment_that_differs_is_not_claimed(spread, tmp_path):
    shutil.copytree(spread, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("max_cycles: 5", "max_cycles: 9"))
    result = replay(tmp_path / "run", episode=0)
    assert open_run(tmp_path / "run").replay(0) == tmp_path / "run" / "replays" / "episode-0.html"
    assert "it ends at another step than 5" in result["notes"][0]
    assert result["notes"][1] == "Positions are those in the recorded observations."
    assert (tmp_path / "run" / "replays" / "episode-0.html").exists()


def test_a_run_without_trajectories_plays_new_episodes(tictactoe, tmp_path, run):
    code, out, err = run("replay", tictactoe, "--out", tmp_path / "a.html", "--episodes", "3", "--json")
    assert code == 0
    assert "episodes are played with the newest checkpoint" in err
    result = json.loads(out)
    data = data_of(tmp_path / "a.html")
    boxes = [shape for shape in data["drawn"]["frames"][-1] if shape[0] == 0]
    assert len(boxes) == data["steps"] == result["steps"]  # all marks, the last one too
    assert result["source"].endswith("of 3")
    again = replay(tictactoe, play=True, episodes=3)
    assert again["returns"] == result["returns"]


def test_a_rendered_environment_shows_pictures_that_differ(tmp_path):
    pytest.importorskip("pygame")
    text = TICTACTOE.replace("pettingzoo.classic.tictactoe_v3", '"gymnasium:CartPole-v1"')
    run_world(1, tmp_path, "trajectories.enabled=true", "stop.updates=8", text=text)
    config, (table, _) = load_config(tmp_path / "config.yaml"), find_stored(tmp_path)
    recording = read_recording(table, 0, config)
    for _ in redraw(recording):
        pass
    assert isinstance(recording.drawn, Pictures), recording.notes
    assert len(recording.drawn.places) == recording.steps + 1
    assert len(recording.drawn.kept) > 1
    assert all(recording.drawn.pixels(number).max() > 100 for number in range(len(recording.drawn.kept)))
    replay(tmp_path, episode=0, out=tmp_path / "a.html")
    assert data_of(tmp_path / "a.html")["drawn"]["pictures"][0].startswith("data:image/")


@pytest.mark.usefixtures("spoiled_from_the_start")
def test_failed_episodes_are_those_that_were_cut_off(tmp_path):
    spoiled = '"tests.support.environments:Spoiled", kwargs: {what: reward, every: 2}'
    text = TICTACTOE.replace("pettingzoo.classic.tictactoe_v3", spoiled)
    run_world(1, tmp_path, "trajectories.enabled=true", "faults.on_nan=skip", "stop.updates=20", text=text)
    result = replay(tmp_path, episode="failed")
    assert result["end"] == "failed"
    assert replay(tmp_path, episode="best")["end"] != "failed"


def test_a_truncated_shard_is_named_and_left_out(spread, tmp_path):
    shutil.copytree(spread, tmp_path / "run")
    shards = list_shards(tmp_path / "run")
    with shards[0].open("r+b") as file:
        file.truncate(1000)
    said = []
    result = replay(tmp_path / "run", out=tmp_path / "a.html", say=said.append)
    assert str(shards[0]) in said[0]
    assert "left out" in said[0]
    assert result["source"].startswith("stored episode")


def test_wrong_requests_are_one_line(spread, tictactoe, tmp_path, run):
    for arguments, words in (
        ((spread, "--episode", "9999"), "allowed: 0 to"),
        ((spread, "--episode", "nicest"), "allowed: a number from 0, best, worst, failed"),
        ((spread, "--episode", "failed"), "add --play"),
        ((spread, "--seed", "3"), "add --play"),
        ((spread, "--out", tmp_path / "a.avi"), "unknown ending"),
        ((tictactoe, "--play", "--episode", "failed", "--episodes", "2"), "lost or cut off"),
        ((tmp_path / "none",), "no such run"),
        ((tmp_path,), "no config.yaml"),
    ):
        code, out, err = run("replay", *arguments)
        assert (code, out) == (2, "")
        assert words in err.splitlines()[-1]


def test_a_league_is_refused_and_its_members_are_not(tmp_path):
    run_world(2, tmp_path, "trajectories.enabled=true", text=RPS)
    for play in (False, True):
        with pytest.raises(UsageError, match="members/NAME"):
            replay(tmp_path, play=play)
    member = sorted((tmp_path / "members").glob("*/*/config.yaml"))[0].parent
    assert replay(member)["source"].startswith("stored episode")


VIDEOS = ("eval.episodes=4", "eval.every_updates=2", "eval.video_every=2")


def test_evaluations_write_pages_also_after_a_resume(tmp_path):
    run_world(2, tmp_path, *VIDEOS)
    names = sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert names == ["version-000002.html", "version-000006.html"]
    data = data_of(tmp_path / "videos" / names[0])
    assert len(data["drawn"]["frames"]) == data["steps"] + 1 == 6
    run_world(2, tmp_path, *VIDEOS, "stop.updates=8", resume=str(tmp_path))
    assert (tmp_path / "videos" / "version-000008.html").exists()


def test_a_page_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch, caplog):
    def fail(recording, path):
        raise StorageError(f"{path}: cannot write: No space left on device")

    monkeypatch.setattr("hpcmarl.roles.videos.write_recording", fail)
    with caplog.at_level(logging.WARNING):
        run_world(2, tmp_path, *VIDEOS)
    assert summary(tmp_path)["status"] == "finished"
    assert summary(tmp_path)["evaluation"]["episodes"] == 4
    assert any("continues without this video" in record.message for record in caplog.records)


def test_pages_are_paced_while_the_run_trains(tmp_path, monkeypatch):
    """Without any time for drawing, the run gets the page of its last evaluation only, or none."""
    monkeypatch.setattr("hpcmarl.roles.videos.PAUSE", 1e9)
    run_world(2, tmp_path / "paced", *VIDEOS, "eval.video_every=1")
    names = {path.name for path in (tmp_path / "paced" / "videos").iterdir()}
    assert names == {"version-000002.html", "version-000006.html"}
    monkeypatch.setattr("hpcmarl.roles.videos.DRAWING_SECONDS", 0.0)
    run_world(2, tmp_path / "none", *VIDEOS)
    assert not (tmp_path / "none" / "videos").exists()
