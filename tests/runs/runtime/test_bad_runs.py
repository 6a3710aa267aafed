"""Runs that are refused before they start.

Each error is one line that names the place. Files that were already written are not damaged.
"""

import h5py
import pytest

from hpcmarl.errors import ConfigError, EnvironmentFailure, FormatError, HpcmarlError, MissingPackageError
from tests.support.worlds import SPREAD, final_parameters, run_world, summary


def refused(kind, words, tmp_path, *changes, size=1, resume=None, text=SPREAD):
    with pytest.raises(kind, match=words) as caught:
        run_world(size, tmp_path / "run", *changes, resume=resume, text=text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        (("topology.groups=3",), ConfigError, "topology.groups"),
        (("topology.environments_per_actor=0",), ConfigError, "environments_per_actor"),
        (("rounds.rule=fedpg",), ConfigError, "rounds.rule"),
        (
            ("rounds.rule=afedpg", "rounds.reduce=mpi"),
            ConfigError,
            "rounds.reduce: mpi does not work with rounds.rule: afedpg",
        ),
        (("algo.unrol=3",), ConfigError, "unroll"),
        (("optimizer.name=nigt", "optimizer.momentum=1.5"), ConfigError, "momentum"),
        (("deterministic=true", "rounds.rule=rennala"), ConfigError, "deterministic"),
        (("algo.critic=independent", "algo.ratios=joint"), ConfigError, "ratios"),
        (("env.id=nowhere.at_all",), MissingPackageError, "nowhere"),
        (("env.id=mpe2.simple_spraed_v3",), ConfigError, "simple_spread_v3"),
        (("env.kwargs.wrong=1",), ConfigError, "wrong"),
        (
            ("topology.groups=[{env: {id: mpe2.simple_tag_v3, kwargs: {}}}]",),
            HpcmarlError,
            "topology.groups.0|kwargs",
        ),
    ],
)
def test_invalid_settings_are_rejected_before_writing(changes, kind, words, tmp_path):
    refused(kind, words, tmp_path, *changes)
    assert not (tmp_path / "run").exists()


def test_central_critic_without_state_is_rejected(tmp_path):
    refused(
        ConfigError,
        "algo.critic",
        tmp_path,
        "env={id: 'tests.support.environments:Masked'}",
        "algo.critic=state",
    )
    assert not (tmp_path / "run").exists()


def test_existing_run_directory_is_rejected(tmp_path):
    run_world(1, tmp_path / "run")
    before = final_parameters(tmp_path / "run")
    refused(ConfigError, "--resume", tmp_path)
    assert (final_parameters(tmp_path / "run") == before).all()


def test_resuming_from_an_unusable_checkpoint_is_rejected(tmp_path):
    run_world(1, tmp_path / "run")
    good = next((tmp_path / "run" / "checkpoints").glob("*.h5"))
    content = good.read_bytes()
    truncated, foreign = tmp_path / "truncated.h5", tmp_path / "foreign.h5"
    truncated.write_bytes(content[: len(content) // 2])
    with h5py.File(foreign, "w") as file:
        file["x"] = [1, 2, 3]
    for path in (truncated, foreign):
        refused(FormatError, path.name, tmp_path, resume=str(path))
    refused(ConfigError, "no such file", tmp_path, resume=str(tmp_path / "none"))
    refused(ConfigError, "parameters", tmp_path, "algo.network.hidden=[9]", resume=str(tmp_path / "run"))
    refused(ConfigError, "optimizer", tmp_path, "optimizer.name=sgd", resume=str(tmp_path / "run"))
    assert good.read_bytes() == content


def test_failing_environment_is_restarted_within_its_budget(tmp_path):
    broken = "env={id: 'tests.support.environments:Fragile', kwargs: {reset_every: 3}, restarts: 100000}"
    run_world(1, tmp_path / "patient", broken, "algo.unroll=12")
    assert summary(tmp_path / "patient")["updates"] == 6
    with pytest.raises(EnvironmentFailure) as caught:
        run_world(
            1,
            tmp_path / "strict",
            "env={id: 'tests.support.environments:Fragile', kwargs: {step: 4}, restarts: 2}",
            "stop.updates=1000",
        )
    assert caught.value.__cause__ is not None
