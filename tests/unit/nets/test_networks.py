"""The flat vector, the dense layers and the policies: torch and numpy agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from hpcmarl.config import NetworkConfig
from hpcmarl.nets.flat import FlatParameters
from hpcmarl.nets.layer_shapes import DenseShape, GRUShape, Shape
from hpcmarl.nets.numpy_layers import NumpyDense, NumpyRecurrence
from hpcmarl.nets.parameters import ParameterLayout, aligned_zeros
from hpcmarl.nets.shapes import CriticShape
from hpcmarl.types import ActionSpace, PolicyFrame
from tests.support.algorithms import acting, arrays_of, bind, make, make_policy, seeded
from tests.support.rollouts import CONTINUOUS, DISCRETE, MULTI_DISCRETE, random_action, random_mask

SPACES = [DISCRETE, MULTI_DISCRETE, CONTINUOUS]


TWO: dict[str, Shape] = {
    "left": DenseShape((3, 4, 2), "tanh"),
    "right": CriticShape(5, NetworkConfig(hidden=(6,))),
}


# --- the flat vector


def test_flat_vector_holds_all_parameters_in_order() -> None:
    modules, flat = bind(TWO)
    layout = ParameterLayout(TWO)
    assert layout.size == 16 + 10 + 36 + 7
    assert layout.segments == {"left": slice(0, 26), "right": slice(26, 69)}
    parameters = torch.cat(
        [parameter.detach().reshape(-1) for module in modules.values() for parameter in module.parameters()]
    ).numpy()
    np.testing.assert_array_equal(flat.vector, parameters)
    assert flat.vector.any()


def test_modules_of_another_description_are_refused() -> None:
    layout = ParameterLayout({"left": DenseShape((3, 5, 2), "tanh")})
    with pytest.raises(ValueError, match="description"):
        FlatParameters(layout, {"left": bind(TWO)[0]["left"]}, aligned_zeros(layout.size))


def test_initial_values_depend_on_the_seed_alone() -> None:
    layout = ParameterLayout(TWO)
    drawn = [aligned_zeros(layout.size) for _ in range(3)]
    for vector, seed in zip(drawn, (1, 1, 2), strict=True):
        layout.draw(vector, seed)
        assert vector.ctypes.data % 64 == 0
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    # [4, 3]: the columns are orthogonal, and their length is the gain.
    first = layout.named(drawn[0])["left.layers.0.weight"]
    np.testing.assert_allclose(first.T @ first, (5 / 3) ** 2 * np.eye(3), atol=1e-5)


def test_loading_changes_the_modules_and_they_stay_views() -> None:
    modules, flat = bind(TWO)
    segments = ParameterLayout(TWO).segments
    flat.load(np.arange(69, dtype=np.float32))
    assert modules["left"].layers[0].weight[0].tolist() == [0.0, 1.0, 2.0]
    modules["left"].load_state_dict(
        {key: torch.full_like(value, 7.0) for key, value in modules["left"].state_dict().items()}
    )
    assert (flat.vector[segments["left"]] == 7.0).all()
    assert (flat.vector[segments["right"]] != 7.0).all()
    with pytest.raises(ValueError, match="69"):
        flat.load(np.zeros(3, np.float32))


def test_gradients_accumulate_in_the_flat_gradient() -> None:
    modules, flat = bind(TWO)
    segments = ParameterLayout(TWO).segments
    for _ in range(2):
        modules["left"](torch.ones(5, 3)).sum().backward()
    twice = flat.gradient.copy()
    modules["left"].zero_grad(set_to_none=True)
    flat.zero_gradient()
    assert not flat.gradient.any()
    modules["left"](torch.ones(5, 3)).sum().backward()
    np.testing.assert_allclose(2 * flat.gradient, twice, rtol=1e-5)
    assert not flat.gradient[segments["right"]].any()
    assert flat.gradient[segments["left"]].any()


# --- dense layers


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("activate_last", [False, True])
def test_dense_equals_torch_and_numpy(activation: str, activate_last: bool) -> None:
    shape = DenseShape((6, 9, 7, 4), activation, activate_last=activate_last)
    dense = make(shape)
    for layer in dense.layers:
        nn.init.normal_(layer.bias, generator=seeded(3))
    stages: list[nn.Module] = []
    for layer in dense.layers:
        stages += [layer, nn.Tanh() if activation == "tanh" else nn.ReLU()]
    twin = nn.Sequential(*(stages if activate_last else stages[:-1]))
    inputs = torch.randn(2, 11, 6, generator=seeded(4), requires_grad=True)
    slope = torch.randn(2, 11, 4, generator=seeded(5))
    wanted = torch.autograd.grad(twin(inputs), [inputs, *twin.parameters()], slope)
    found = torch.autograd.grad(dense(inputs), [inputs, *dense.parameters()], slope)
    assert torch.allclose(dense(inputs), twin(inputs), atol=1e-6)
    for left, right in zip(found, wanted, strict=True):
        assert torch.allclose(left, right, atol=1e-5)
    numpy_outputs = NumpyDense(shape, arrays_of(dense))(inputs.detach().numpy().reshape(-1, 6))
    np.testing.assert_allclose(numpy_outputs, dense(inputs).detach().numpy().reshape(-1, 4), atol=1e-5)


def test_dense_without_layers_is_the_identity() -> None:
    inputs = torch.ones(2, 3)
    assert make(DenseShape((3,), "tanh", activate_last=True))(inputs) is inputs


def test_numpy_recurrence_equals_torch() -> None:
    cell = nn.GRUCell(5, 4)
    inputs, memory = torch.randn(7, 5, generator=seeded(1)) * 3, torch.randn(7, 4, generator=seeded(2))
    found = NumpyRecurrence(GRUShape(5, 4), arrays_of(cell))(inputs.numpy(), memory.numpy())
    np.testing.assert_allclose(found, cell(inputs, memory).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("recurrent", [False, True])
def test_first_policy_is_nearly_uniform_and_seeded(space: ActionSpace, recurrent: bool) -> None:
    policy, again = make_policy(space, recurrent), make_policy(space, recurrent)
    for left, right in zip(policy.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)
    if space.kind != "continuous":
        frame = PolicyFrame(np.ones((3, 2, 2, 3), np.float32), np.ones((3, 2), bool))
        memory = np.zeros((3, 2, 5), np.float32) if recurrent else None
        decision = acting(policy).act(frame, np.zeros(3, bool), memory, np.random.default_rng(0), False)
        np.testing.assert_allclose(decision.logp, -math.log(math.prod(space.sizes)), atol=0.1)


@pytest.mark.parametrize("hidden", [(8, 8), ()])
def test_recurrent_unroll_equals_acting_step_by_step(hidden: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    policy = make_policy(MULTI_DISCRETE, True, hidden)
    for parameter in policy.parameters():
        parameter.data.copy_(torch.from_numpy(generator.standard_normal(parameter.shape).astype(np.float32)))
    actor = acting(policy)
    steps, slots = 9, 4
    obs = generator.standard_normal((steps, slots, 2, 2, 3)).astype(np.float32)
    alive, starts = generator.random((steps, slots, 2)) < 0.6, generator.random((steps, slots)) < 0.3
    first = memory = generator.standard_normal((slots, 2, 5)).astype(np.float32)
    actions, logps = [], []
    for step in range(steps):
        kept = memory.copy()
        decision = actor.act(PolicyFrame(obs[step], alive[step]), starts[step], memory, generator, False)
        # Acting does not change the memory that is passed in.
        np.testing.assert_array_equal(memory, kept)
        assert decision.memory is not None
        silent = ~alive[step] & ~starts[step][:, None]
        np.testing.assert_array_equal(decision.memory[silent], memory[silent])
        assert not decision.memory[~alive[step] & starts[step][:, None]].any()
        assert not decision.logp[~alive[step]].any()
        memory = decision.memory
        actions.append(decision.action)
        logps.append(decision.logp)
    raw = policy.unroll(*map(torch.from_numpy, (obs.reshape(steps, slots, 2, 6), alive, starts, first)))
    again, _ = policy.head.evaluate(
        raw.reshape(-1, raw.shape[-1]), torch.from_numpy(np.stack(actions).reshape(-1, 2)), None
    )
    np.testing.assert_allclose(
        np.stack(logps)[alive], again.detach().numpy().reshape(alive.shape)[alive], atol=1e-4
    )


def test_dead_agents_get_zero_actions_and_logp() -> None:
    for space in SPACES:
        policy = make_policy(space, False)
        alive = np.array([[True, False]])
        decision = acting(policy).act(
            PolicyFrame(np.ones((1, 2, 2, 3), np.float32), alive),
            np.zeros(1, bool),
            None,
            np.random.default_rng(3),
            False,
        )
        assert decision.action.shape == (1, 2, *space.shape)
        assert not np.any(decision.action[0, 1])
        assert decision.logp[0, 1] == 0
        assert decision.logp[0, 0] != 0


def test_living_agents_act_as_if_all_lived() -> None:
    policy = make_policy(DISCRETE, recurrent=False)
    generator = np.random.default_rng(4)
    obs = generator.standard_normal((5, 2, 2, 3)).astype(np.float32)
    alive, mask = generator.random((5, 2)) < 0.5, random_mask(DISCRETE, (5, 2), generator)
    decisions = [
        acting(policy).act(
            PolicyFrame(obs, living, mask), np.zeros(5, bool), None, np.random.default_rng(5), False
        )
        for living in (np.ones((5, 2), bool), alive)
    ]
    assert 0 < np.count_nonzero(alive) < alive.size
    np.testing.assert_array_equal(decisions[1].action, np.where(alive, decisions[0].action, 0))
    np.testing.assert_allclose(decisions[1].logp, np.where(alive, decisions[0].logp, 0.0), atol=1e-6)


def test_random_actions_respect_the_mask() -> None:
    generator = np.random.default_rng(0)
    mask = random_mask(MULTI_DISCRETE, (50,), generator)
    action = random_action(MULTI_DISCRETE, (50,), generator, mask)
    assert mask[np.arange(50), action[:, 0]].all()
    assert mask[np.arange(50), 3 + action[:, 1]].all()
