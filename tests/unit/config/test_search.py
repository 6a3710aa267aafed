"""The file of a sweep. Its mistakes are cases of test_messages.py."""

from hpcmarl.config.file import load_sweep


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
