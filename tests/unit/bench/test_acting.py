"""`hpcmarl bench acting`: its bare torch loop computes the same networks, and its figures are complete."""

import json

import numpy as np
import pytest
import torch

from hpcmarl.config.file import load_config
from tests.support.worlds import ECHO, SPREAD

PICTURES = "env={id: 'hpcmarl.envs.games.costly:pictures_env', kwargs: {edge: 36}}"
CASES = {
    "mlp": (),
    "continuous": ("env.kwargs.continuous_actions=true",),
    "gru": ("algo={name: vdn, obs_last_action: true, network: {body: gru, hidden: [8], memory: 6}}",),
    "cnn": (PICTURES, "algo={name: ppo, agent_id: true, network: {encoder: cnn, hidden: [8]}}"),
    "module": ("algo.network={module: 'hpcmarl.bench.residual:Residual', arguments: {width: 8}}",),
}


@pytest.fixture
def short(monkeypatch):
    """Yield the module with windows of a few steps; restore torch's number of threads."""
    from hpcmarl.bench import acting

    monkeypatch.setattr(acting, "WINDOW", 0.03)
    monkeypatch.setattr(acting, "WARM_UP", 0.01)
    threads = torch.get_num_threads()
    yield acting
    torch.set_num_threads(threads)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_bare_torch_network_equals_the_acting_network(short, changes):
    from hpcmarl.algos import make_model
    from hpcmarl.bench.reference.acting import ReferenceActing
    from hpcmarl.envs import describe

    config = load_config(SPREAD, changes)
    model = make_model(describe(config.env, config.policies), config.algo, 3)
    reference = ReferenceActing(model, 2)
    seen, chosen = [], []
    (name,) = model.design.policies
    network, own = reference.policies[name].network, model._actors[name]
    step, raw = network.step, own.raw
    network.step = lambda *given: seen.append(step(*given)) or seen[-1]
    own.raw = lambda *given, **named: chosen.append(raw(*given, **named)) or chosen[-1]
    bare = short.Acting(config, with_state=model.needs_state, decide=reference.decide)
    for row in range(3):
        # the same observations, memories and last actions for both
        frame, memory = bare.frames[0], model.initial_memory(2)
        policy = reference.policies[name]
        if memory:
            parts = [] if policy.memory is None else [policy.memory.view(2, policy.shape.agents, -1)]
            memory[name][...] = torch.cat([*parts, policy.last], -1).numpy()
        model.act(frame, memory, np.random.default_rng(row))
        bare.environment.step(bare.decide(frame), bare.outcome, bare.frames[1])
        bare.frames.reverse()
    bare.environment.close()
    assert len(seen) == len(chosen) == 3
    for (found, _), (wanted, _) in zip(seen, chosen, strict=True):
        assert np.abs(found.flatten(0, 1).numpy() - wanted).max() < 1e-5
        assert np.abs(wanted).max() > 0


def test_bare_torch_actions_are_samples_of_the_policy(short):
    from hpcmarl.algos import make_model
    from hpcmarl.bench.reference.acting import ReferenceActing
    from hpcmarl.envs import describe

    config = load_config(SPREAD, ["topology.environments_per_actor=400"])
    model = make_model(describe(config.env, config.policies), config.algo, 0)
    model.parameters *= 300.0  # far from uniform
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bare = short.Acting(config, with_state=False, decide=ReferenceActing(model, 400).decide)
        frame = bare.frames[0]
        (name,) = frame.policies
        actions = bare.decide(frame)[name]
        bare.environment.close()
    obs = frame.policies[name].obs.reshape(1200, -1)
    expected = model.action_probs(name, obs, None)
    counts = np.bincount(actions.ravel(), minlength=5)
    assert np.abs(counts - expected.sum(0)).max() < 5 * np.sqrt((expected * (1 - expected)).sum(0)).max()
    assert expected.max() > 0.5


@pytest.mark.parametrize("text", [SPREAD, ECHO], ids=["logits", "values"])
def test_bench_acting_has_figures_of_the_bare_torch_loop(short, text):
    told = short.run(load_config(text, []), 0.06)
    for name in ("acting_env_steps_per_second", "bare_env_steps_per_second", "decision_us", "ratio"):
        assert told[name] > 0
    assert told["bare_torch_missing"] is None
    assert all(told[key] is not None for key in told if key != "bare_torch_missing")
    assert told["bare_torch_ratio"] == pytest.approx(
        told["acting_env_steps_per_second"] / told["bare_torch_env_steps_per_second"]
    )
    assert len(told["bare_torch_ratio_of_windows"]) == len(told["ratio_of_windows"]) == 2
    assert set(told["decision_us_by_library"]) == {"numpy", "torch"}
    assert all(time > 0 for time in told["decision_us_by_library"].values())


def test_bench_acting_times_the_libraries_that_can_compute(short, monkeypatch):
    from tests.support.fake_device import fake_device

    monkeypatch.setattr(short, "open_device", lambda setting, place: fake_device())
    network = "algo.network={encoder: entities, entities: {groups: {one: {starts: [0], sizes: [2]}}}}"
    told = short.run(load_config(SPREAD, [network, "device=cuda"]), 0.06)
    assert set(told["decision_us_by_library"]) == {"torch", "device"}


def test_bench_acting_says_why_a_bare_torch_loop_is_missing(run, short, tmp_path):
    (tmp_path / "spread.yaml").write_text(SPREAD)
    code, out, _ = run(
        "bench",
        "acting",
        tmp_path / "spread.yaml",
        "algo.network.layer_norm=true",
        "--seconds",
        "0.1",
        "--json",
    )
    told = json.loads(out)
    assert code == 0
    assert "layer normalisation" in told["bare_torch_missing"]
    assert told["bare_torch_ratio"] is None
    assert told["bare_torch_decision_us"] is None
    assert told["decision_us"] > 0
