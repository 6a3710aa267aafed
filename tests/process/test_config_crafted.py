"""Crafted configurations, loaded in a process with little memory."""

import resource
import subprocess
import sys

import pytest

BASE = "env: {id: a.b}\nstop: {updates: 3}\n"


@pytest.mark.parametrize(
    ("text", "overrides", "key"),
    [
        (BASE + "topology: {groups: 100000000000000}\n", (), "topology.groups"),
        (BASE, ("topology.groups=100000000000000",), "topology.groups"),
        (BASE, ("topology.groups=100000000000000", "topology.groups.0.delay.step=1"), "topology.groups"),
        (
            BASE + "topology: {groups: 100000000000000}\n",
            ("topology.groups.0.delay.step=1",),
            "topology.groups",
        ),
        (
            BASE + "topology: {environments_per_actor: 100000000000000}\n",
            (),
            "topology.environments_per_actor",
        ),
        (BASE + "topology: {actors_per_learner: 100000000000000}\n", (), "topology.actors_per_learner"),
        (BASE + "algo: {network: {hidden: [1000000000000]}}\n", (), "algo.network.hidden"),
        (BASE + "algo: {unroll: 1000000000000}\n", (), "algo.unroll"),
        (BASE + "eval: {environments: 1000000000000}\n", (), "eval.environments"),
        (BASE + "rounds: {queue: 1000000000000}\n", (), "rounds.queue"),
    ],
)
def test_huge_numbers_are_rejected_within_a_memory_limit(text, overrides, key):
    program = (
        "import sys; from hpcmarl.config.file import load_config; load_config(sys.argv[1], sys.argv[2:])"
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    done = subprocess.run(
        [sys.executable, "-c", program, text, *overrides],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=60,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("hpcmarl.errors.ConfigError"), done.stderr
    assert key in last
