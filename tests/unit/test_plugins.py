"""Classes outside hpcmarl: how names are resolved, checked, sent to other ranks and stored."""

import os
import re
import sys

import pytest

from hpcmarl import plugins
from hpcmarl.algos import make_model
from hpcmarl.config import Config, keys
from hpcmarl.config.choice import classes_outside
from hpcmarl.config.file import dump_config, load_config
from hpcmarl.config.plain import from_json, to_json
from hpcmarl.envs import describe
from hpcmarl.errors import ConfigError, MissingPackageError
from tests.support.plugins import HERE, Backup, Stop
from tests.support.rollouts import make_spec

RUN = "env: {id: a.b}\nstop: {updates: 3}\n"
EVERYTHING = (
    f"rounds.rule={{name: '{HERE}:Backup', slack: 2}}",
    f"optimizer.name={HERE}:Sign",
    f"callbacks=['{HERE}:Calls', {{name: '{HERE}:Stop', version: 5}}]",
    f"logging.trackers=['{HERE}:Lines']",
    f"league={{matchmaking: {{name: '{HERE}:Newest'}}}}",
)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Return a function that installs the records of a package with entry points."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv(plugins.VARIABLE, "")

    def forget():
        plugins.entry_point.cache_clear()
        plugins._cached.cache_clear()

    def install(name, **points):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"[hpcmarl.{kind}]\n{point}\n" for kind, point in points.items()]
        (folder / "entry_points.txt").write_text("".join(lines))
        forget()
        return tmp_path

    forget()
    yield install
    forget()


WRONG = {
    "missing package": (
        "nowhere.inner:Mine",
        "needs the package nowhere, which is not installed; pip install",
    ),
    "missing module": (
        "tests.support.plugin:Backup",
        "has no module plugin; did you mean",
    ),
    "missing class": (f"{HERE}:Bakcup", f"has no class Bakcup; did you mean {HERE}:Backup?"),
    "no class": (f"{HERE}:", r"has no class \(no name\); it has "),
    "function": (f"{HERE}:a_function", "is a function; allowed: a class derived from hpcmarl.optim.rounds"),
    "value": (f"{HERE}:CALLS", "is of type list; allowed: a class derived from"),
    "other base": (f"{HERE}:Stop", r"is no hpcmarl.optim.rounds.base.RoundRule; it must be derived"),
    "missing method": (f"{HERE}:Incomplete", "lacks complete, which .*RoundRule requires; write it"),
    "other configuration": (f"{HERE}:WrongConfig", "config_class is .*; allowed: a class derived from"),
    "no path": ("a b:Mine", "is not the path of a class; write package.module:Class"),
    "package without hpcmarl": (
        "yaml.nodes:Node",
        "does not depend on hpcmarl, so it has no part for",
    ),
    "standard library": ("os.path:join", "is not the path of a class; write package.module:Class"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_class_is_refused_with_the_reason(case):
    name, words = WRONG[case]
    with pytest.raises((ConfigError, MissingPackageError), match=words) as raised:
        plugins.find("rules", name)
    assert "\n" not in str(raised.value)


def test_failing_import_names_its_line(tmp_path, packages):
    (tmp_path / "raising.py").write_text("import os\nraise RuntimeError('no\\nGPU')\n")
    with pytest.raises(ConfigError, match=r"RuntimeError: no GPU \(.*raising\.py, line 2\); correct it"):
        plugins.find("rules", "raising:Mine")


def test_module_that_needs_another_package_names_it(tmp_path, packages):
    (tmp_path / "needing.py").write_text("import not_there\n")
    with pytest.raises(MissingPackageError, match="needs the package not_there, which is not installed"):
        plugins.find("rules", "needing:Mine")


def test_algorithm_without_a_learner_is_refused(tmp_path, packages):
    (tmp_path / "learnerless.py").write_text(
        "from hpcmarl.algos.external import ExternalAlgorithm\n"
        "class Mine(ExternalAlgorithm):\n"
        "    learner = 'nowhere.learner:Mine'\n"
        "    @staticmethod\n"
        "    def design(spec, config): ...\n"
    )
    with pytest.raises(ConfigError, match=r"Mine\.learner is 'nowhere.learner:Mine'; allowed: pack"):
        plugins.find("algorithms", "learnerless:Mine")


def test_own_names_look_for_no_entry_points(monkeypatch):
    load_config(RUN)  # pydantic looks for its own plugins once in a process
    monkeypatch.setattr(plugins.metadata, "distributions", lambda: pytest.fail("entry points are read"))
    config = load_config(RUN, ("algo.name=ppo", "optimizer.name=nigt", "rounds.rule=rennala"))
    assert not list(classes_outside(config))


def test_entry_point_is_a_short_name(packages):
    packages("mine", rules=f"backup = {HERE}:Backup")
    config = load_config(RUN, ("rounds.rule=backup",))
    assert plugins.find("rules", config.rounds.rule.name) is Backup
    assert str(config.rounds.rule) == "backup"
    with pytest.raises(ConfigError, match=r"rounds\.rule is 'bakcup'; .*package\.module:Class, backup"):
        load_config(RUN, ("rounds.rule=bakcup",))


def test_name_of_two_packages_is_refused(packages):
    packages("one", rules=f"backup = {HERE}:Backup")
    packages("two", rules="backup = elsewhere:Backup")
    with pytest.raises(ConfigError, match=r"backup is registered by 2 packages, one 1\.0 and two 1\.0"):
        load_config(RUN, ("rounds.rule=backup",))


def test_list_shows_a_broken_entry_point_on_one_line(packages, run):
    packages("broken", rules="gone = not_there.module:Rule", environments=f"echo = {HERE}:make_echo")
    code, out, _ = run("list", "rules")
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("gone")]
    assert re.search(r"broken 1\.0 +cannot be used: not_there\.module:Rule needs the package not_there", line)
    assert "echo" in run("list", "envs")[1]


def test_environment_of_an_entry_point_is_made(packages):
    packages("games", environments=f"echo = {HERE}:make_echo")
    config = load_config("env: {id: echo}\nstop: {updates: 3}\n")
    assert describe(config.env, config.policies).policies


def test_module_of_an_entry_point_is_made(packages):
    packages("nets", modules="small = tests.support.user_modules:FeedForward")
    config = load_config(RUN, ("algo.network.module=small", "algo.network.arguments.width=3"))
    assert list(classes_outside(config)) == [("modules", "small")]
    model = make_model(make_spec(), config.algo, 0)
    assert model.named_parameters()["agent.actor.module.middle.weight"].shape == (3, 3)
    with pytest.raises(ConfigError, match=r"smal is not known; allowed: package\.module:Class, small"):
        make_model(make_spec(), load_config(RUN, ("algo.network.module=smal",)).algo, 0)


def test_configuration_survives_json_and_yaml():
    config = load_config(RUN, EVERYTHING)
    assert from_json(to_json(config)) == config
    assert load_config(dump_config(config)) == config
    assert isinstance(config, Config)
    assert config.rounds.rule.slack == 2
    assert isinstance(from_json(to_json(config)).callbacks[1], Stop.config_class)
    assert {kind for kind, _ in classes_outside(config)} == {
        "rules",
        "optimizers",
        "callbacks",
        "trackers",
        "matchmakers",
    }


def test_override_of_a_name_keeps_the_keys_of_both(tmp_path):
    text = RUN + f"optimizer: {{name: '{HERE}:Sign', step_size: 0.5}}\n"
    assert load_config(text, ("optimizer.name=adam",)).optimizer.step_size == 0.5
    text = RUN + "optimizer: {name: adam, step_size: 0.5, beta1: 0.5}\n"
    assert load_config(text, (f"optimizer.name={HERE}:Sign",)).optimizer.step_size == 0.5


def test_only_known_classes_are_imported_from_stored_files(monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "")
    name = f"{HERE}:Backup"
    with plugins.only_known("file.h5", []), pytest.raises(ConfigError, match=r"file\.h5 names the class"):
        plugins.find("rules", name)
    with plugins.only_known("file.h5", [name]):
        assert plugins.find("rules", name) is Backup
    plugins.trust([name])
    with plugins.only_known("file.h5", []):
        assert plugins.find("rules", name) is Backup
    assert os.environ[plugins.VARIABLE] == name


def test_schema_of_editors_allows_classes_outside():
    schema = Config.model_json_schema()["properties"]["algo"]
    own, foreign = schema["anyOf"]
    assert own["discriminator"]["propertyName"] == "name"
    assert "ppo" in foreign["properties"]["name"]["not"]["enum"]
    described = keys.describe(Config.model_fields["callbacks"].annotation)
    assert described == "a list of package.module:Class or a section with name"


def test_parts_of_an_installed_hpcmarl_are_allowed(monkeypatch):
    monkeypatch.setattr(plugins, "is_local", lambda name: False)
    monkeypatch.setattr(plugins, "distributions", lambda package: ("hpcmarl",))
    plugins._check_origin("hpcmarl.sweeps.pruning:MedianPruner")
    with pytest.raises(ConfigError, match="does not depend on hpcmarl"):
        plugins._check_origin("numpy:ndarray")
