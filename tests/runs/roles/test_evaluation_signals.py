"""Signals and time limits during evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcmarl.comm.local import LocalWorld
from hpcmarl.config.file import load_config
from hpcmarl.runtime.rank import Rank
from hpcmarl.training import make_rank, prepare
from tests.support.worlds import SPREAD, final_state, run_world, summary

LIMIT = 200_000


def run_until_evaluating(
    directory: Path, job_end: float | None, then: Callable[[list[Rank]], None], *changes: str
) -> list[Rank]:
    """Step two ranks to their end; call `then` once while an evaluation runs."""
    config = load_config(SPREAD, ["eval.episodes=100000", *changes])
    ranks = [
        make_rank(prepare(transport, config, str(directory), None, job_end))
        for transport in LocalWorld(2).transports
    ]
    called = False
    try:
        for _ in range(LIMIT):
            if not called and ranks[0].roles["evaluator"].match is not None:
                called = True
                then(ranks)
            left = [rank for rank in ranks if rank.exit_code is None]
            if not left:
                break
            for rank in left:
                rank.step()
    finally:
        for rank in ranks:
            rank.close()
    assert called
    return ranks


@pytest.mark.parametrize("changes", [(), ("eval.every_updates=2", "stop.updates=100000")])
def test_signal_ends_an_evaluation(changes: tuple[str, ...], tmp_path: Path) -> None:
    ranks = run_until_evaluating(tmp_path / "run", None, lambda ranks: ranks[1].interrupt(), *changes)
    assert [rank.exit_code for rank in ranks] == [75, 75]
    told = summary(tmp_path / "run")
    assert (told["status"], told["eval_return_mean"]) == ("interrupted", None)
    assert final_state(tmp_path / "run")["engine"]["optimizer"]["updates"] == told["updates"]


def test_resumed_run_makes_the_evaluation_that_was_given_up(tmp_path: Path) -> None:
    run_until_evaluating(tmp_path / "run", None, lambda ranks: ranks[1].interrupt())
    ranks = run_world(2, tmp_path / "run", "eval.episodes=4", resume=str(tmp_path / "run"))
    assert ranks[0].exit_code == 0
    assert summary(tmp_path / "run")["eval_return_mean"] is not None


def test_end_of_the_job_ends_an_evaluation(tmp_path: Path) -> None:
    def end_soon(ranks: list[Rank]) -> None:
        ranks[0].roles["server"].stop_at = time.time()

    ranks = run_until_evaluating(tmp_path / "run", time.time() + 10_000, end_soon)
    assert ranks[0].exit_code == 75
