"""Exported networks compute what our own policies compute, in ONNX Runtime and in torch."""

import json
from pathlib import Path

import numpy as np
import pytest

from hpcmarl.algos import make_model
from hpcmarl.config.file import load_config
from hpcmarl.errors import UsageError
from hpcmarl.evaluation import Trained
from hpcmarl.export.network import acting_network
from hpcmarl.nets.choosers import LARGEST_SQUASH
from hpcmarl.types import Frame, ObservationPart, PolicyFrame, PolicySpec
from tests.support.algorithms import TEAM_AND_PREY, TURNS
from tests.support.rollouts import CONTINUOUS, DISCRETE, make_spec, random_mask, random_observations
from tests.support.value_based import TWO

TEXT = "env: {id: mpe2.simple_spread_v3}\nstop: {updates: 1}\n"
RECURRENT = "algo.network={hidden: [5], body: gru, memory: 4}"
MIXED = make_spec(
    PolicySpec("scouts", ("a", "b"), (4,), DISCRETE, True), PolicySpec("carriers", ("c",), (3,), CONTINUOUS)
)
DICTIONARY = (ObservationPart("image", (9, 8, 2), "uint8"), ObservationPart("place", (3,), "float32"))
CASES = {
    "feed-forward": (
        TURNS,
        (
            "algo.name=ppo",
            "algo.critic=independent",
            "algo.agent_id=true",
            "algo.normalise_observations=true",
        ),
    ),
    "recurrent": (TEAM_AND_PREY, ("algo.name=ma_trace", RECURRENT)),
    "iql-dense": (make_spec(*TWO), ("algo.name=iql", "algo.network={hidden: [5], body: mlp}")),
    "iql-dueling": (
        make_spec(*TWO),
        ("algo.name=iql", "algo.network={hidden: [5], memory: 4, dueling: true}"),
    ),
    "maddpg": (MIXED, ("algo.name=maddpg", "algo.random_steps=9", RECURRENT)),
    "masac": (MIXED, ("algo.name=masac", "algo.normalise_observations=true", RECURRENT)),
    "iql-last-action": (
        make_spec(agents=2, has_mask=True),
        ("algo.name=qmix", "algo.obs_last_action=true", "algo.network={hidden: [5], memory: 4}"),
    ),
}
IMAGE = PolicySpec("seer", ("s0", "s1"), (9, 8, 2), DISCRETE, True, "uint8")
RECORD = PolicySpec("mixed", ("m0", "m1"), (), DISCRETE, observation_parts=DICTIONARY)
WALKER = PolicySpec("walker", ("w0",), (4, 3), CONTINUOUS)
# networks that only torch computes
TORCH_CASES = {
    "image": (
        make_spec(IMAGE),
        (
            "algo.name=ppo",
            "algo.agent_id=true",
            "algo.network={encoder: cnn, cnn: {architecture: impala, features: 6}, hidden: [5], body: lstm}",
        ),
    ),
    "entities": (
        make_spec(WALKER),
        ("algo.network={encoder: entities, entities: {width: 8}, hidden: [5], layer_norm: true}",),
    ),
    "record": (
        make_spec(RECORD),
        (
            "algo.name=iql",
            "algo.obs_last_action=true",
            "algo.network={keys: {image: {encoder: cnn, cnn: {architecture: impala}}}, dueling: true}",
        ),
    ),
    "module": (
        make_spec(RECORD, WALKER),
        ("algo.critic=independent", "algo.network.module=tests.support.user_modules:Recurrent"),
    ),
    "flat lstm": (make_spec(*TWO), ("algo.name=qmix", "algo.network={hidden: [5], body: lstm}")),
}
STEPS, SLOTS = 20, 3


def trained_case(name):
    """Return random policies of a case, and a generator."""
    spec, changes = (CASES | TORCH_CASES)[name]
    config = load_config(TEXT, changes)
    model = make_model(spec, config.algo, 0)
    generator = np.random.default_rng(1)
    vector = generator.normal(0, 0.7, model.size).astype(np.float32)
    model.load_parameters(vector)
    for key, values in model.named_parameters().items():
        if key.endswith("moments.moments"):  # weight, weighted sums, weighted sums of squares
            values[:] = np.abs(values) + 1.0
            values[1 + (len(values) - 1) // 2 :] += 4.0
    model.load_parameters(model.parameters.copy())
    return Trained(Path("checkpoint-0000000007.h5"), 7, config, spec, model), generator


def onnx_function(network):
    """Return the network as a function of named arrays, executed by ONNX Runtime."""
    pytest.importorskip("onnx", reason="needs hpcmarl[export]")
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    from hpcmarl.export.onnx_graph import build_onnx

    model = build_onnx(network)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [port.name for port in session.get_inputs()] == [port.name for port in network.inputs]
    assert all(port.shape[0] == "batch" for port in (*session.get_inputs(), *session.get_outputs()))
    assert session.get_modelmeta().custom_metadata_map["agents"] == json.dumps(list(network.policy.agents))
    names = [port.name for port in network.outputs]
    return lambda given: dict(zip(names, session.run(names, given), strict=True))


def frames(spec, generator):
    """Yield random frames of all policies."""
    for step in range(STEPS):
        policies = {}
        for policy in spec.policies:
            shape = (SLOTS, len(policy.agents))
            mask = random_mask(policy.action, shape, generator) if policy.has_mask else None
            obs = random_observations(policy, shape, generator)
            policies[policy.name] = PolicyFrame(obs, np.ones(shape, bool), mask)
        yield Frame(policies, None, np.full(SLOTS, step == 0))


class Follower:
    """Feeds the frames of one policy to an exported network, and keeps its recurrent state."""

    def __init__(self, network, function):
        self.network, self.function = network, function
        rows = SLOTS * len(network.policy.agents)
        self.state = np.zeros((rows, network.shape.width), np.float32)
        self.last = np.full(rows, -1)

    def step(self, frame):
        policy = self.network.policy
        rows = SLOTS * len(policy.agents)
        obs = frame.obs.reshape(rows, *policy.observation_shape)
        values = {
            "observation": obs,
            **{f"observation.{part.key}": obs[part.key] for part in policy.observation_parts},
            "agent": np.tile(np.arange(len(policy.agents)), SLOTS),
            "last_action": self.last,
            "mask": None if frame.action_mask is None else frame.action_mask.reshape(rows, -1),
            "state": self.state,
        }
        outputs = self.function({port.name: values[port.name] for port in self.network.inputs})
        for port in self.network.outputs:
            assert outputs[port.name].shape == (rows, *port.shape)
            assert outputs[port.name].dtype == port.dtype
        self.state, self.last = outputs.get("next_state"), outputs["action"]
        return outputs


def log_probability(space, outputs):
    """Return the log-probability of the greedy action, from the other outputs."""
    if space.kind == "continuous":
        squash = np.tanh(np.clip(outputs["mean"], -LARGEST_SQUASH, LARGEST_SQUASH))
        scale = (np.array(space.high) - np.array(space.low)) / 2
        density = -outputs["log_std"] - 0.5 * np.log(2 * np.pi) - np.log(scale * (1 - squash**2))
        return density.sum(1)
    total, actions = 0.0, outputs["action"].reshape(len(outputs["action"]), -1)
    for logits, action in zip(
        np.split(outputs["logits"], np.cumsum(space.sizes)[:-1], 1), actions.T, strict=True
    ):
        shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
        total = total - np.log(np.exp(shifted).sum(1)) + np.take_along_axis(shifted, action[:, None], 1)[:, 0]
    return total


def check_case(name, make_function):
    """Compare an exported network with our policy over several steps with memory."""
    trained, generator = trained_case(name)
    model, spec = trained.algorithm, trained.spec
    networks = {policy.name: acting_network(trained, policy) for policy in spec.policies}
    followers = {name: Follower(network, make_function(network)) for name, network in networks.items()}
    memory = dict(model.initial_memory(SLOTS))
    for frame in frames(spec, generator):
        decisions = model.act(frame, memory, generator, greedy=True)
        for key, follower in followers.items():
            outputs, decision = follower.step(frame.policies[key]), decisions[key]
            flat = decision.action.reshape(len(outputs["action"]), *decision.action.shape[2:])
            np.testing.assert_allclose(outputs["action"], flat, rtol=1e-4, atol=1e-4)
            if "next_state" in outputs:
                width = follower.network.shape.width
                ours = decision.memory[..., :width].reshape(-1, width)
                np.testing.assert_allclose(outputs["next_state"], ours, rtol=1e-4, atol=1e-5)
            if follower.network.kind in ("logits", "gaussian"):
                logp = log_probability(spec.policy(key).action, outputs)
                np.testing.assert_allclose(logp, decision.logp.reshape(-1), rtol=1e-3, atol=1e-3)
            if decision.memory is not None:
                memory[key] = decision.memory
    return networks


@pytest.mark.parametrize("name", CASES)
def test_onnx_runtime_computes_our_policy(name):
    check_case(name, onnx_function)


@pytest.mark.parametrize("name", TORCH_CASES)
def test_onnx_export_refuses_what_only_torch_computes(name, tmp_path):
    pytest.importorskip("onnx", reason="needs hpcmarl[export]")
    from hpcmarl.export.onnx_graph import write_onnx

    trained, _ = trained_case(name)
    with pytest.raises(UsageError, match=r"the ONNX export has dense layers and GRUs only; use --torch"):
        write_onnx(acting_network(trained, trained.spec.policies[0]), tmp_path / "policy.onnx")


@pytest.mark.parametrize("name", [*CASES, *TORCH_CASES])
def test_torch_programs_compute_our_policy(name, tmp_path):
    import torch

    from hpcmarl.export.torch_program import write_torch

    def function(network):
        path = tmp_path / f"{network.policy.name}.pt2"
        facts = {"hpcmarl.json": ""}
        result = write_torch(network, path)
        program = torch.export.load(path, extra_files=facts).module()
        assert json.loads(facts["hpcmarl.json"])["input_names"] == result["inputs"]

        def call(given):
            found = program(*(torch.from_numpy(values) for values in given.values()))
            return {
                name: value.detach().numpy() for name, value in zip(result["outputs"], found, strict=True)
            }

        return call

    check_case(name, function)


def test_values_of_masked_actions_stay_visible():
    trained, generator = trained_case("iql-dense")
    scouts = trained.spec.policy("scouts")
    network = acting_network(trained, scouts)
    outputs = [port.name for port in network.outputs]
    assert outputs == ["q", "action"]
    function = onnx_function(network)
    observation = generator.normal(size=(2, 4)).astype(np.float32)
    agent = np.zeros(2, np.int64)
    mask = np.array([[True] * 5, [True] + [False] * 4])
    given = {"observation": observation, "agent": agent, "mask": mask}
    free, bound = function({**given, "mask": np.ones_like(mask)}), function(given)
    np.testing.assert_array_equal(free["q"], bound["q"])
    assert bound["action"][1] == 0
