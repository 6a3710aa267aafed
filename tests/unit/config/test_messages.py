"""Messages of the configuration.

Each message is one line with place, value and remedy, and each has a case here.
"""

import ast
import copy
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, ValidationError

import hpcmarl.config
from hpcmarl.config import Config, keys
from hpcmarl.config.file import load_config, load_simulation, load_sweep
from hpcmarl.config.league_checks import self_play_contradictions
from hpcmarl.config.simulation import SimulationConfig
from hpcmarl.config.tree import show
from hpcmarl.config.yaml_text import Place, inline
from hpcmarl.errors import ConfigError

RUN = "env: {id: a.b}\nstop: {updates: 3}\n"
SIMULATION = "sim: {stop: {time: 3}}\nrounds: {rule: sync}\n"
PLAYED = "sim: {stop: {time: 3}}\nrounds: {rule: sync}\nobjective: {name: policy, env: {id: a.b}}\n"
TUNE = "sim.sweep.tune={seeds: [7], grid: {optimizer.step_size: [1]}}"
REMEDY = re.compile(
    r"\b(allowed(?: here[^:]*)?: |use |set |write |remove |raise |lower |did you mean |needs? |must be |"
    r"not valid YAML: )"
)
# Expressions that messages must not use.
BANNED = re.compile(
    r"\b(anew|of its own|of their own|by itself|does not go with|told|tells?|what is there|is there|nobody|"
    r"whoever|whom|a word|gives? up|goes on|go on)\b"
)
LONGEST = 700
# Messages that no configuration file can cause.
OF_THE_MODEL = "preset: mappo is filled in by hpcmarl.config.file.load_config, not by Config; use load_config"
OF_THE_GAME = "between opponents (a constant-sum game)"


class Case(NamedTuple):
    """A configuration with one mistake, and the texts that its message must contain."""

    overrides: tuple[str, ...]
    key: str
    value: str = ""
    text: str | Path | None = RUN
    load: Callable[..., Any] = load_config


def run(*overrides: str, key: str, value: str = "", text: str | Path | None = RUN) -> Case:
    return Case(overrides, key, value, text)


def simulation(*overrides: str, key: str, value: str = "", text: str = SIMULATION) -> Case:
    return Case(overrides, key, value, text, load_simulation)


QMIX = "algo.name=qmix"
CASES = {
    # algo_checks.py
    "joint ratios of agents": run(
        "algo.critic=independent", "algo.ratios=joint", key="algo.ratios", value="joint"
    ),
    "coma without others": run(
        "algo={name: coma, critic: independent}", key="algo.critic", value="independent"
    ),
    "two entropy rules": run(
        "algo={entropy_cost_steps: 9, target_entropy: 0.5}", key="algo.entropy_cost_steps", value="9"
    ),
    "agent input": run(
        "algo={critic: independent, critic_input: agent}", key="algo.critic_input", value="agent"
    ),
    "recurrent coma": run(
        "algo={name: coma, critic_network: {body: gru}}",
        key="algo.critic_network.body",
        value="gru",
    ),
    "shared encoder of a state": run(
        "algo={critic: state, shared_encoder: true}", key="algo.critic", value="state"
    ),
    "shared encoder of a module": run(
        "algo={shared_encoder: true, network: {module: 'm:f'}}", key="algo.network.module", value="m:f"
    ),
    "shared encoder of another kind": run(
        "algo={shared_encoder: true, network: {encoder: cnn}, critic_network: {encoder: entities}}",
        key="algo.critic_network.encoder",
    ),
    "recurrent critics of actions": run(
        "algo={name: masac, critic_network: {body: gru}}",
        key="algo.critic_network.body",
        value="gru",
    ),
    "teams of independent critics": run("algo={critic: independent, teams: [[a]]}", key="algo.teams"),
    "teams of agents": run(
        "algo={ratios: agent, teams: [[a]]}", key="algo.teams", value="algo.ratios: agent"
    ),
    "teams without ratios": run("algo={importance_sampling: false, teams: [[a]]}", key="algo.teams"),
    "policy in two teams": run("algo.teams=[[a, b], [b]]", key="algo.teams", value="b"),
    "sparse without a GRU": run(
        QMIX, "algo.sparse={training: sparse}", "algo.network.body=mlp", key="algo.sparse.training"
    ),
    "steps and lambda": run(QMIX, "algo.n_step=3", "algo.trace_lambda=0.6", key="algo.n_step", value="3"),
    "late start": run(
        QMIX,
        "algo.replay={learning_starts: 40, episodes: 30}",
        key="algo.replay.learning_starts",
        value="40",
    ),
    "replay that never shrinks": run(
        QMIX, "algo.replay={episodes: 400, dynamic: {}}", key="algo.replay.dynamic.least", value="500"
    ),
    "steps of values": run(QMIX, "algo.replay.draw=steps", key="algo.replay.draw", value="algo.name: qmix"),
    "steps with a memory": run(
        "algo={name: maddpg, network: {body: gru}, replay: {draw: steps}}",
        key="algo.replay.draw",
        value="algo.network.body: gru",
    ),
    "steps with priorities": run(
        "algo={name: masac, replay: {draw: steps, priority: {}}}",
        key="algo.replay.draw",
        value="algo.replay.priority",
    ),
    # choice.py, plugins.py
    "class of a missing package": run(
        "algo.name=not_installed.algo:Mine", key="algo.name", value="not_installed.algo:Mine"
    ),
    "class of another kind": run(
        "optimizer.name=tests.support.plugins:Backup",
        key="optimizer.name",
        value="plugins:Backup",
    ),
    "class that is misspelt": run(
        "rounds.rule=tests.support.plugins:Bakcup", key="rounds.rule", value="Bakcup"
    ),
    "unknown key of a class": run(
        "callbacks=[{name: 'tests.support.plugins:Stop', versoin: 3}]", key="callbacks.0.versoin", value="3"
    ),
    "callback without a name": run("callbacks=[{version: 3}]", key="callbacks.0"),
    "callback that is not installed": run("callbacks=[patience]", key="callbacks.0", value="patience"),
    # schema.py
    "no groups": run("topology.groups=[]", key="topology.groups", value="[]"),
    "no end": run(key="stop", text="env: {id: a}\n"),
    "deterministic rennala": run(
        "deterministic=true", "rounds.rule=rennala", key="deterministic", value="rennala"
    ),
    "deterministic gpu": run("deterministic=true", "device=cuda:1", key="device", value="cuda:1"),
    "sparse gpu": run(QMIX, "algo.sparse={}", "device=cuda", key="device", value="cuda"),
    "sparse bf16": run(QMIX, "algo.sparse={}", "precision=bf16", key="precision", value="bf16"),
    "sparse compile": run(QMIX, "algo.sparse={}", "compile=true", key="compile", value="true"),
    "unknown device": run("device=gpu", key="device", value="gpu"),
    "deterministic respawn": run("deterministic=true", "topology.respawn=true", key="topology.respawn"),
    "deterministic ppo": run("deterministic=true", "algo.name=ppo", key="deterministic", value="ppo"),
    "videos without episodes": run("eval={episodes: 0, video_every: 1}", key="eval.video_every", value="0"),
    "evaluation without episodes": run(
        "eval={episodes: 0, every_updates: 5}", key="eval.episodes", value="0"
    ),
    "teams in a league": run("algo.teams=[[a]]", "league={}", key="algo.teams"),
    "all begun and ppo": run(
        "rounds={rule: rennala, admission: all_begun}", key="rounds.admission", value="all_begun"
    ),
    # topology.py
    "workers without environments": run(
        "topology={workers_per_actor: 20, environments_per_actor: 8}",
        key="topology.workers_per_actor",
        value="20",
    ),
    "kinds without workers": run("topology.workers=[{epsilon: 0.5}]", key="topology.workers"),
    "deadline of nothing": run(
        "topology={workers_per_actor: 2, deadline_milliseconds: 0}",
        key="topology.deadline_milliseconds",
        value="0",
    ),
    "batch beyond the environments": run(
        "topology={workers_per_actor: 2, batch: 17}", key="topology.batch", value="17"
    ),
    "batch in a deterministic run": run(
        "deterministic=true", "topology={workers_per_actor: 2, batch: 4}", key="topology.batch"
    ),
    "exploration without random actions": run(
        "topology={workers_per_actor: 2, workers: [{epsilon: 0.5}]}",
        key="topology.workers.0.epsilon",
    ),
    # rounds.py
    "critics of reinforce": run(
        "algo.name=reinforce", "optimizer.critic_step_size=0.1", key="optimizer.critic_step_size", value="0.1"
    ),
    "small malenia": run(
        "rounds={rule: malenia, batch: 1}", "topology.groups=3", key="rounds.batch", value="1"
    ),
    "afedpg sums": run("rounds={rule: afedpg, reduce: mpi}", key="rounds.reduce", value="mpi"),
    "all begun in sync": run("rounds.admission=all_begun", key="rounds.admission", value="all_begun"),
    # league.py and league_checks.py
    "evaluators alone": run("topology.evaluators=2", key="topology.evaluators", value="2"),
    "no range": run("league={score: return}", key="league.return_range", value="null"),
    "wrong range": run(
        "league={score: return, return_range: [3, 1]}", key="league.return_range", value="[3.0, 1.0]"
    ),
    "cooperative wins": run("league={cooperative: true}", key="league.cooperative", value="true"),
    "cooperative psro": run(
        "league={cooperative: true, score: return, return_range: [0, 1], matchmaking: {name: psro}}",
        key="league.matchmaking.name",
        value="psro",
    ),
    "opposed partners": run("league.matchmaking={name: partners}", key="league.matchmaking.name"),
    "shares above 1": run(
        "league.members.a.kind={name: main, pfsp_share: 0.9, verification_share: 0.2}",
        key="league.members.a.kind.pfsp_share",
        value="0.9",
    ),
    "least above most": run(
        "league.members.a.kind={name: main, freeze: {least_updates: 9, most_updates: 3}}",
        "algo.critic=independent",
        key="league.members.a.kind.freeze.least_updates",
        value="9",
    ),
    "psro with a panel": run(
        "league={matchmaking: {name: psro}, evaluation: {strategy: {name: panel}}}",
        key="league.matchmaking.name",
        value="panel",
    ),
    "league with AllReduce": run("league={}", "rounds.reduce=mpi", key="rounds.reduce", value="mpi"),
    "deterministic league": run("league={}", "deterministic=true", key="deterministic", value="true"),
    "league with respawn": run("league={}", "topology.respawn=true", key="topology.respawn", value="true"),
    "league until a return": run("league={}", "stop.return_mean=1", key="stop.return_mean", value="1"),
    "league of environments": run(
        "league={}", "topology.groups=[{}, {env: {max_steps: 3}}]", key="topology.groups.1.env"
    ),
    "self-play of opponents": run(
        "league={own_seats: 2, matchmaking: {name: latest}}", key="algo.critic", value="joint_observation"
    ),
    "self-play by values": run(
        "league={own_seats: 2, matchmaking: {name: latest}}", "algo.name=vdn", key="algo.name", value="vdn"
    ),
    "untrained without weights": run("league.members={a: {}, b: {trains: false}}", key="league.members.b"),
    "nothing to train": run("league.members={a: {trains: false, start: x.h5}}", key="league.members"),
    "more learners than members": run("league.members={a: {}}", "topology.groups=2", key="topology.groups"),
    # simulation.py
    "no end of a simulation": simulation(key="sim.stop", text="sim: {}\n"),
    "missing times": simulation("sim.compute_times=[1, 2]", key="sim.compute_times", value="2"),
    "no time": simulation("sim.compute_times={scale: 0}", key="sim.compute_times", value="0"),
    "no failure": simulation("sim.failures=[{repair: 3}]", key="sim.failures.0"),
    "two failures": simulation("sim.failures=[{at: 1, every: 3, repair: 3}]", key="sim.failures.0"),
    "no worker left": simulation("sim.failures=[{every: 3}]", key="sim.failures.0"),
    "unknown worker": simulation(
        "sim.failures=[{at: 1, workers: [99]}]", key="sim.failures.0.workers", value="99"
    ),
    "steps of nothing": simulation("sim.charge=step", key="sim.charge", value="step"),
    "steps and failures": simulation(
        "sim.charge=step", "sim.failures=[{at: 1, workers: [0]}]", key="sim.charge", value="step", text=PLAYED
    ),
    "tuning of nothing": simulation(TUNE, key="sim.sweep.tune", value="none"),
    "thresholds of nothing": simulation("sim.thresholds=[3]", key="sim.thresholds", value="none"),
    "shared seed": simulation(
        "objective.name=quadratics", TUNE, "seed=7", key="sim.sweep.tune.seeds", value="7"
    ),
    "critics of a formula": simulation(
        "optimizer={name: adam, critic_step_size: 0.1}", key="optimizer.critic_step_size", value="0.1"
    ),
    "critics of played reinforce": simulation(
        "optimizer.critic_step_size=0.1", key="optimizer.critic_step_size", value="reinforce", text=PLAYED
    ),
    "critic of states": simulation(
        "objective.algo={name: ma_trace, critic: state}",
        key="objective.algo.critic",
        value="state",
        text=PLAYED,
    ),
    "recurrent critic": simulation(
        "objective.algo={name: ma_trace, critic_network: {body: gru}}",
        key="objective.algo.critic_network.body",
        value="gru",
        text=PLAYED,
    ),
    "local steps of rennala": simulation(
        "sim.local_step_size=0.1",
        "rounds.rule=rennala",
        "objective.name=quadratics",
        key="sim.local_step_size",
    ),
    "local steps of nothing": simulation("sim.local_step_size=0.1", key="sim.local_step_size", value="0.1"),
    "local steps charged": simulation(
        "sim={stop: {time: 3}, local_step_size: 0.1, charge: step}", key="sim.local_step_size", text=PLAYED
    ),
    "environment of a worker": simulation(
        "objective.workers=[{env: {max_steps: 0}}]",
        key="objective.workers.0.env.max_steps",
        value="0",
        text=PLAYED,
    ),
    "key of a worker": simulation(
        "objective.workers=[{}, {env: {kwarg: 1}}]", key="objective.workers.1.env.kwarg", text=PLAYED
    ),
    "arguments of a worker": simulation(
        "objective.workers=[{env: {kwargs: 3}}]", key="objective.workers.0.env.kwargs", value="3", text=PLAYED
    ),
    # preset_layer.py
    "unknown preset": run("preset=mapo", key="preset", value="mapo"),
    "preset of no sense": run("preset=[1]", key="preset", value="[1]"),
    "preset of another algorithm": run("preset=qmix", "algo.name=coma", key="algo.name", value="coma"),
    "preset of a simulation": simulation("preset=qmix", key="preset", value="qmix"),
    # tree.py
    "no override": run("foo", key="foo"),
    "key of a number": run("seed.x=1", key="seed.x", value="0", text=RUN + "seed: 0\n"),
    "item too far": run("topology.groups.4.actors=1", key="topology.groups.4.actors", value="4"),
    "item of nothing": run(
        "topology.groups.0.actors=1", key="topology.groups", text=RUN + "topology: {groups: []}\n"
    ),
    # file.py
    "nothing": run(key="env.id", text="# empty\n"),
    "a list": run(key="env:", text="- 1\n"),
    "a text": run(key="env:", text="only\nwords\n"),
    "simulation as a run": run(key="sim", text=SIMULATION),
    "run as a simulation": simulation(key="sim", text=RUN),
    "deep": run(key="", text="[" * 20_000 + "\n"),
    "number as a policy": run("policies={1: {agents: [x]}}", key="policies.1", value="1"),
    "name of a policy": run("policies={'a b': {agents: [x]}}", key="policies.a b", value="'a b'"),
    "long name": run(f"league.members={{{'a' * 70}: {{}}}}", key="league.members.aaa"),
    "required but empty": run("env.id=null", key="env.id"),
    "empty on the command line": run("seed=null", key="seed"),
    "empty section on the command line": run("policies=null", key="policies"),
    "empty section": run(key="topology", text=RUN + "topology:\n"),
    "choice without a name": run("league.matchmaking={rate: 1}", key="league.matchmaking.name"),
    "preset as an algorithm": run("algo.name=mappo", key="algo.name", value="mappo"),
    "several": run("seed=-1", "rounds.batch=0", key="seed", value="-1"),
    "text for a section": run(key="env", value="a.b", text="env: a.b\nstop: {updates: 3}\n"),
    "key of another choice": run(
        "league={matchmaking: {name: latest, rate: 3}}", key="league.matchmaking.rate", value="3"
    ),
    "renamed key": run("env.past_restarts=stop", key="env.past_restarts", value="stop"),
    "renamed value": run("topology.placement=apart", key="topology.placement", value="apart"),
    "dotted key": run(key="env.id", text=RUN + "env.id: x\n"),
    "key of another algorithm": run("algo={name: reinforce, unroll: 3}", key="algo.unroll", value="3"),
    "key of a group": run("topology.groups=[{env: {kwarg: 1}}]", key="topology.groups.0.env.kwarg"),
    "value of a group": run(
        "topology.groups=[{env: {kind: x}}]", key="topology.groups.0.env.kind", value="x"
    ),
    # yaml_text.py
    "alias": run(key="", value="*x", text="env: &x {id: a}\nstop: *x\n"),
    "no space": run("env.kwargs={size:9}", key="env.kwargs", value="{size:9}"),
    "duplicate": run(key="", value="'seed'", text="seed: 1\nseed: 2\n"),
    "syntax": run(key="", text="env: [\n"),
    "control character": run(key="", text="a: \x07\n"),
    "thousands of digits": run(key="", text="seed: " + "9" * 5000 + "\n"),
    "large text": run(key="", text="# " + "x" * (1 << 20) + "\n"),
}


# text of a sweep -> key or value that the message names, and a part of it
SWEEPS = {
    "[]\n": ("a list", "a sweep needs parameters"),
    "parameters: {}\n": ("parameters", "empty; write at least one key"),
    "parameters: {seed: [1]}\n": ("parameters.seed", "use seeds: N"),
    "parameters: {a: []}\n": ("parameters.a", "an empty list"),
    "parameters: {a: {low: 1, high: 2}}\n": ("parameters.a", "search: grid needs a list"),
    "parameters: {a: [1]}\ntrials: 3\n": ("trials", "search: grid tries all combinations"),
    "search: random\nparameters: {a: [1]}\n": ("trials", "random needs the number of draws"),
    "search: optuna\ntrials: 3\nseeds: 2\nparameters: {a: [1]}\n": ("seeds: 2", "with search: optuna"),
    "search: random\ntrials: 3\nparameters: {a: {low: 2, high: 1}}\n": ("low: 2", "is not below high: 1"),
    "search: random\ntrials: 3\nparameters: {a: {low: 0, high: 1, log: true}}\n": ("low: 0", "a low above 0"),
    "search: random\ntrials: 3\nparameters: {a: {low: 0, high: 1, step: 2}}\n": ("step: 2", "above 0"),
    "search: random\ntrials: 3\nparameters: {a: {low: 1, high: 2, step: 1, log: true}}\n": (
        "step",
        "exclude",
    ),
    "search: random\ntrials: 9000000\nparameters: {a: [1]}\n": ("9,000,000", "at most 100,000"),
    "parameters: {a: [1]}\nparalel: 2\n": ("paralel", "parallel"),
    "parameters: {a: [1]}\ngoal: biggest\n": ("goal", "'biggest'"),
    "parameters: {a: [1]}\nprune: {checks: 0}\n": ("prune.checks", "is 0"),
}


def sweep_message(folder: Path, text: str) -> str:
    path = folder / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_sweep(path)
    return str(raised.value)


@pytest.mark.parametrize("text", SWEEPS)
def test_message_about_a_sweep_names_key_and_remedy(tmp_path: Path, text: str) -> None:
    assert_plain(sweep_message(tmp_path, text), *SWEEPS[text])


def message(case: Case) -> str:
    with pytest.raises(ConfigError) as raised:
        case.load(case.text, case.overrides)
    return str(raised.value)


def assert_plain(text: str, key: str, value: str) -> None:
    """Check the pattern of one message."""
    assert text.isprintable()
    assert text == " ".join(text.split())
    assert len(text) <= LONGEST
    assert re.match(r"(command line|configuration text|/)[^:]*: ", text), text
    assert key in text
    assert value in text
    assert REMEDY.search(text), text
    assert not BANNED.search(text), text
    assert not text.endswith((".", ";", ",", " "))


@pytest.mark.parametrize("name", CASES)
def test_message_names_key_value_and_remedy(name: str) -> None:
    assert_plain(message(CASES[name]), CASES[name].key, CASES[name].value)


def test_common_reward_of_a_constant_sum_game_is_refused() -> None:
    league = "league={own_seats: 2, cooperative: true, score: return, return_range: [0, 1]}"
    config = load_config(RUN, [league, "league.matchmaking={name: latest}"])
    assert not self_play_contradictions(config)
    [line] = self_play_contradictions(config, constant_sum=True)
    assert_plain(f"command line: {line}", "algo.critic", OF_THE_GAME)


def files_with_mistakes(folder: Path) -> dict[str, Path]:
    (folder / "large.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    everything = folder / "everything.yaml"
    everything.write_text(
        hpcmarl.config.file.dump_config(load_config(None, ["env.id=a.b", "stop.updates=3", "preset=ippo"]))
    )
    return {
        "no such file": folder / "none.yaml",
        "a directory": folder,
        "larger than": folder / "large.yaml",
        "cannot be read": folder / "null\0byte.yaml",
    }


@cache
def crafted_messages() -> tuple[str, ...]:
    return tuple(message(case) for case in CASES.values())


def file_messages(folder: Path) -> dict[str, str]:
    """Messages about files, by a part of each."""
    found = {part: message(run(key="", text=path)) for part, path in files_with_mistakes(folder).items()}
    found["has no effect"] = message(run("preset=ippo", key="", text=folder / "everything.yaml"))
    return found


def test_messages_about_files_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    for part, text in file_messages(tmp_path).items():
        assert part in text
        if "\0" not in text:
            assert_plain(text, "" if part == "has no effect" else str(tmp_path), "")


def test_presets_are_refused_by_the_model_itself() -> None:
    with pytest.raises(ValidationError, match=OF_THE_MODEL):
        Config(preset="mappo", env={"id": "a.b"}, stop={"updates": 3})


# --- messages of every key, generated from the schema ---

ROOTS: dict[str, tuple[type[BaseModel], dict[str, Any], Callable[..., Any]]] = {
    "run": (Config, {"env": {"id": "a.b"}, "stop": {"updates": 3}}, load_config),
    "simulation": (SimulationConfig, {"sim": {"stop": {"time": 3}}}, load_simulation),
}
# Values of the other required keys of the section with the mistake.
REQUIRED = {"id": "a.b", "agents": ["x"], "seeds": [7], "grid": {"seed": [1]}, "env": {"id": "a.b"}}
WRONG_TYPES = ({"x": 1}, 3, "nonsense", [[]])


def place_of(key: str) -> Place:
    names = {"<name>": "a", "0": 0}
    return tuple(names.get(part, part) for part in key.split("."))


def dotted(place: Place) -> str:
    return ".".join(map(str, place))


def with_value(kind: str, place: Place, value: Any, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a configuration that is valid except for the value at a place.

    Sections on the way to the place get names that have the next key.
    """
    root, base, _ = ROOTS[kind]
    data = copy.deepcopy(base)
    node: Any = data
    for depth, part in enumerate(place):
        section = place[:depth]
        names = keys.choices_at(section, data, root) if isinstance(node, dict) else []
        for name in sorted(names, key=lambda name: name not in only):
            node["name"] = name
            if part in keys.keys_at(section, data, root):
                break
        for key in keys.keys_at(section, data, root) if isinstance(node, dict) else []:
            field = keys.field_of((*section, key), data, root)
            if field is not None and field.is_required() and key != part:
                node.setdefault(key, REQUIRED.get(key))
        if depth == len(place) - 1:
            node[part] = value
        elif isinstance(node, dict):
            node = node.setdefault(part, [{}] if isinstance(place[depth + 1], int) else {})
        else:
            node = node[part]
    return data


def refusal(kind: str, data: dict[str, Any]) -> str:
    """Return the message about a configuration; empty if it is valid."""
    text = "".join(f"{key}: {inline(value)}\n" for key, value in data.items())
    try:
        ROOTS[kind][2](text + "\n")
    except ConfigError as error:
        return str(error)
    return ""


def bad_values(allowed: str) -> Iterator[Any]:
    """Yield values just outside the bounds that a row of the schema states."""
    for sign, bound in re.findall(r"(>=|<=|>|<) (-?[0-9.]+)", allowed):
        number = float(bound) if "." in bound else int(bound)
        value = number + {">=": -1, ">": 0, "<=": 1, "<": 0}[sign]
        yield [value] if allowed.startswith("a list") else value
    if allowed.startswith("one of"):
        yield "nonsense"
    for each, limit, count, unit in re.findall(
        r"(each with )?at (least|most) (\d+) (item|character)", allowed
    ):
        number = int(count) + (1 if limit == "most" else -1)
        value = ["x" if "text" in allowed else 1] * number if unit == "item" else "x" * number
        yield [value] if each else value


def rows(kind: str) -> list[keys.KeyRow]:
    return keys.schema_rows(ROOTS[kind][0])


@pytest.mark.parametrize("kind", ROOTS)
class TestEveryKey:
    def test_description_is_a_plain_phrase(self, kind: str) -> None:
        for row in rows(kind):
            assert row.description, row.key
            assert "\n" not in row.description
            assert not row.description.endswith((".", ";", ","))
            assert not BANNED.search(row.description), row

    def test_wrong_type_names_key_value_and_allowed_values(self, kind: str) -> None:
        for row in rows(kind):
            place = place_of(row.key)
            if "any value" in row.allowed:
                continue
            for value in WRONG_TYPES:
                text = refusal(kind, with_value(kind, place, value, row.only))
                if f"{dotted(place)} is {show(value)}; allowed: " in text:
                    assert_plain(text, dotted(place), show(value))
                    break
            else:
                raise AssertionError(f"no message about the type of {row.key}")

    def test_out_of_range_names_key_value_and_allowed_values(self, kind: str) -> None:
        for row in rows(kind):
            place = place_of(row.key)
            for value in bad_values(row.allowed):
                text = refusal(kind, with_value(kind, place, value, row.only))
                single = value[0] if isinstance(value, list) and len(value) == 1 else value
                assert_plain(text, dotted(place), "")
                assert f" is {show(value)}; allowed: " in text or f" is {show(single)}; allowed: " in text, (
                    text
                )

    def test_empty_value_names_key_and_allowed_values(self, kind: str) -> None:
        for row in rows(kind):
            place = place_of(row.key)
            text = refusal(kind, with_value(kind, place, None, row.only))
            if "null" not in row.allowed:
                assert_plain(text, f"{dotted(place)} is empty; allowed: ", "")

    def test_missing_key_names_allowed_values(self, kind: str) -> None:
        for row in rows(kind):
            if row.default == "required" and not row.key.endswith(".name"):
                place = place_of(row.key)
                data = with_value(kind, place, None, row.only)
                node: Any = data
                for part in place[:-1]:
                    node = node[part]
                del node[place[-1]]
                assert_plain(refusal(kind, data), f"{dotted(place)} is missing; allowed: ", "")

    def test_unknown_key_names_value_and_valid_keys(self, kind: str) -> None:
        root = ROOTS[kind][0]
        siblings = {(place_of(row.key)[:-1], row.only): row for row in reversed(rows(kind))}
        for (section, only), row in siblings.items():
            *_, last = place = place_of(row.key)
            data = with_value(kind, place, "x", only)
            node: Any = data
            for part in section:
                node = node[part]
            del node[last]
            node["nonsense_key"] = 1
            if last == "name" and section:
                node["name"] = keys.choices_at(section, data, root)[0]
            elif row.default == "required":
                node[last] = REQUIRED[last]
            text = refusal(kind, data)
            assert_plain(text, f"unknown key {dotted((*section, 'nonsense_key'))} (value 1); ", "")
            assert "allowed here" in text


def test_every_field_has_a_description() -> None:
    """The `name` of a choice needs no description.

    The schema shows the first lines of the choice's members instead.
    """

    def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
        for each in model.__subclasses__():
            yield each
            yield from models(each)

    for model in models(hpcmarl.config.base.Section):
        for name, field in model.model_fields.items():
            if name != "name" or model in (Config, SimulationConfig):
                assert field.description, f"{model.__name__}.{name}"


# --- completeness: every message in the sources has a case ---

SOURCES = sorted(Path(hpcmarl.config.__file__).parent.glob("*.py"))
Function = ast.FunctionDef


class MessageReader:
    """Find the texts of all messages in a module of the configuration.

    A message is the argument of a raised error, or an entry of the list that a function annotated
    `-> list[str]` returns. keys.py returns lists of keys, not of messages.

    Attributes:
        patterns: Line and regular expression of each text; formatted values match anything.
        unreadable: Lines of messages without any text that could be found.
    """

    def __init__(self, source: str, *, lists: bool = True) -> None:
        self.patterns: list[tuple[int, str]] = []
        self.unreadable: list[int] = []
        self._module = ast.parse(source)
        functions = [node for node in ast.walk(self._module) if isinstance(node, Function)]
        self._functions = {function.name: function for function in functions}
        for function in functions:
            for expression in self._messages(function, lists):
                before = len(self.patterns)
                self._visited: set[ast.AST] = set()
                self._read(expression, function)
                if len(self.patterns) == before and not self._is_loop_variable(expression, function):
                    self.unreadable.append(expression.lineno)

    def _messages(self, function: Function, lists: bool) -> Iterator[ast.expr]:
        returns_lines = (
            lists and function.returns is not None and ast.unparse(function.returns) == "list[str]"
        )
        for node in ast.walk(function):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = ast.unparse(node.exc.func)
                arguments = [each for each in node.exc.args if ast.unparse(each) != "None"]
                if name.endswith("Error") and arguments:
                    yield arguments[0]
            if not returns_lines:
                continue
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "found.append":
                yield node.args[0]
            if isinstance(node, ast.List):
                yield from node.elts
            if isinstance(node, ast.ListComp) and isinstance(node.elt, ast.JoinedStr | ast.Constant):
                yield node.elt

    def _is_loop_variable(self, expression: ast.expr, function: Function) -> bool:
        targets = [ast.unparse(node.target) for node in ast.walk(function) if isinstance(node, ast.For)]
        return ast.unparse(expression) in targets

    def _read(self, node: ast.expr, function: Function) -> None:
        """Collect the texts of an expression, of the variables in it and of the functions that it calls."""
        if node in self._visited:
            return
        self._visited.add(node)
        if isinstance(node, ast.JoinedStr):
            parts = [each.value if isinstance(each, ast.Constant) else None for each in node.values]
            self._keep(node, parts)
            for each in node.values:
                if isinstance(each, ast.FormattedValue):
                    self._read(each.value, function)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            self._keep(node, [node.value])
        elif isinstance(node, ast.IfExp):
            self._read(node.body, function)
            self._read(node.orelse, function)
        elif isinstance(node, ast.BinOp):
            self._read(node.left, function)
            self._read(node.right, function)
        elif isinstance(node, ast.Name):
            for scope in (function, self._module):
                for each in ast.walk(scope) if scope is function else scope.body:
                    if isinstance(each, ast.Assign | ast.AugAssign):
                        target = each.targets[0] if isinstance(each, ast.Assign) else each.target
                        if ast.unparse(target) == node.id:
                            self._read(each.value, function)
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in self._functions:
                called = self._functions[node.func.id]
                for each in ast.walk(called):
                    if isinstance(each, ast.Return) and each.value is not None:
                        self._read(each.value, called)
            elif ast.unparse(node.func) == "' '.join":  # " ".join(text.split())
                inner = node.args[0]
                if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
                    self._read(inner.func.value, function)

    def _keep(self, node: ast.expr, parts: list[str | None]) -> None:
        if re.search(r"[a-z]{2}", "".join(part or "" for part in parts)):
            text = " ".join("".join(part or "\0" for part in parts).split())
            self.patterns.append((node.lineno, ".*".join(map(re.escape, text.split("\0")))))


def test_every_message_of_the_sources_has_a_case(tmp_path: Path) -> None:
    of_sweeps = [sweep_message(tmp_path, text) for text in SWEEPS]
    messages = [*crafted_messages(), *file_messages(tmp_path).values(), *of_sweeps, OF_THE_MODEL, OF_THE_GAME]
    missing: list[str] = []
    count = 0
    for path in SOURCES:
        reader = MessageReader(path.read_text(), lists=path.name != "keys.py")
        missing += [f"{path.name}:{line}: cannot read the message" for line in reader.unreadable]
        count += len(reader.patterns)
        missing += [
            f"{path.name}:{line}: no case gives {pattern}"
            for line, pattern in reader.patterns
            if not any(re.search(pattern, each) for each in messages)
        ]
    assert not missing, "\n".join(missing)
    assert count > 80


EXAMPLE = """
WORDS = "a constant text"
def checks(a) -> list[str]:
    found = [f"first {a}: one" for each in a if each]
    if a:
        found.append("second" + " and third")
    found += [(f"fourth {a}" if a else "fifth")]
    return found
def helper(a):
    said = f"sixth {a}"
    said += "; seventh"
    return f"{said} eighth"
def fails(a):
    if a:
        raise ConfigError(helper(a))
    if not a:
        raise ConfigError(f"{a}: {WORDS}")
    for each in checks(a):
        raise ValueError(each)
    raise ConfigError(a)
"""


def test_the_reader_of_messages_finds_all_texts() -> None:
    reader = MessageReader(EXAMPLE)
    text = " ".join(pattern for _, pattern in reader.patterns)
    for word in ("first", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "constant"):
        assert word in text
    assert [EXAMPLE.splitlines()[line - 1].strip() for line in reader.unreadable] == ["raise ConfigError(a)"]
