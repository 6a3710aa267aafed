"""One-line messages about mistakes in a configuration: place, value and remedy."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError

BASE = "env: {id: a.b}\nstop: {updates: 3}\n"


def message(text, *overrides):
    with pytest.raises(ConfigError) as raised:
        load_config(text, overrides)
    line = str(raised.value)
    assert "\n" not in line
    assert line
    return line


def refusal(text, *overrides):
    try:
        load_config(text, overrides)
    except ConfigError as error:
        return str(error)
    return ""


CASES = {
    "range with line": (
        BASE + "rounds:\n  batch: 0\n",
        (),
        ["line 4: rounds.batch is 0", "a whole number >= 1 or null", "trajectories of a round"],
    ),
    "choice": (
        BASE + "rounds: {rule: rennalla}\n",
        (),
        ["rounds.rule is 'rennalla'", "one of sync, rennala, malenia"],
    ),
    "type": (BASE + "seed: many\n", (), ["seed is 'many'", "a whole number >= 0"]),
    "fraction of a whole number": (BASE + "seed: 1.5\n", (), ["seed is 1.5"]),
    "choice inside a section": (
        BASE + "league: {matchmaking: {name: psr}}\n",
        (),
        ["league.matchmaking.name is 'psr'", "one of latest, uniform, quality, pfsp, psro, partners, fixed"],
    ),
    "choice of a named section": (
        BASE + "league: {members: {a: {kind: {name: mine}}}}\n",
        (),
        ["league.members.a.kind.name is 'mine'", "one of main, main_exploiter, league_exploiter"],
    ),
    "psro without all pairs": (
        BASE + "league: {matchmaking: {name: psro}, evaluation: {strategy: {name: panel}}}\n",
        (),
        [
            "league.matchmaking.name: psro",
            "league.evaluation.strategy.name: panel",
            "use round_robin or adaptive",
        ],
    ),
    "more teams than members": (
        BASE + "topology: {groups: 3}\nleague: {members: {a: {copies: 2}}}\n",
        (),
        ["3 learners for 2 members"],
    ),
    "truth": (BASE, ("deterministic=maybe",), ["command line: deterministic is 'maybe'", "true or false"]),
    "neighbour": (
        BASE + "rounds: {bach: 1}\n",
        (),
        ["unknown key rounds.bach", "did you mean rounds.batch?"],
    ),
    "same name elsewhere": (
        BASE + "batch: 1\n",
        (),
        ["unknown key batch", "did you mean rounds.batch or topology.batch?"],
    ),
    "dotted key in a file": (BASE + "env.id: x\n", (), ["unknown key env.id", "env: {id: ...}"]),
    "several": (
        BASE + "seed: -1\nrounds: {batch: 0, rul: 3}\n",
        (),
        ["seed is -1", "(and 2 more: rounds.batch, rounds.rul)"],
    ),
    "unknown choice": (
        BASE + "algo: {name: a3c}\n",
        (),
        ["algo.name is 'a3c'", "one of reinforce, ma_trace"],
    ),
    "key of another choice": (
        BASE + "algo: {name: reinforce, unroll: 3}\n",
        (),
        ["unknown key algo.unroll", "belongs to algo.name: ma_trace"],
    ),
    "inside the choice": (BASE + "algo: {name: ma_trace, unroll: 0}\n", (), ["algo.unroll is 0", ">= 1"]),
    "inside a list": (
        BASE + "topology: {groups: [{delay: {step: -1}}]}\n",
        (),
        ["topology.groups.0.delay.step is -1", "a number >= 0"],
    ),
    "either of two types": (
        BASE + "topology: {groups: x}\n",
        (),
        ["topology.groups is 'x'", "a whole number >= 1 and <= 65536 or a list of"],
    ),
    "number or word": (
        BASE + "topology: {actors_per_learner: all}\n",
        (),
        ["topology.actors_per_learner is 'all'", "or auto"],
    ),
    "environment of a group": (
        BASE,
        ("topology.groups.0.env.max_steps=0",),
        ["topology.groups.0.env.max_steps is 0"],
    ),
    "key in the environment of a group": (
        BASE,
        ("topology.groups.0.env.kwarg=0",),
        ["did you mean topology.groups.0.env.kwargs?"],
    ),
    "empty section": (BASE + "topology:\n", (), ["topology is empty", "remove the line"]),
    "empty section in an override": (
        BASE,
        ("policies=null",),
        ["policies is empty", "use policies={} for the defaults"],
    ),
    "text for a section": (BASE + "eval: 3\n", (), ["eval is 3", "a section with the keys episodes"]),
    "missing": ("stop: {updates: 1}\n", (), ["env is missing", "id, kwargs"]),
    "missing key": ("env: {}\nstop: {updates: 1}\n", (), ["env.id is missing", "import path"]),
    "no episodes now and then": (
        "env: {id: a}\nstop: {updates: 1}\neval: {episodes: 0, every_updates: 5}\n",
        (),
        ["eval.episodes: 0"],
    ),
    "critic's step size without a critic": (
        BASE,
        ("algo.name=reinforce", "optimizer.critic_step_size=0.01"),
        [
            "optimizer.critic_step_size: 0.01 is for critics",
            "which algo.name: reinforce does not have",
            "use optimizer.step_size",
        ],
    ),
    "critic's clip of values": (
        BASE,
        ("algo.name=qmix", "optimizer.critic_max_gradient_norm=2"),
        [
            "optimizer.critic_max_gradient_norm: 2",
            "which algo.name: qmix does not have",
            "use optimizer.max_gradient_norm",
        ],
    ),
    "former ablation of the norm": (
        BASE,
        ("optimizer={name: nigt, normalise: false}",),
        ["optimizer.normalise is false", "one of all, policy, none"],
    ),
    "contradiction": ("env: {id: a}\n", (), ["stop is empty", "set stop.updates"]),
    "contradiction through an override": (
        BASE,
        ("rounds.rule=malenia", "rounds.batch=1", "topology.groups=3"),
        ["rounds.batch: 1 is less", "from the command line"],
    ),
    "policy name": (BASE + "policies: {'a b': {agents: [x]}}\n", (), ["the key 'a b' is not allowed"]),
    "key that is a number": (BASE + "1: 2\n", (), ["the key 1 is not allowed", "keys must be text"]),
    "long value": (BASE + "seed: " + "x" * 500 + "\n", (), ["seed is 'xxx", "..."]),
    "no override": (BASE, ("foo",), ["command line: 'foo' is not an override", "key.sub=value"]),
    "no key": (BASE, ("=3",), ["is not an override"]),
    "empty part of a key": (BASE, ("a..b=3",), ["is not an override"]),
    "override that is no YAML": (
        BASE,
        ("rounds.batch=[1",),
        ["command line: rounds.batch=[1", "not valid YAML"],
    ),
    "override into a value": (BASE + "seed: 3\n", ("seed.x=1",), ["seed.x", "seed is 3, which has no keys"]),
    "item that is not there": (
        BASE,
        ("topology.groups.4.actors=1",),
        ["topology.groups has no item 4", "from 0 to 0"],
    ),
    "item with a name": (
        BASE + "topology: {groups: [{}]}\n",
        ("topology.groups.x.actors=1",),
        ["has no item x"],
    ),
    "duplicate key": (
        "seed: 1\n" + BASE + "seed: 2\n",
        (),
        ["line 4, column 1", "'seed' occurs twice (first on line 1)"],
    ),
    "duplicate key deep": (BASE + "eval:\n  greedy: yes\n  greedy: no\n", (), ["line 5, column 3", "twice"]),
    "no space after a colon": (
        BASE,
        ("env.kwargs={board_size:9}",),
        ["{board_size:9} is a key without a value", "{board_size: 9}"],
    ),
    "alias": ("env: &x {id: a}\nstop: *x\n", (), ["line 2, column 7", "alias *x is not supported"]),
    "python object": (
        BASE + "name: !!python/object/apply:os.getcwd []\n",
        (),
        ["line 3, column 7", "not valid YAML"],
    ),
    "syntax": ("env: [\n", (), ["line 2, column 1", "not valid YAML"]),
    "two documents": ("a: 1\n---\nb: 1\n", (), ["line 2, column 1"]),
    "control character": ("a: \x07\n", (), ["not valid YAML"]),
    "nothing": ("\n# only words\n", (), ["empty", "env.id"]),
    "a list": ("- 1\n- 2\n", (), ["holds a list"]),
    "deep": ("[" * 20000 + "\n", (), ["nested too deeply"]),
    "thousands of digits": (BASE + "seed: " + "9" * 5000 + "\n", (), ["not valid YAML"]),
    "large": ("# " + "x" * (1 << 20) + "\n" + BASE, (), ["larger than 1 MiB"]),
}


@pytest.mark.parametrize(("text", "overrides", "parts"), CASES.values(), ids=CASES.keys())
def test_config_errors_are_one_line_naming_the_remedy(text, overrides, parts):
    line = message(text, *overrides)
    assert len(line) < 600
    for part in parts:
        assert part in line


def test_unreadable_config_files_are_reported(tmp_path):
    assert "no such file" in message(str(tmp_path / "none.yaml"))
    assert "a directory" in message(str(tmp_path))
    (tmp_path / "empty.yaml").write_text("")
    assert message(str(tmp_path / "empty.yaml")).startswith(f"{tmp_path}/empty.yaml: empty")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\xfe\xfa\n")
    assert "not valid YAML" in message(str(tmp_path / "latin.yaml"))
    (tmp_path / "large.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    assert "larger than" in message(str(tmp_path / "large.yaml"))


def test_errors_name_the_file_or_the_command_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(BASE + "seed: -1\n")
    assert message(path).startswith(f"{path}, line 3: seed is -1")
    path.write_text(BASE)
    assert message(path, "seed=-1").startswith("command line: seed is -1")


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("abenv:{}[]-,.'\"#&*!|>%@` \n\t0123e~?<="), max_size=60))
def test_any_text_loads_or_is_refused_in_one_line(text):
    assert "\n" not in refusal("\n" + text)


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("envalgo.stopunam0123=[]{}:,-'\" "), max_size=30))
def test_any_override_loads_or_is_refused_in_one_line(text):
    assert "\n" not in refusal(BASE, text)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("topology.silence_seconds=3", "it was renamed to heartbeat_timeout_seconds"),
        ("env.past_restarts=stop", "it was renamed to on_restart_limit"),
        ("algo={name: qmix, replay: {starts: 3}}", "it was renamed to learning_starts"),
        ("algo={name: qmix, replay: {ratio: 3}}", "it was renamed to samples_per_insert"),
        ("algo={name: qmix, sparse: {acting: dense}}", "it was renamed to inference"),
        ("algo={name: qmix, sparse: {learning: dense}}", "it was renamed to training"),
        ("algo={name: ppo, critic: dec}", "dec was renamed to independent"),
        ("algo={name: qmix, mixer_state: full}", "full was renamed to state"),
        ("topology.placement=apart", "apart was renamed to separate"),
        ("topology.groups=[{env: {past_restarts: stop}}]", "it was renamed to on_restart_limit"),
    ],
)
def test_renamed_keys_and_values_suggest_the_new_name(change, found):
    assert found in message(BASE, change)
