"""Whole runs in Gymnasium environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.worlds import run_world, summary

CARTPOLE = "gymnasium:CartPole-v1"


@pytest.mark.parametrize(("id", "algo"), [(CARTPOLE, "ma_trace"), ("gymnasium:Pendulum-v1", "reinforce")])
def test_gymnasium_environments_train_and_are_evaluated(tmp_path: Any, id: str, algo: str) -> None:
    text = f"""
env: {{id: "{id}", max_steps: 20}}
algo: {{name: {algo}, network: {{hidden: [8]}}}}
optimizer: {{name: nigt}}
topology: {{environments_per_actor: 2}}
rounds: {{batch: 2}}
eval: {{episodes: 2}}
stop: {{updates: 2}}
logging: {{progress: false}}
"""
    run_world(2, tmp_path / "run", text=text)
    told = summary(tmp_path / "run")
    assert (told["status"], told["updates"]) == ("finished", 2)
    assert np.isfinite(told["eval_return_mean"])
