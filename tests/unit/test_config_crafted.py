"""Configurations made to do harm: they run no code, read no other file and take no memory to be refused."""

import resource
import subprocess
import sys

import h5py
import pytest

from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError, FormatError
from hpcmarl.io.checkpoint import save_checkpoint
from hpcmarl.roles.evaluation import evaluate_checkpoint
from hpcmarl.roles.run import prepare
from tests.worlds import SPREAD, run_world

BASE = "env: {id: a.b}\nstop: {updates: 3}\n"


@pytest.mark.parametrize(
    ("text", "overrides", "key"),
    [
        (BASE + "topology: {groups: 100000000000000}\n", (), "topology.groups"),
        (BASE, ("topology.groups=100000000000000",), "topology.groups"),
        (BASE, ("topology.groups=100000000000000", "topology.groups.0.delay.step=1"), "topology.groups"),
        (BASE + "topology: {groups: 100000000000000}\n", ("topology.groups.0.delay.step=1",), "topology.groups"),
        (BASE + "topology: {environments_per_actor: 100000000000000}\n", (), "topology.environments_per_actor"),
        (BASE + "topology: {actors_per_learner: 100000000000000}\n", (), "topology.actors_per_learner"),
        (BASE + "algo: {network: {hidden: [1000000000000]}}\n", (), "algo.network.hidden"),
        (BASE + "algo: {unroll: 1000000000000}\n", (), "algo.unroll"),
        (BASE + "eval: {environments: 1000000000000}\n", (), "eval.environments"),
        (BASE + "rounds: {queue: 1000000000000}\n", (), "rounds.queue"),
    ],
)
def test_absurd_numbers_are_refused_in_little_memory(text, overrides, key):
    program = "import sys; from hpcmarl.config.file import load_config; load_config(sys.argv[1], sys.argv[2:])"

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    done = subprocess.run([sys.executable, "-c", program, text, *overrides], capture_output=True, text=True, preexec_fn=limit, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("hpcmarl.errors.ConfigError"), done.stderr
    assert key in last


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "..", ".hidden", "a\\n", "a\\0b", "", "x" * 101])
def test_names_of_runs_and_policies_are_no_paths(name):
    with pytest.raises(ConfigError, match="name is"):
        load_config(BASE + f'name: "{name}"\n')
    if len(name) < 100 and not name.startswith("x"):
        with pytest.raises(ConfigError, match="policies"):
            load_config(BASE + f'policies: {{"{name}": {{agents: [x]}}}}\n')


TAGS = ["!!python/object/apply:os.system ['touch {}']", "!!python/object/new:os.system ['touch {}']", "!!python/name:os.system", "!!python/module:os"]


@pytest.mark.parametrize("tag", TAGS)
def test_tags_run_nothing(tmp_path, tag):
    for text in (BASE + f"name: {tag}\n", tag + "\n---\n"):
        with pytest.raises(ConfigError, match="not valid YAML"):
            load_config(text.replace("{}", str(tmp_path / "made")))
    assert not (tmp_path / "made").exists()


def test_nested_aliases_are_refused_before_they_expand():
    levels = "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 30))
    with pytest.raises(ConfigError, match=r"line 2.*alias \*a0 is not supported"):
        load_config("a0: &a0 [x]\n" + levels)


FACTORIES = {
    "os:system": {"command": "touch PLACE"},
    "subprocess:check_call": {"args": ["touch", "PLACE"]},
    "builtins:exec": {"source": "open('PLACE', 'w')"},
    "yaml:unsafe_load": {"stream": "!!python/object/apply:os.system ['touch PLACE']"},
    "torch.utils.cpp_extension:load": {"name": "x", "sources": []},
    "numpy:load": {"file": "PLACE"},
    "hpcmarl.cli:main": {},
    "typer:launch": {"url": "PLACE"},
    "pickle:loads": {},
    "antigravity:geohash": {},
    "this": {},
}


@pytest.mark.parametrize("factory", FACTORIES)
def test_environments_come_from_packages_of_environments(tmp_path, factory):
    made = str(tmp_path / "made")
    override = "env=" + str({"id": factory, "kwargs": FACTORIES[factory]}).replace("PLACE", made)
    with pytest.raises(ConfigError, match=r"env\.id .* is no environment") as caught:
        run_world(1, tmp_path / "run", override)
    assert factory in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_a_checkpoint_names_no_other_file_as_its_configuration(tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(SPREAD)
    path = save_checkpoint(tmp_path, {"engine": {"optimizer": {}}}, version=1, attributes={"config": str(other)})
    with pytest.raises(ConfigError, match="configuration"):
        evaluate_checkpoint(str(path))
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = 3
    with pytest.raises(FormatError):
        evaluate_checkpoint(str(path))


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
def test_a_checkpoint_with_a_good_checksum_and_a_senseless_state(tmp_path, change):
    from hpcmarl.comm.local import LocalWorld
    from hpcmarl.io.checkpoint import find_checkpoint, load_checkpoint

    run_world(1, tmp_path / "run")
    state, attributes = load_checkpoint(find_checkpoint(tmp_path / "run"))
    change(state)
    path = save_checkpoint(tmp_path, state, version=6, attributes=attributes)
    with pytest.raises(FormatError, match=str(path)) as caught:
        prepare(LocalWorld(1).transports[0], load_config(SPREAD, ("stop.updates=9",)), str(tmp_path / "again"), str(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "again").exists()
