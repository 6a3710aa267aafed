"""Crafted factories and checkpoints: a run refuses them before it executes any of their code."""

import pytest

from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError, FormatError
from hpcmarl.io.checkpoint import save_checkpoint
from hpcmarl.training import prepare
from tests.support.worlds import SPREAD, run_world

FACTORIES = {
    "os:system": {"command": "touch PLACE"},
    "subprocess:check_call": {"args": ["touch", "PLACE"]},
    "builtins:exec": {"source": "open('PLACE', 'w')"},
    "yaml:unsafe_load": {"stream": "!!python/object/apply:os.system ['touch PLACE']"},
    "torch.utils.cpp_extension:load": {"name": "x", "sources": []},
    "numpy:load": {"file": "PLACE"},
    "hpcmarl.cli.main:main": {},
    "typer:launch": {"url": "PLACE"},
    "pickle:loads": {},
    "antigravity:geohash": {},
    "this": {},
}


@pytest.mark.parametrize("factory", FACTORIES)
def test_non_environment_factories_are_rejected(tmp_path, factory):
    made = str(tmp_path / "made")
    override = "env=" + str({"id": factory, "kwargs": FACTORIES[factory]}).replace("PLACE", made)
    with pytest.raises(ConfigError, match=r"env\.id .* is not an environment") as caught:
        run_world(1, tmp_path / "run", override)
    assert factory in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["engine"]["rule"].update(round="many"),
        lambda state: state["engine"]["rule"].update(round=2**100),
        lambda state: state["engine"]["rule"].update(round=-1),
        lambda state: state["engine"].pop("rule"),
        lambda state: state["engine"].pop("used"),
        lambda state: state["engine"]["optimizer"].update(first=[1, 2]),
        lambda state: state["engine"]["optimizer"].update(first=state["engine"]["optimizer"]["first"][:3]),
        lambda state: state["engine"]["optimizer"].update(updates=None),
        lambda state: state.pop("recorder"),
        lambda state: state["recorder"].update(totals=[1]),
        lambda state: state["recorder"].update(recent="x"),
        lambda state: state["recorder"].update(groups=None),
        lambda state: state["recorder"]["times"].update(sums=[1.0]),
        lambda state: state["recorder"].update(times={}),
        lambda state: state.pop("roles"),
        lambda state: state["roles"].update(actor=[]),
        lambda state: state["roles"]["actor"]["0"].pop("environment"),
        lambda state: state["roles"]["actor"]["0"].update(slots="2"),
    ],
)
def test_checkpoint_with_an_invalid_state_is_rejected(tmp_path, change):
    from hpcmarl.comm.local import LocalWorld
    from hpcmarl.io.checkpoint import find_checkpoint, load_checkpoint

    run_world(1, tmp_path / "run")
    state, attributes = load_checkpoint(find_checkpoint(tmp_path / "run"))
    change(state)
    path = save_checkpoint(tmp_path, state, version=6, attributes=attributes)
    with pytest.raises(FormatError, match=str(path)) as caught:
        prepare(
            LocalWorld(1).transports[0],
            load_config(SPREAD, ("stop.updates=9",)),
            str(tmp_path / "again"),
            str(path),
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "again").exists()
