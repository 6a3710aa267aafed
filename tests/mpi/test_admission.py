"""Rounds that count all episodes that had begun, on real ranks.

The message that a round has enough episodes may arrive before the parameters of that round.
"""

import pytest

from tests.support.launch import LIBRARIES, ranks_take_seconds, run_train
from tests.support.worlds import summary

pytestmark = [pytest.mark.mpi, ranks_take_seconds]

GAME = """
env: {id: "tests.support.environments:ShortOrLong"}
algo: {name: reinforce, discount: 1.0, network: {hidden: [64, 64]}}
optimizer: {name: nigt, step_size: 0.1, momentum: 0.1}
rounds: {rule: rennala, batch: 8, admission: all_begun}
topology: {groups: 3, environments_per_actor: 4, server: dedicated}
trajectories: {enabled: false}
eval: {episodes: 20, greedy: false}
stop: {updates: 80, seconds: 110}
logging: {progress: false}
checkpoint: {every_seconds: null}
"""


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("reduce", ["server", "mpi"])
def test_every_round_is_closed_on_real_ranks(library, reduce, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(GAME)
    job = run_train(library, 7, config, "--run-dir", str(tmp_path / "run"), f"rounds.reduce={reduce}")
    assert job.code == 0, job.text
    told = summary(tmp_path / "run")
    assert (told["updates"], told["wasted_gradients"]) == (80, 0)
    assert told["eval_return_mean"] > 1.8
