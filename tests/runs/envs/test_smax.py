"""A whole run in SMAX, resumed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tests.support.worlds import final_parameters, run_world, summary

pytestmark = pytest.mark.usefixtures("quick_compiler")
needs_jaxmarl = pytest.mark.skipif(
    importlib.util.find_spec("jaxmarl") is None, reason="needs JaxMARL: pip install 'hpcmarl[smax]'"
)
MARINES = "smax:3m"


TRAINING = """
env: {id: "smax:3m", max_steps: 12}
deterministic: true
algo: {name: ma_trace, critic: state, unroll: 5, network: {hidden: [8]}}
topology: {environments_per_actor: 4}
rounds: {batch: 4}
trajectories: {enabled: false}
eval: {episodes: 4, environments: 4}
stop: {updates: 8}
logging: {progress: false}
checkpoint: {every_seconds: null}
"""


@pytest.mark.slow("JAX compiles the game")
@needs_jaxmarl
def test_resumed_smax_training_equals_uninterrupted_run(tmp_path: Path) -> None:
    run_world(1, tmp_path / "whole", text=TRAINING)
    told = summary(tmp_path / "whole")
    assert (told["status"], told["updates"]) == ("finished", 8)
    assert 0 <= told["win_rate"] <= 1
    assert 0 <= told["eval_win_rate"] <= 1
    run_world(1, tmp_path / "half", "stop.updates=3", text=TRAINING)
    run_world(1, tmp_path / "half", text=TRAINING, resume=str(tmp_path / "half"))
    np.testing.assert_array_equal(final_parameters(tmp_path / "half"), final_parameters(tmp_path / "whole"))
