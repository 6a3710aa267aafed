"""The file of a sweep: what it may hold, and how mistakes are named."""

import pytest

from hpcmarl.config.file import load_sweep
from hpcmarl.errors import ConfigError


def load(tmp_path, text):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return load_sweep(path)


def test_grid_counts_combinations_and_seeds(tmp_path):
    sweep = load(
        tmp_path, "parameters: {optimizer.step_size: [0.1, 0.2, 0.3], algo.unroll: [1, 2]}\nseeds: 4\n"
    )
    assert (sweep.points, sweep.count) == (6, 24)
    assert (sweep.search, sweep.goal, sweep.metric) == ("grid", "maximise", "eval_return_mean")


def test_ranges_of_integers_stay_integers(tmp_path):
    text = "search: random\ntrials: 3\nparameters: {a: {low: 1, high: 9}, b: {low: 1, high: 9.5}}\n"
    sweep = load(tmp_path, text)
    assert [each.whole for each in sweep.parameters.values()] == [True, False]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]\n", "holds a list; a sweep needs parameters"),
        ("parameters: {}\n", "parameters: empty; name at least one key"),
        ("parameters: {seed: [1]}\n", "parameters.seed: use seeds: N"),
        ("parameters: {a: []}\n", "parameters.a: an empty list"),
        ("parameters: {a: {low: 1, high: 2}}\n", "parameters.a: a range, and search: grid needs a list"),
        ("parameters: {a: [1]}\ntrials: 3\n", "trials: search: grid tries all combinations"),
        ("search: random\nparameters: {a: [1]}\n", "trials: search: random needs the number of draws"),
        ("search: optuna\ntrials: 3\nseeds: 2\nparameters: {a: [1]}\n", "seeds: 2 with search: optuna"),
        ("search: random\ntrials: 3\nparameters: {a: {low: 2, high: 1}}\n", "low: 2 is not below high: 1"),
        (
            "search: random\ntrials: 3\nparameters: {a: {low: 0, high: 1, log: true}}\n",
            "allowed: a low above 0",
        ),
        (
            "search: random\ntrials: 3\nparameters: {a: {low: 0, high: 1, step: 2}}\n",
            "step: 2; allowed: above 0",
        ),
        ("search: random\ntrials: 9000000\nparameters: {a: [1]}\n", "allowed: at most 100,000"),
        ("parameters: {a: [1]}\nparalel: 2\n", "unknown key paralel"),
        ("parameters: {a: [1]}\ngoal: biggest\n", "goal is 'biggest'"),
        ("parameters: {a: [1]}\nprune: {checks: 0}\n", "prune.checks is 0"),
    ],
    ids=lambda value: value if value.islower() else None,
)
def test_mistakes_in_a_sweep_are_one_line(tmp_path, text, words):
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text)
    assert words in str(raised.value)
    assert "sweep.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)
