"""Run directories with chosen content, as a finished or running training leaves them."""

import json
from dataclasses import asdict

import numpy as np

from hpcmarl.io.activity import ACTIVITIES, ActivityFile, activity_path
from hpcmarl.io.metrics_writer import MetricsWriter
from hpcmarl.io.starts import Start

CONFIG = """name: {name}
seed: {seed}
env: {{id: mpe2.simple_spread_v3}}
algo: {{name: ma_trace}}
optimizer: {{name: adam, step_size: {step_size}}}
rounds: {{rule: rennala, batch: 8}}
stop: {{updates: 1000}}
"""
RANKS = ("server+evaluator (n1)", "learner (n1)", "actor (n1)", "actor (n2)")


def make_run(
    directory, *, seed=0, step_size=0.001, name="made", rows=50, shift=0.0, ranks=RANKS, summary=True
):
    """Write a run of `rows` metrics rows, with a return that rises from `shift` to `shift` + 1."""
    (directory / "starts").mkdir(parents=True)
    (directory / "config.yaml").write_text(CONFIG.format(name=name, seed=seed, step_size=step_size))
    facts = {"created": "2026-01-02T03:04:05+00:00", "host": "n1", "ranks": len(ranks)}
    (directory / "starts" / "start-0001.json").write_text(json.dumps(asdict(Start(1, facts=facts))))
    activity = ActivityFile(activity_path(directory, 1), ranks, {})
    writer = MetricsWriter(directory, activity=activity)
    for row in range(rows):
        writer.append(
            {
                "version": row + 1,
                "seconds": 2.0 * (row + 1),
                "env_steps": 1000.0 * (row + 1),
                "env_steps_per_second": 500.0,
                "episodes": 40.0 * (row + 1),
                "return_mean": shift + row / max(1, rows - 1),
                "staleness_mean": 0.5,
                "used_trajectories": 30.0 * (row + 1),
                "wasted_gradients": 10.0 * (row + 1),
                "learner/entropy": 2.0 - row / rows,
                "lost_ranks": 0.0,
                "eval_version": float(10 * (row // 10)),
                "eval_return_mean": shift + (row // 10) if row >= 10 else np.nan,
            },
            {
                "trajectories": np.array([20.0 * (row + 1), 10.0 * (row + 1)]),
                "slots": np.array([4.0, 4.0]),
                "trajectory_seconds": np.array([0.5, 1.0]),
            },
        )
        spent = np.zeros((len(ranks), len(ACTIVITIES)))
        spent[1, ACTIVITIES.index("learning")] = 1.9 * (row + 1)
        spent[2:, ACTIVITIES.index("stepping")] = 0.6 * (row + 1)
        spent[2:, ACTIVITIES.index("waiting")] = 1.2 * (row + 1)
        writer.note_activity(2.0 * (row + 1), spent)
    writer.close()
    if summary:
        figures = {
            "status": "finished",
            "bare_env_steps_per_second": 1000.0,
            "bare_processes": 2,
            "share_of_bare": 0.25,
            "ranks": len(ranks),
            "evaluation": {"return_sem": 0.125},
            "lost_ranks": [],
            "versions": {"hpcmarl": "0.1.0", "numpy": "2.0"},
        }
        (directory / "summary.json").write_text(json.dumps(figures))
    return directory


def data_of(html):
    """Return the data of the plots in a report."""
    begin = html.index('id="report-data">') + len('id="report-data">')
    return json.loads(html[begin : html.index("</script>", begin)])


def plot_of(html, title):
    """Return the data of the plot with a title."""
    before = html[: html.index(f'-title">{title}</h3>')]
    return data_of(html)["plots"][before[before.rindex("plot-") :]]
