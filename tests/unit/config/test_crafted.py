"""Crafted configurations do not run code or read other files."""

import h5py
import pytest

from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError, FormatError
from hpcmarl.evaluation import evaluate_checkpoint
from hpcmarl.io.checkpoint import save_checkpoint
from tests.support.worlds import SPREAD

BASE = "env: {id: a.b}\nstop: {updates: 3}\n"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "..", ".hidden", "a\\n", "a\\0b", "", "x" * 101])
def test_path_like_run_and_policy_names_are_rejected(name):
    with pytest.raises(ConfigError, match="name is"):
        load_config(BASE + f'name: "{name}"\n')
    if len(name) < 100 and not name.startswith("x"):
        with pytest.raises(ConfigError, match="policies"):
            load_config(BASE + f'policies: {{"{name}": {{agents: [x]}}}}\n')


TAGS = [
    "!!python/object/apply:os.system ['touch {}']",
    "!!python/object/new:os.system ['touch {}']",
    "!!python/name:os.system",
    "!!python/module:os",
]


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags_are_rejected_without_running_code(tmp_path, tag):
    for text in (BASE + f"name: {tag}\n", tag + "\n---\n"):
        with pytest.raises(ConfigError, match="not valid YAML"):
            load_config(text.replace("{}", str(tmp_path / "made")))
    assert not (tmp_path / "made").exists()


def test_nested_aliases_are_refused_before_they_expand():
    levels = "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 30))
    with pytest.raises(ConfigError, match=r"line 2.*alias \*a0 is not supported"):
        load_config("a0: &a0 [x]\n" + levels)


def test_checkpoint_cannot_point_to_a_configuration_file(tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(SPREAD)
    path = save_checkpoint(
        tmp_path, {"engine": {"optimizer": {}}}, version=1, attributes={"config": str(other)}
    )
    with pytest.raises(ConfigError, match="configuration"):
        evaluate_checkpoint(str(path))
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = 3
    with pytest.raises(FormatError):
        evaluate_checkpoint(str(path))
