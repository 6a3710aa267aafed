"""Calls of wandb's API, with a stand-in for the package, and the check for the package itself."""

import os
import sys
import types
from importlib.machinery import ModuleSpec

import pytest

from hpcmarl.config.file import load_config
from hpcmarl.config.run import LoggingConfig
from hpcmarl.doctor.checks import check_tracking
from hpcmarl.errors import MissingPackageError
from hpcmarl.tracking import Place, check_trackers, make_trackers

RUN = "env: {id: a.b}\nstop: {updates: 3}\n"


class Run:
    """Stand-in for a run of wandb."""

    def __init__(self, calls, first):
        self.calls, self.starting_step, self.url = calls, first, "https://wandb.invalid/run"
        self.config = types.SimpleNamespace(update=lambda *a, **k: calls.append(("config", a, k)))
        self.summary = types.SimpleNamespace(update=lambda *a: calls.append(("summary", *a)))

    def __getattr__(self, name):
        return lambda *arguments, **more: self.calls.append((name, arguments, more))


def package(monkeypatch, *, first=0, offline_only=False):
    """Install a stand-in for wandb; return its calls."""
    calls = []

    def init(**more):
        calls.append(("init", more))
        if offline_only and more["mode"] == "online":
            raise RuntimeError("no\nnetwork")
        return Run(calls, first)

    module = types.ModuleType("wandb")
    module.init, module.Settings = init, lambda **more: more
    module.teardown = lambda: calls.append(("teardown",))
    module.__spec__ = ModuleSpec("wandb", None, origin="stand-in")
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def track(options, place, *rows, summary=None):
    """Write rows and a summary with wandb as the only tracker."""
    trackers = make_trackers(LoggingConfig(wandb=options), place, {"seed": 7})
    for version in rows:
        trackers.row({"version": version, "env_steps": 10 * version, "seconds": 0.5, "a": 1.0})
    trackers.close(summary)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["WANDB_DIR"]:
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "")  # so that the values of the test are removed afterwards
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("override", "mode"),
    [("offline", "offline"), ("online", "online"), ("{project: x}", "offline"), ("{mode: online}", "online")],
)
def test_text_is_short_for_the_mode(override, mode):
    wandb = load_config(RUN, [f"logging.wandb={override}"]).logging.wandb
    assert wandb.mode == mode


def test_offline_run_keeps_its_identity_and_its_files(tmp_path, monkeypatch):
    calls = package(monkeypatch)
    options = {"project": "p", "entity": "e", "tags": ["x", "y"]}
    track(options, Place(tmp_path, "first", "0123abcd"), 1, 2, summary={"status": "finished"})
    (_, begun), axis, config, first, second, summary, finish = calls
    told = {
        name: begun[name] for name in ("mode", "project", "entity", "name", "id", "resume", "tags", "dir")
    }
    assert told == {
        "mode": "offline",
        "project": "p",
        "entity": "e",
        "name": "first",
        "id": "0123abcd",
        "resume": "allow",
        "tags": ["x", "y"],
        "dir": str(tmp_path),
    }
    off = ("save_code",)
    on = ("disable_git", "disable_code", "x_disable_stats", "x_disable_meta", "silent")
    assert not any(begun["settings"][name] for name in off)
    assert all(begun["settings"][name] for name in on)
    assert begun["settings"]["console"] == "off"
    assert axis == ("define_metric", ("*",), {"step_metric": "env_steps"})
    assert config == ("config", ({"seed": 7},), {"allow_val_change": True})
    assert first == ("log", ({"env_steps": 10, "seconds": 0.5, "a": 1.0},), {"step": 1})
    assert second[2] == {"step": 2}
    assert summary == ("summary", {"status": "finished"})
    assert finish == ("finish", (), {"exit_code": 0})
    assert os.environ["WANDB_DIR"] == str(tmp_path)
    assert os.environ["WANDB_CACHE_DIR"].startswith(str(tmp_path))
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


def test_failed_run_is_a_failed_run_of_wandb(tmp_path, monkeypatch):
    calls = package(monkeypatch)
    track("offline", Place(tmp_path, "first", "0123"), 1)
    assert calls[-1] == ("finish", (), {"exit_code": 1})


def test_rows_that_the_server_has_are_left_out(tmp_path, monkeypatch, caplog):
    calls = package(monkeypatch, first=6)
    caplog.set_level("INFO")
    place = Place(tmp_path, "first", "0123", start=2, version=3, env_steps=30)
    track("online", place, 4, 5, 6, summary={})
    assert [more["step"] for name, _, more in (call for call in calls if call[0] == "log")] == [6]
    assert "wandb: https://wandb.invalid/run" in caplog.messages
    assert any("wandb has rows up to version 5" in line for line in caplog.messages)


def test_online_run_without_a_connection_continues_offline(tmp_path, monkeypatch, caplog):
    calls = package(monkeypatch, offline_only=True)
    track("online", Place(tmp_path, "first", "0123"), 1, summary={})
    modes = [call[1]["mode"] for call in calls if call[0] == "init"]
    assert modes == ["online", "offline"]
    assert calls[1] == ("teardown",)
    assert any(call[0] == "log" for call in calls)
    [line] = caplog.messages
    assert line.startswith("wandb continues offline: no network; upload later: wandb sync ")


@pytest.mark.parametrize("found", ["nothing", "directory"])
def test_missing_wandb_is_one_line_with_the_remedy(tmp_path, monkeypatch, found):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    if found == "directory":  # as wandb leaves it in the working directory
        (tmp_path / "wandb").mkdir()
    with pytest.raises(MissingPackageError, match=r"pip install 'hpcmarl\[wandb\]'") as caught:
        check_trackers(LoggingConfig(wandb="offline"))
    assert "\n" not in str(caught.value)
    check_trackers(LoggingConfig(tensorboard=True))


def test_unimportable_spec_counts_as_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingPackageError, match=r"logging\.wandb: online"):
        check_trackers(LoggingConfig(wandb="online"))


@pytest.mark.parametrize(("version", "fits"), [("0.30.9", False), ("0.31.0", True), ("1.0rc1", True)])
def test_old_wandb_is_one_line_with_the_remedy(monkeypatch, version, fits):
    package(monkeypatch)
    monkeypatch.setattr("hpcmarl.tracking.metadata.version", lambda _: version)
    if fits:
        check_trackers(LoggingConfig(wandb="offline"))
        return
    with pytest.raises(
        MissingPackageError, match=r"0\.31 or later, but 0\.30\.9 is installed; pip install -U"
    ):
        check_trackers(LoggingConfig(wandb="offline"))


def test_present_wandb_passes_the_check(monkeypatch):
    package(monkeypatch)
    check_trackers(LoggingConfig(wandb="offline"))


def test_doctor_reports_a_missing_wandb(monkeypatch):
    config = load_config(RUN, ["logging.wandb=offline"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    [finding] = check_tracking(config)
    assert finding.status == "BAD"
    package(monkeypatch)
    [finding] = check_tracking(config)
    assert finding.status == "OK"
    assert check_tracking(load_config(RUN, [])) == check_tracking(None) == []
