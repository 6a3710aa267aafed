"""Presets, the lowest layer of a configuration.

Values of the file and of the command line override a preset. A dump holds all values of the preset, so that
later versions cannot change them.
"""

import json
import re
from pathlib import Path

import pytest

from hpcmarl.analysis.presets import markdown
from hpcmarl.config import AdamConfig, AgentNetworkConfig, Config, RmspropConfig
from hpcmarl.config.file import dump_config, load_config, load_either
from hpcmarl.config.keys import field_at, keys_at
from hpcmarl.config.presets import PRESETS, PresetName
from hpcmarl.errors import ConfigError

ROOT = Path(__file__).parents[3]
BASE = "env: {id: a.b}\nstop: {updates: 3}\n"
SIMULATION = "sim: {stop: {rounds: 3}}\n"
NAMES = list(PRESETS)
each_preset = pytest.mark.parametrize("name", NAMES)


def message(text, *overrides, load=load_config):
    with pytest.raises(ConfigError) as raised:
        load(text, overrides)
    line = str(raised.value)
    assert "\n" not in line
    return line


def value_of(config, key):
    """Return the value of a dotted key in a configuration."""
    for part in key.split("."):
        config = getattr(config, part)
    return list(config) if isinstance(config, tuple) else config


class TestData:
    def test_names_of_the_schema_are_those_of_the_registry(self):
        assert list(PresetName.__args__) == NAMES == ["mappo", "ippo", "qmix", "vdn", "coma", "ma_trace"]
        assert all(preset.name == name for name, preset in PRESETS.items())

    @each_preset
    def test_every_key_exists_in_the_schema(self, name):
        data = {section: {"name": choice} for section, choice in PRESETS[name].choices.items()}
        for key in PRESETS[name].settings:
            place = tuple(key.split("."))
            assert place[-1] in keys_at(place[:-1], data), key
            assert field_at(place, data) is not None

    @each_preset
    def test_loaded_configuration_has_every_value(self, name):
        config = load_config(BASE + f"preset: {name}\n")
        for key, setting in PRESETS[name].settings.items():
            assert value_of(config, key) == setting.value, key

    @each_preset
    def test_every_value_names_a_file_of_the_authors(self, name):
        preset = PRESETS[name]
        sources = [setting.source for setting in preset.settings.values()] + [
            gap.source for gap in preset.gaps
        ]
        used = set()
        for source in sources:
            path, colon, words = source.partition(": ")
            assert path in preset.files, source
            assert colon
            assert words
            used.add(path)
        assert used == set(preset.files)
        # The page names files by the last part of their path.
        assert len({path.rpartition("/")[2] for path in used}) == len(used)
        assert all(len(commit) == 40 and int(commit, 16) for commit in preset.files.values())

    @pytest.mark.parametrize(
        ("name", "change"),
        [(name, gap.change) for name, preset in PRESETS.items() for gap in preset.gaps if gap.change],
        ids=str,
    )
    def test_gaps_are_still_refused(self, name, change):
        """If this test fails, the key exists now: turn the gap into a setting."""
        key = change.partition("=")[0].rpartition(".")[2]
        assert key in message(BASE + f"preset: {name}\n", change)

    @each_preset
    def test_length_ranks_and_environment_are_left_alone(self, name):
        sections = {key.partition(".")[0] for key in PRESETS[name].settings}
        assert sections <= {"algo", "optimizer", "rounds", "topology"}
        assert not {
            "topology.groups",
            "topology.actors_per_learner",
            "topology.server",
            "rounds.rule",
            "rounds.reduce",
        } & set(PRESETS[name].settings)

    @each_preset
    def test_one_actor_delivers_whole_gradients(self, name):
        config = load_config(BASE + f"preset: {name}\n")
        assert config.rounds.batch % config.topology.environments_per_actor == 0


class TestLayers:
    def test_preset_on_the_command_line_equals_one_in_the_file(self):
        assert load_config(BASE + "preset: qmix\n") == load_config(BASE, ["preset=qmix"])

    def test_no_file_is_needed(self):
        config = load_config(None, ["preset=mappo", "env.id=a.b", "stop.updates=3"])
        assert config == load_config(BASE + "preset: mappo\n")

    def test_file_outranks_the_preset(self):
        config = load_config(
            BASE + "preset: qmix\nalgo: {double_q: false, network: {memory: 5}}\nrounds: {batch: 7}\n"
        )
        assert (config.algo.double_q, config.algo.network.memory, config.rounds.batch) == (False, 5, 7)
        assert config.algo.network == AgentNetworkConfig(
            hidden=(64,), activation="relu", body="gru", memory=5
        )
        assert config.algo.replay.samples_per_insert == 32.0

    @pytest.mark.parametrize(
        "overrides", [["preset=qmix", "rounds.batch=7"], ["rounds.batch=7", "preset=qmix"]]
    )
    def test_command_line_outranks_the_preset_in_any_order(self, overrides):
        config = load_config(BASE, overrides)
        assert (config.rounds.batch, config.algo.name) == (7, "qmix")

    def test_command_line_chooses_another_preset_than_the_file(self):
        assert load_config(BASE + "preset: qmix\n", ["preset=coma"]) == load_config(BASE + "preset: coma\n")
        assert load_config(BASE + "preset: qmix\n", ["preset=null"]) == load_config(BASE)

    def test_explicit_null_outranks_the_preset(self):
        config = load_config(
            BASE + "preset: coma\nalgo: {critic_network: null}\noptimizer: {max_gradient_norm: null}\n"
        )
        assert config.algo.critic_network is None
        assert config.optimizer.max_gradient_norm is None

    def test_sections_without_a_name_have_that_of_the_preset(self):
        config = load_config(BASE + "preset: qmix\noptimizer: {decay: 0.5}\n")
        assert config.optimizer == RmspropConfig(
            step_size=5e-4, decay=0.5, epsilon=1e-5, max_gradient_norm=10.0
        )
        assert load_config(BASE + "preset: qmix\n", ["algo={discount: 0.5}"]).algo.discount == 0.5

    @pytest.mark.parametrize(
        ("text", "overrides"), [("optimizer: {name: adam}\n", []), ("", ["optimizer.name=adam"])]
    )
    def test_another_optimizer_takes_none_of_its_values(self, text, overrides):
        config = load_config(BASE + "preset: qmix\n" + text, overrides)
        assert config.optimizer == AdamConfig()
        assert config.algo.name == "qmix"

    def test_optimizer_of_the_file_switches_from_the_presets(self):
        config = load_config(
            BASE + "preset: qmix\noptimizer: {decay: 0.5, step_size: 0.25}\n", ["optimizer.name=adam"]
        )
        assert config.optimizer == AdamConfig(step_size=0.25)

    def test_groups_with_settings_of_their_own_stay(self):
        config = load_config(
            BASE + "preset: ma_trace\ntopology: {groups: 2}\n", ["topology.groups.1.delay.step=0.5"]
        )
        assert [group.delay.step for group in config.topology.group_list] == [0.0, 0.5]
        assert config.topology.environments_per_actor == 16


class TestResolved:
    @each_preset
    def test_resolved_text_names_no_preset_and_loads_again(self, name):
        config = load_config(BASE + f"preset: {name}\n")
        text = dump_config(config)
        assert "preset" not in text
        assert load_config(text) == config
        assert dump_config(load_config(text)) == text

    def test_later_presets_do_not_change_a_resolved_file(self, monkeypatch):
        text = dump_config(load_config(BASE + "preset: mappo\n"))
        before = load_config(text)
        monkeypatch.setattr("hpcmarl.config.preset_layer.PRESETS", {})
        assert load_config(text) == before

    def test_a_preset_is_not_left_unread_by_the_models(self):
        with pytest.raises(
            ValueError, match=r"preset: mappo is filled in by hpcmarl\.config\.file\.load_config"
        ):
            Config.model_validate({"preset": "mappo", "env": {"id": "a.b"}, "stop": {"updates": 3}})


ERRORS = {
    "unknown": (
        BASE + "preset: mapo\n",
        (),
        [
            (
                "line 3: preset is 'mapo'; did you mean mappo? allowed: mappo, ippo, qmix, vdn, coma, "
                "ma_trace or null"
            )
        ],
    ),
    "capitals": (BASE, ("preset=MA-Trace",), ["command line: preset is 'MA-Trace'; did you mean ma_trace?"]),
    "nothing near": (BASE, ("preset=zzz",), ["preset is 'zzz'; allowed: mappo"]),
    "no text": (BASE + "preset: [mappo]\n", (), ["line 3: preset is ['mappo']; allowed: mappo"]),
    "parts of it": (
        BASE,
        ("preset.mappo=1",),
        ["command line: preset is {'mappo': 1}; allowed: one of mappo"],
    ),
    "misspelt key": (BASE + "presett: mappo\n", (), ["unknown key presett", "did you mean preset?"]),
    "another algorithm in the file": (
        BASE + "preset: mappo\nalgo: {name: coma}\n",
        (),
        [
            (
                "line 4: algo.name is coma, but preset: mappo is for algo.name: ppo; remove one of them, or "
                "use preset: coma"
            )
        ],
    ),
    "another algorithm on the command line": (
        BASE + "preset: mappo\n",
        ("algo.name=reinforce",),
        ["command line: algo.name is reinforce, but preset: mappo is for algo.name: ppo; remove one of them"],
    ),
    "a preset over a file of another algorithm": (
        BASE + "algo: {name: ma_trace}\n",
        ("preset=qmix",),
        ["line 3: algo.name is ma_trace", "preset: qmix"],
    ),
    "a list as algorithm": (BASE + "algo: {name: [mappo]}\n", (), ["algo.name is ['mappo']"]),
    "a list as algorithm with a preset": (
        BASE + "preset: vdn\nalgo: {name: [vdn]}\n",
        (),
        ["line 4: algo.name is ['vdn'], but preset: vdn is for"],
    ),
    "null as algorithm with a preset": (
        BASE + "preset: vdn\nalgo: {name: null}\n",
        (),
        ["line 4: algo.name is null, but preset: vdn is for"],
    ),
    "an empty section": (BASE + "preset: vdn\noptimizer:\n", (), ["line 4: optimizer is empty"]),
    "text as a section": (BASE + "preset: vdn\nrounds: sync\n", (), ["line 4: rounds is 'sync'"]),
    "preset as algorithm": (
        BASE + "algo: {name: mappo}\n",
        (),
        ["algo.name is 'mappo'", "mappo is a preset: write preset: mappo instead of algo.name"],
    ),
    "key of another algorithm": (
        BASE + "preset: qmix\nalgo: {unroll: 5}\n",
        (),
        ["line 4: unknown key algo.unroll", "allowed here with algo.name: qmix"],
    ),
    "contradiction": (
        BASE + "preset: mappo\ndeterministic: true\n",
        (),
        ["configuration text with preset: mappo: deterministic: true does not work with algo.name: ppo"],
    ),
    "contradiction with both": (
        BASE + "preset: mappo\n",
        ("deterministic=true",),
        [
            (
                "configuration text with preset: mappo and deterministic from the command line: "
                "deterministic: true does not work"
            )
        ],
    ),
    "self-play": (
        BASE + "preset: mappo\npolicies: {p: {agents: ['*']}}\nleague: {matchmaking: {name: latest}}\n",
        (),
        [
            "with preset: mappo: algo.critic: state learns from the mean reward of all seats",
            "use algo.critic: independent",
        ],
    ),
    "command line alone": (
        None,
        ("preset=mappo", "env.id=a.b"),
        ["command line with preset: mappo: stop is empty"],
    ),
    "no environment": (None, ("preset=mappo",), ["command line: env is missing"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_are_one_line_that_says_the_remedy(case):
    text, overrides, words = ERRORS[case]
    line = message(text, *overrides)
    for word in words:
        assert word in line


def test_a_preset_over_a_resolved_file_is_refused():
    resolved = dump_config(load_config(BASE + "preset: mappo\n"))
    line = message(resolved, "preset=ippo")
    assert line.startswith(
        "command line: preset: ippo has no effect, because configuration text sets all of its keys; remove "
        "preset, or the keys"
    )


@pytest.mark.parametrize("load", [load_either])
@pytest.mark.parametrize(
    ("text", "overrides"), [(SIMULATION + "preset: mappo\n", ()), (SIMULATION, ("preset=mappo",))]
)
def test_simulations_refuse_presets(text, overrides, load):
    assert "preset: mappo is for runs (hpcmarl train), and this is a simulation; remove preset" in message(
        text, *overrides, load=load
    )


def test_sweeps_of_simulations_refuse_presets():
    from hpcmarl.config.sweep import cases

    config = load_either("sim: {stop: {rounds: 3}, sweep: {methods: {a: {preset: mappo}}}}\n")
    with pytest.raises(ConfigError, match=r"sim\.sweep, default, a: preset: mappo is for runs"):
        cases(config)


def test_independent_critics_load_in_a_league():
    config = load_config(
        BASE + "preset: ippo\npolicies: {p: {agents: ['*']}}\nleague: {matchmaking: {name: latest}}\n"
    )
    assert config.league is not None
    assert config.algo.critic == "independent"


class TestCommands:
    """Commands with presets; the functions that do the work are replaced, so that no run begins."""

    ALONE = ("preset=mappo", "env.id=a.b", "stop.updates=3")

    def test_show_prints_the_values_which_load_again(self, run, here):
        code, out, _ = run("config", "show", *self.ALONE)
        assert code == 0
        (here / "again.yaml").write_text(out)
        assert load_config(here / "again.yaml") == load_config(BASE + "preset: mappo\n")
        assert run("config", "show", "tiny.yaml", "preset=qmix")[1] == dump_config(
            load_config(here / "tiny.yaml", ["preset=qmix"])
        )

    def test_check_needs_no_file(self, run, here):
        assert run("config", "check", *self.ALONE)[:2] == (0, "command line is valid: a.b, ppo, adam, sync\n")
        assert run("config", "check", "tiny.yaml", "preset=coma")[:2] == (
            0,
            "tiny.yaml is valid: a.b, coma, rmsprop, sync\n",
        )

    def test_schema_names_the_presets(self, run):
        lines = run("config", "schema")[1].splitlines()
        assert any(
            line.split()[:8] == ["preset", "one", "of", "mappo,", "ippo,", "qmix,", "vdn,", "coma,"]
            for line in lines
        )
        assert "mappo" in json.dumps(json.loads(run("config", "schema", "--json")[1])["properties"]["preset"])
        assert not any(
            line.startswith("preset ") for line in run("config", "schema", "--simulation")[1].splitlines()
        )

    def test_list_prints_a_table_and_json(self, run):
        rows = json.loads(run("list", "presets", "--json")[1])["presets"]
        assert [row["name"] for row in rows] == NAMES
        assert {row["name"]: row["values"] for row in rows} == {name: PRESETS[name].values for name in NAMES}
        assert rows[0] | {"values": None, "gaps": None, "sources": None} == {
            "name": "mappo",
            "algorithm": "ppo",
            "optimizer": "adam",
            "paper": "arXiv 2103.01955",
            "code": "github.com/marlbenchmark/on-policy",
            "summary": PRESETS["mappo"].summary,
            "values": None,
            "sources": None,
            "gaps": None,
        }
        table = run("list", "presets")[1].splitlines()
        assert len(table) == len(rows) + 1
        assert table[1].startswith("mappo")

    def test_train_needs_no_file(self, run, here, trained, started):
        assert run("train", *self.ALONE)[0] == 75
        assert run("train", *self.ALONE, "--resume", "auto")[0] == 75
        assert [(config, resume) for config, _, resume in trained] == [
            (load_config(None, self.ALONE), None),
            (load_config(None, self.ALONE), "auto"),
        ]
        assert run("train", *self.ALONE, "-n", "2", "--run-dir", "d")[0] == 7
        assert started == [(2, ["train", *self.ALONE, "--run-dir", "d"])]

    def test_doctor_needs_no_file(self, run, here, started, monkeypatch):
        calls = []
        monkeypatch.setattr("hpcmarl.doctor.examine", lambda config, *_: calls.append(config.algo.name) or 0)
        assert run("doctor", *self.ALONE)[0] == 0
        assert calls == ["ppo"]
        run("doctor", *self.ALONE, "-n", "2")
        assert started == [(2, ["doctor", *self.ALONE, "--run-dir", "runs"])]

    def test_submit_needs_no_file_and_prints_the_script(self, run, login_node):
        code, out, _ = run("submit", *self.ALONE, "name=mine", "--dry-run")
        assert code == 0
        assert "--job-name=mine" in out
        assert run("submit", "tiny.yaml", "preset=qmix", "--dry-run")[0] == 0
        code, _, err = run("submit", *self.ALONE, "seed=1", "--seeds=2", "--dry-run")
        assert (code, "with a fixed seed" in err) == (2, True)
        code, _, err = run("submit", "seed=1", *self.ALONE, "--seeds=2", "--dry-run")
        assert (code, "with a fixed seed" in err) == (2, True)

    @pytest.mark.parametrize("command", ["train", "submit", "config show", "config check"])
    @pytest.mark.parametrize("arguments", [(), ("preset=mappo", "stop.updates=3")])
    def test_a_missing_file_is_one_line(self, run, here, trained, command, arguments):
        code, out, err = run(*command.split(), *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: CONFIG is missing")
        assert "env.id=" in err
        assert not trained

    def test_simulate_refuses_a_preset(self, run, here):
        (here / "sim.yaml").write_text(SIMULATION)
        code, _, err = run("simulate", "sim.yaml", "preset=mappo")
        assert (code, err) == (
            2,
            (
                "error: command line: preset: mappo is for runs (hpcmarl train), and this is a simulation; "
                "remove preset\n"
            ),
        )


def test_the_page_has_the_tables_of_today():
    page = (ROOT / "docs" / "presets.md").read_text()
    begin, end = "<!-- written by hpcmarl list presets --markdown -->\n", "<!-- end -->"
    assert page.partition(begin)[2].partition(end)[0].strip() == markdown().strip()


def test_examples_of_the_page_load(run, here):
    page = (ROOT / "docs" / "presets.md").read_text()
    [example] = re.findall(r"(?s)```yaml\n(.*?)```", page)
    config = load_config(example)
    assert (config.algo.name, config.rounds.batch, config.topology.environments_per_actor) == ("qmix", 32, 8)
    [shown] = re.findall(r"(?m)^    hpcmarl (config show .*)$", page)
    assert run(*shown.split())[0] == 0
