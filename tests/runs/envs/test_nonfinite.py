"""Non-finite observations, rewards and gradients in whole runs: counted, never learned from, never saved."""

import numpy as np
import pytest

from hpcmarl.errors import EnvironmentFailure
from hpcmarl.io.checkpoint import find_checkpoint, load_checkpoint
from tests.support.worlds import SPREAD, run_world, summary

pytestmark = pytest.mark.usefixtures("spoiled_from_the_start")
SPOILED = """
env: {id: "tests.support.environments:Spoiled", kwargs: %s}
algo: {name: ma_trace, unroll: 6, network: {hidden: [8]}}
topology: {environments_per_actor: 2}
trajectories: {enabled: true}
eval: {episodes: 2}
stop: {updates: 12}
logging: {progress: false}
checkpoint: {every_updates: 2}
faults: {on_nan: %s}
"""


def test_run_skips_and_counts_non_finite_values(tmp_path):
    run_world(3, tmp_path, text=SPOILED % ("{what: observation}", "skip"))
    told = summary(tmp_path)
    assert told["status"] == "finished"
    assert told["environment_bad_numbers"] >= 1
    state = load_checkpoint(find_checkpoint(tmp_path))[0]
    assert np.isfinite(state["engine"]["optimizer"]["parameters"]).all()


def test_run_stopped_by_non_finite_value_keeps_its_checkpoint(tmp_path):
    with pytest.raises(EnvironmentFailure, match="walker_1 observes nan"):
        run_world(3, tmp_path, text=SPOILED % ("{what: observation, every: 20}", "stop"))
    assert find_checkpoint(tmp_path) is not None


def spoil_gradients(monkeypatch, which):
    from hpcmarl.algos.ma_trace import MATrace

    true, calls = MATrace.gradient, [0]

    def gradient(self, rollouts):
        vector, statistics = true(self, rollouts)
        calls[0] += 1
        if which(calls[0]):
            vector = vector.copy()
            vector[3] = np.inf
        return vector, statistics

    monkeypatch.setattr(MATrace, "gradient", gradient)


def test_non_finite_gradient_is_skipped_and_counted(tmp_path, monkeypatch):
    spoil_gradients(monkeypatch, lambda call: call % 3 == 0)
    run_world(3, tmp_path, "faults.on_nan=skip")
    assert summary(tmp_path)["bad_gradients"] >= 2
    assert summary(tmp_path)["updates"] == 6


def test_non_finite_gradient_error_names_rank_and_parameter(tmp_path, monkeypatch):
    spoil_gradients(monkeypatch, lambda call: call == 3)
    with pytest.raises(
        FloatingPointError,
        match=r"rollouts from rank [12] at version \d+ is not finite \(parameter 3 is inf\)",
    ):
        run_world(3, tmp_path)


def test_hundred_non_finite_gradients_in_a_row_raise(tmp_path, monkeypatch):
    spoil_gradients(monkeypatch, lambda call: True)
    with pytest.raises(FloatingPointError, match="the 100th in a row"):
        run_world(3, tmp_path, "faults.on_nan=skip", text=SPREAD)
