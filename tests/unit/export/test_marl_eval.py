"""Returns of runs in the layout of marl-eval."""

import json

import pytest

from hpcmarl.errors import FormatError, UsageError
from hpcmarl.export.marl_eval import LabelledRun, marl_eval_tree


def made_run(place, env, rows, final=None):
    """Write the files of a run; rows are (env_steps, return_mean, eval_version, eval_return_mean)."""
    place.mkdir()
    (place / "config.yaml").write_text(f"env: {{id: '{env}'}}\nstop: {{updates: 1}}\n")
    lines = ["version,seconds,env_steps,return_mean,eval_version,eval_return_mean"]
    for number, (steps, *values) in enumerate(rows):
        lines.append(",".join(map(str, (number, number * 1.5, steps, *values))))
    (place / "metrics.csv").write_text("\n".join(lines) + "\n")
    if final is not None:
        (place / "summary.json").write_text(json.dumps({"evaluation": {"return_mean": final}}))
    return place


def test_runs_of_a_task_share_their_steps(tmp_path):
    """The second run starts later; the first one ends earlier and repeats an evaluation in its rows."""
    evaluated = [(0, 0, 0, 1.0), (50, 0, 0, 1.0), (100, 0, 2, 3.0), (200, 0, 4, 5.0)]
    first = made_run(tmp_path / "a", "smax:3m", evaluated, final=6.0)
    second = made_run(
        tmp_path / "b", "smax:3m", [(40, -2.0, "", ""), (120, -1.0, "", ""), (400, 0.0, "", "")]
    )
    tree = marl_eval_tree([LabelledRun("qmix", 0, first), LabelledRun("mappo", 3, second)], points=5)
    assert list(tree) == ["smax"]
    assert list(tree["smax"]["3m"]) == ["qmix", "mappo"]
    own, other = tree["smax"]["3m"]["qmix"]["seed_0"], tree["smax"]["3m"]["mappo"]["seed_3"]
    assert own["absolute_metrics"] == {"return": [6.0]}
    assert other["absolute_metrics"] == {"return": [0.0]}
    names = [f"step_{number}" for number in range(1, 6)]
    assert [*own] == [*other] == [*names, "absolute_metrics"]
    assert [own[name]["step_count"] for name in names] == [40, 80, 120, 160, 200]
    assert [other[name]["step_count"] for name in names] == [40, 80, 120, 160, 200]
    assert [own[name]["return"] for name in names] == [[1.0], [1.0], [3.0], [3.0], [5.0]]
    assert [other[name]["return"] for name in names] == [[-2.0], [-2.0], [-1.0], [-1.0], [-1.0]]


def test_environments_are_split_into_suite_and_task(tmp_path):
    runs = [
        LabelledRun("ppo", 0, made_run(tmp_path / str(number), env, [(10, 1.0, "", "")]))
        for number, env in enumerate(["mpe2.simple_spread_v3", "own.games:Echo", "plain"])
    ]
    tree = marl_eval_tree(runs)
    assert {env: list(tasks) for env, tasks in tree.items()} == {
        "mpe2": ["simple_spread_v3"],
        "own.games": ["Echo"],
        "plain": ["plain"],
    }


def test_runs_without_returns_or_with_one_name_are_refused(tmp_path):
    run = made_run(tmp_path / "a", "smax:3m", [(10, 1.0, "", "")])
    with pytest.raises(UsageError, match="is also qmix with seed 0; export them separately"):
        marl_eval_tree([LabelledRun("qmix", 0, run), LabelledRun("qmix", 0, run)])
    empty = made_run(tmp_path / "b", "smax:3m", [(10, "", "", "")])
    with pytest.raises(FormatError, match="train until an episode has ended"):
        marl_eval_tree([LabelledRun("qmix", 0, empty)])
