"""`hpcmarl bench learning`: its bare loops and its figures.

A bare loop must learn from the same trajectories by the same gradient as the algorithm that it stands for.
"""

import json

import pytest
import torch

from hpcmarl.config.file import load_config
from hpcmarl.errors import UsageError
from tests.support.worlds import ECHO, SPREAD

VALUES = (
    "algo.network={hidden: [8], body: gru, memory: 6}",
    "rounds.batch=5",
    "algo.replay.learning_starts=5",
    "optimizer.max_gradient_norm=10",
)
CRITICS = ("rounds.batch=4", "algo.unroll=7", "optimizer={name: adam, max_gradient_norm: 1.0}")
PICTURES = ("env={id: 'hpcmarl.envs.games.costly:pictures_env', kwargs: {edge: 36}}", *CRITICS[::2])
CNN = "network: {encoder: cnn, hidden: [8], cnn: {features: 16}}"
ENTITIES = (
    "network: {encoder: entities, hidden: [8], entities: {width: 8, heads: 2, layers: 2, groups: "
    "{landmarks: {count: 3, starts: [4], sizes: [2]}, others: {count: 2, starts: [10, 14], sizes: [2, 2]}}}}"
)
MODULE = "network: {module: 'hpcmarl.bench.residual:Residual', arguments: {width: 8}}"
CONTINUOUS = ("env.kwargs.continuous_actions=true", *CRITICS[::2])


@pytest.fixture
def short(monkeypatch):
    """Yield the module with a window of a few updates; restore torch's number of threads."""
    from hpcmarl.bench import learning

    monkeypatch.setattr(learning, "WINDOW", 0.03)
    threads = torch.get_num_threads()
    yield learning
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (ECHO, ("algo.name=iql", "algo.trace_lambda=0.5", *VALUES)),
        (
            SPREAD,
            ("algo={name: iql, n_step: 3, network: {dueling: true}}", "optimizer.name=rmsprop", *VALUES),
        ),
        (SPREAD, ("algo={name: vdn, reward_scale: 0.5}", "optimizer.name=rmsprop", *VALUES)),
        (
            SPREAD,
            ("algo={name: qmix, double_q: false, trace_lambda: 0.8}", "optimizer.name=rmsprop", *VALUES),
        ),
        (
            SPREAD,
            (
                "algo={name: wqmix, central_width: 16, network: {body: mlp, dueling: true}}",
                "optimizer.name=rmsprop",
                *VALUES,
            ),
        ),
        (
            SPREAD,
            ("algo={name: res, agent_id: false, obs_last_action: true}", "optimizer.name=rmsprop", *VALUES),
        ),
        (SPREAD, ("algo.normalise_advantages=true", "algo.trace_lambda=0.9", *CRITICS)),
        (SPREAD, ("algo.critic=independent", *CRITICS)),
        (SPREAD, ("algo={name: ppo, minibatches: 2, network: {activation: relu}}", *CRITICS)),
        (SPREAD, ("algo={name: ppo, critic: independent, normalise_advantages: false}", *CRITICS)),
        (
            SPREAD,
            ("algo={name: ppo, critic: independent, agent_id: true, normalise_advantages: false}", *CRITICS),
        ),
        (SPREAD, ("algo={name: coma, network: {hidden: [8]}}", *CRITICS)),
        (SPREAD, ("algo={name: maddpg, twin_critics: true}", *CONTINUOUS)),
        (SPREAD, ("algo={name: maddpg, critic: independent}", *CONTINUOUS)),
        (SPREAD, ("algo={name: masac}", *CONTINUOUS)),
        (SPREAD, ("algo={name: masac, critic: independent, target_entropy: null}", *CONTINUOUS)),
    ],
)
def test_bare_loop_gradient_equals_the_algorithm_gradient(short, text, changes):
    told = short.run(load_config(text, changes), 0.06)
    assert told["gradient_difference"] < 1e-4
    assert told["trajectories"] == (5 if "optimizer.max_gradient_norm=10" in changes else 4)
    assert min(told["updates_per_second"], told["bare_updates_per_second"]) > 0
    assert told["ratio"] == pytest.approx(told["updates_per_second"] / told["bare_updates_per_second"])
    assert len(told["ratio_of_windows"]) == 2
    assert told["ratio_of_processor_time"] > 0


@pytest.mark.parametrize(
    "changes",
    [
        (*PICTURES, f"algo={{name: ppo, critic: independent, unroll: 7, {CNN}}}"),
        (*PICTURES, f"algo={{name: ppo, critic: independent, agent_id: true, unroll: 50, {CNN}}}"),
        (*PICTURES, f"algo={{name: ma_trace, unroll: 7, {CNN}}}", "algo.network.cnn.architecture=impala"),
        (*PICTURES, f"algo={{name: coma, unroll: 7, {CNN}}}"),
        (*PICTURES, f"algo={{name: vdn, {CNN}}}", "algo.replay.learning_starts=4"),
        (
            "env={id: 'pixels:gather_dict', kwargs: {size: 3}}",
            "algo={name: ppo, critic: independent, unroll: 7, network: {encoder: dict, hidden: [8]}}",
            *CRITICS[::2],
        ),
        (*CRITICS, f"algo={{name: ppo, critic: independent, {ENTITIES}}}"),
        (*CRITICS, f"algo={{name: ma_trace, {MODULE}}}"),
        (*CRITICS, f"algo={{name: ppo, critic: independent, agent_id: true, {MODULE}}}"),
        (f"algo={{name: qmix, {MODULE}}}", "rounds.batch=4", "algo.replay.learning_starts=4"),
    ],
    ids=[
        "cnn",
        "cnn_and_number",
        "impala",
        "cnn_coma",
        "cnn_vdn",
        "dict",
        "entities",
        "module",
        "module_and_number",
        "qmix",
    ],
)
def test_bare_encoders_and_modules_have_equal_gradients(short, changes):
    told = short.run(load_config(SPREAD, changes), 0.06)
    assert told["gradient_difference"] < 1e-4
    assert told["trajectories"] == 4
    assert told["ratio_of_processor_time"] > 0


@pytest.mark.parametrize(
    "changes",
    [
        (
            "algo={name: qmix, target_every: 3}",
            "optimizer={name: rmsprop, step_size: 0.001}",
            *VALUES,
            "optimizer.max_gradient_norm=0.1",
        ),
        (
            *CRITICS,
            "optimizer={name: adam, step_size: 0.001, critic_step_size: 0.004, max_gradient_norm: 0.1}",
        ),
        (
            *CRITICS,
            "optimizer={name: sgd, step_size: 0.1, max_gradient_norm: 0.3, critic_max_gradient_norm: 0.02}",
        ),
        (
            "algo={name: maddpg, target_rate: 0.3}",
            *CONTINUOUS,
            "optimizer={step_size: 0.001, critic_step_size: 0.004, max_gradient_norm: 0.1}",
        ),
    ],
    ids=["qmix", "critic_step_size", "critic_clip", "maddpg"],
)
def test_bare_loop_parameters_match_after_several_updates(short, changes):
    """Clipping, the optimizer's step and the copies of the target network agree as well."""
    from hpcmarl.algos import make_algorithm
    from hpcmarl.envs import describe

    config = load_config(SPREAD, changes)
    algorithm = make_algorithm(describe(config.env, config.policies), config.algo, 0)
    bare, ours = short.BARE[config.algo.name](config, algorithm), short.Learning(config, algorithm)
    inputs = [bare.stack(ours.rollouts(number)) for number in range(len(ours.readers))]
    before = algorithm.initial_parameters()
    for number in range(8):
        ours.update(number)
        bare.update(inputs[number % len(inputs)])
    found = torch.nn.utils.parameters_to_vector(bare.module.parameters()).detach().numpy()
    assert abs(found - before).max() > 1e-3
    assert abs(found - algorithm.parameters).max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ("algo={name: reinforce}", "algo.name: there is no bare loop of reinforce"),
        ("algo.normalise_values=true", "algo.normalise_values: True is not in the bare loops; use False"),
        (
            "algo.network.body=gru",
            "algo.network.body: gru is in the bare loops of value-based algorithms only",
        ),
        ("algo.network.body=lstm", "algo.network.body: lstm is not in the bare loops"),
        ("algo.network.layer_norm=true", "algo.network.layer_norm: true is not in the bare loops"),
        ("optimizer.name=nigt", "optimizer.name: torch has no nigt to compare with"),
        (
            "env.kwargs.continuous_actions=true",
            "env.id: the bare loops need agents of one policy with single discrete actions",
        ),
    ],
)
def test_unsupported_comparisons_raise_usage_errors(short, changes, told):
    with pytest.raises(UsageError, match=told):
        short.run(load_config(SPREAD, [changes]), 0.1)


def test_bench_learning_command_prints_the_ratios(run, short, tmp_path):
    (tmp_path / "echo.yaml").write_text(ECHO)
    code, out, _ = run(
        "bench", "learning", tmp_path / "echo.yaml", "rounds.batch=3", "--seconds", "0.1", "--json"
    )
    assert code == 0
    assert {
        "updates_per_second",
        "bare_updates_per_second",
        "ratio",
        "ratio_median",
        "gradient_difference",
    } <= set(json.loads(out))


@pytest.mark.parametrize(
    ("algo", "steps"),
    [
        ("{name: ma_trace, unroll: 6}", 600),
        ("{name: ma_trace, unroll: 6, reuse: 4}", 150),
        ("{name: ppo, unroll: 6, epochs: 3, minibatches: 2}", 200),
        ("{name: vdn}", 77),
    ],
)
def test_throughput_counts_every_step_once(algo, steps):
    from hpcmarl.bench.throughput import trained_steps

    assert trained_steps(load_config(SPREAD, [f"algo={algo}"]).algo, used=100, taken=77) == steps
