"""Commands that take long report their progress, and print pure JSON."""

import json

import pytest

from hpcmarl.cli.progress import Progress
from tests.support.leagues import NAMED_RPS
from tests.support.worlds import run_world

SIMULATION = """
name: small
rounds: {rule: rennala, batch: 4}
sim: {workers: 4, stop: {rounds: 20}, sweep: {seeds: [0, 1, 2]}}
"""
COMMANDS = {
    "eval": ("eval", "RUN", "--episodes", "6"),
    "replay": ("replay", "RUN", "--play", "--episodes", "3", "--out", "OUT/a.html"),
    "report": ("report", "RUN", "LEAGUE", "--out", "OUT/a.html"),
    "data verify": ("data", "verify", "RUN"),
    "data merge": ("data", "merge", "RUN", "--out", "OUT/a.h5"),
    "data export csv": ("data", "export", "RUN", "--out", "OUT/a.csv"),
    "data export npz": ("data", "export", "RUN", "--out", "OUT/a.npz"),
    "data salvage": ("data", "salvage", "RUN"),
    "export minari and flat": ("export", "RUN", "--minari", "OUT/a-v0", "--flat", "OUT/a.h5"),
    "export torch": ("export", "RUN", "--torch", "OUT/programs"),
    "league match": ("league", "match", "LEAGUE", "main", "random", "--episodes", "9"),
    "league tournament": ("league", "tournament", "LEAGUE", "main", "random", "--episodes", "9"),
    "simulate": ("simulate", "OUT/small.yaml", "--out", "OUT/simulated"),
    "bench bare": ("bench", "bare", "matrix:rps", "--seconds", "0.1"),
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Return a run with trajectories and a league."""
    path = tmp_path_factory.mktemp("progress")
    run_world(2, path / "run", "trajectories.enabled=true")
    run_world(3, path / "league", text=NAMED_RPS)
    return {"RUN": str(path / "run"), "LEAGUE": str(path / "league")}


@pytest.mark.parametrize("command", COMMANDS)
def test_long_commands_report_their_progress_to_the_end(run, directories, tmp_path, monkeypatch, command):
    seen = []

    def at(self, done, total=None, words=""):
        self.total = self.total if total is None else total
        self._done = done
        seen.append((done, self.total))

    monkeypatch.setattr(Progress, "at", at)
    (tmp_path / "small.yaml").write_text(SIMULATION)
    words = [directories.get(word, word.replace("OUT", str(tmp_path), 1)) for word in COMMANDS[command]]
    code, out, err = run(*words, "--json")
    assert code == 0, err
    assert isinstance(json.loads(out), dict)
    done, totals = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert totals[-1] is not None
    if command == "bench bare":  # reports before each environment
        assert seen == [(0, 1)]
    elif command == "data salvage":
        assert seen == [(0, 0)]  # nothing is to be recovered
    elif command != "league match":  # the last step of a match ends it
        assert done[-1] == totals[-1] > 0
