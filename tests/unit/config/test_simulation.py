"""Configurations of simulations: accepted values, expansion of sweeps, and one-line messages."""

import pytest

from hpcmarl.config.file import dump_config, load_config, load_either, load_simulation, vary
from hpcmarl.config.keys import schema_rows
from hpcmarl.config.simulation import SimulationConfig
from hpcmarl.config.sweep import candidates, cases
from hpcmarl.errors import ConfigError

BASE = "sim: {stop: {rounds: 3}}\n"
SWEEP = """
objective: {name: quadratics}
sim:
  workers: 4
  stop: {rounds: 3}
  sweep:
    settings: {slow: {sim.compute_times: 5}, fast: {sim.compute_times: 1, optimizer.name: sgd}}
    methods: {sync: {rounds.rule: sync}, rennala: {rounds.rule: rennala, rounds.batch: [4, 8]}}
"""

REFUSED = {
    "a worker's time": (
        "sim.compute_times=0",
        ["sim.compute_times is 0", "a number > 0 or a list of numbers > 0 or one of constant, sqrt"],
    ),
    "zero by law": ("sim.compute_times={scale: 0}", ["sim.compute_times is 0 for a worker"]),
    "negative delay": ("sim.communication_times=-1", ["sim.communication_times is -1", "a number >= 0"]),
    "negative delay in a list": (
        "sim.communication_times=[0, -1]",
        ["sim.communication_times.1 is -1", ">= 0"],
    ),
    "negative delay in a law": (
        "sim.communication_times={law: sqrt, scale: -1}",
        ["sim.communication_times.scale is -1", ">= 0"],
    ),
    "unknown law": ("sim.compute_times=sqart", ["'sqart'", "one of constant, sqrt, linear, random"]),
    "key of a law": (
        "sim.compute_times={lw: sqrt}",
        ["unknown key sim.compute_times.lw", "did you mean sim.compute_times.law?"],
    ),
    "too few times": ("sim.compute_times=[1, 2]", ["2 values for 10 workers"]),
    "afedpg by AllReduce": (
        "rounds={rule: afedpg, reduce: mpi}",
        ["rounds.reduce: mpi does not work with rounds.rule: afedpg", "reduce: server"],
    ),
    "malenia with few": ("rounds={rule: malenia, batch: 9}", ["rounds.batch: 9 is less than the 10 workers"]),
    "momentum": ("optimizer={name: nigt, momentum: 1.01}", ["optimizer.momentum is 1.01", "> 0 and <= 1"]),
    "no momentum": ("optimizer={name: nigt, momentum: 0}", ["optimizer.momentum is 0"]),
    "critic of nobody": (
        "optimizer.critic_step_size=1",
        ["optimizer.critic_step_size: 1.0 is for critics", "which objective.name: none does not have"],
    ),
    "no end": ("sim.stop={}", ["sim.stop is empty"]),
    "failure without a time": ("sim.failures=[{repair: 3}]", ["sim.failures.0 has neither at nor every"]),
    "everybody fails for good": ("sim.failures=[{every: 3}]", ["would stop every worker forever"]),
    "worker that is none": ("sim.failures=[{at: 1, workers: [10]}]", ["names 10", "from 0 to 9"]),
    "tuning without an objective": (
        "sim.sweep.tune={seeds: [7], grid: {optimizer.step_size: [1]}}",
        ["compares values of the objective", "set objective.name"],
    ),
    "section of a run": ("env.id=a.b", ["unknown key env"]),
}


def refusal(function, *arguments):
    with pytest.raises(ConfigError) as raised:
        function(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(("override", "parts"), REFUSED.values(), ids=REFUSED.keys())
def test_simulation_config_errors_name_key_and_remedy(override, parts):
    line = refusal(load_simulation, BASE, [override])
    for part in parts:
        assert part in line


def test_run_and_simulation_configs_are_distinguished():
    assert "use hpcmarl simulate" in refusal(load_config, BASE)
    assert "use hpcmarl train" in refusal(load_simulation, "env: {id: a.b}\nstop: {updates: 3}\n")
    assert isinstance(load_either(BASE), SimulationConfig)
    assert "rounds.batch: 1 is less than the 2 groups" in refusal(
        load_config,
        "env: {id: a}\nstop: {updates: 1}\n",
        ["topology.groups=2", "rounds={rule: malenia, batch: 1}"],
    )


def test_afedpg_and_allreduce_exclude_each_other_in_a_run():
    assert "nothing is summed" in refusal(
        load_config, "env: {id: a}\nstop: {updates: 1}\nrounds: {rule: afedpg, reduce: mpi}\n"
    )


@pytest.mark.parametrize(
    ("given", "long"),
    [
        ("2.5", {"scale": 2.5}),
        ("sqrt", {"law": "sqrt"}),
        ("[1, 2]", {"values": (1.0, 2.0)}),
        ("{law: linear, noise: exponential}", {"law": "linear"}),
    ],
)
def test_short_forms_of_times_are_accepted(given, long):
    times = load_simulation(BASE, ["sim.workers=2", f"sim.compute_times={given}"]).times("compute_times")
    assert {key: getattr(times, key) for key in long} == long


def test_default_batch_depends_on_the_rule():
    assert load_simulation(BASE, ["rounds.rule=rennala"]).batch == 10
    assert load_simulation(BASE, ["rounds.rule=afedpg"]).batch == 1
    assert load_simulation(BASE, ["rounds.batch=3"]).batch == 3


def test_dump_then_load_gives_an_equal_configuration():
    for text in (BASE, SWEEP):
        config = load_simulation(text, ["sim.compute_times={law: random}"])
        assert load_simulation(dump_config(config)) == config


class TestSweeps:
    def test_sweep_expands_settings_methods_and_batches(self):
        found = cases(load_simulation(SWEEP))
        assert [(case.setting, case.method, case.batch) for case in found] == [
            (setting, *rest)
            for setting in ("slow", "fast")
            for rest in (("sync", None), ("rennala", 4), ("rennala", 8))
        ]
        assert [case.config.sim.compute_times for case in found] == [5, 5, 5, 1, 1, 1]
        assert [case.config.optimizer.name for case in found] == ["nigt"] * 3 + ["sgd"] * 3
        assert [case.config.rounds.batch for case in found] == [None, 4, 8] * 2
        assert found[-1].label == "rennala M=8"

    def test_without_a_sweep_there_is_one_case(self):
        (case,) = cases(load_simulation(BASE, ["rounds.rule=malenia"]))
        assert (case.setting, case.method, case.batch) == ("default", "malenia", None)

    def test_overrides_apply_to_every_case_of_a_sweep(self):
        fixed = ["sim.compute_times.scale=2", "rounds.batch=6", "optimizer.name=adam"]
        config = load_simulation(SWEEP, ["sim.compute_times={law: sqrt}", *fixed])
        found = cases(config, ["sim.compute_times", "rounds.batch", "optimizer.name"])
        assert [(case.method, case.batch) for case in found] == [("sync", None), ("rennala", 6)] * 2
        assert {
            (case.config.times("compute_times").scale, case.config.rounds.batch, case.config.optimizer.name)
            for case in found
        } == {(2, 6, "adam")}

    def test_errors_name_the_case_of_the_sweep(self):
        config = load_simulation(SWEEP, ["sim.sweep.methods={bad: {rounds.rule: malenia, rounds.batch: 3}}"])
        assert refusal(cases, config).startswith("sim.sweep, slow, bad: rounds.batch: 3 is less than")
        config = load_simulation(SWEEP, ["sim.sweep.methods={bad: {rounds.bach: 3}}"])
        assert "sim.sweep, slow, bad: unknown key rounds.bach" in refusal(cases, config)

    def test_candidates_are_all_combinations(self):
        grid = "{optimizer.step_size: [1, 2], optimizer.momentum: [0.1, 0.2, 0.3]}"
        config = load_simulation(SWEEP, [f"sim.sweep.tune={{seeds: [9], grid: {grid}}}"])
        found = [
            (changes["optimizer.step_size"], candidate.optimizer.momentum)
            for changes, candidate in candidates(config)
        ]
        assert found == [(step, momentum) for step in (1, 2) for momentum in (0.1, 0.2, 0.3)]
        assert len(list(candidates(config, ["optimizer.momentum"]))) == 2
        assert list(candidates(load_simulation(SWEEP))) == []

    def test_tuning_on_the_seeds_of_the_results_is_refused(self):
        tune = "sim.sweep.tune={seeds: [9, 3], grid: {optimizer.step_size: [1]}}"
        assert "use other seeds" in refusal(load_simulation, SWEEP, [tune, "sim.sweep.seeds=[1, 2, 3]"])
        assert "use other seeds" in refusal(load_simulation, SWEEP, [tune, "seed=9"])


def test_vary_changes_only_the_given_keys():
    config = load_simulation(SWEEP, ["seed=4"])
    assert vary(config, {}, "here") == config
    changed = vary(config, {"sim.workers": 7}, "here")
    assert changed.sim.workers == 7
    assert changed.model_copy(update={"sim": config.sim}) == config
    assert refusal(vary, config, {"sim.workers": 0}, "here").startswith("here: sim.workers is 0")


def test_the_schema_lists_short_forms_and_long_ones():
    rows = {row.key: row for row in schema_rows(SimulationConfig)}
    assert rows["sim.compute_times"].allowed.startswith(
        "a number > 0 or a list of numbers > 0 or one of constant, sqrt, linear, random or a section"
    )
    assert {"sim.compute_times.law", "sim.failures.0.every", "objective.name", "rounds.rule"} <= rows.keys()
    assert "env.id" not in rows
