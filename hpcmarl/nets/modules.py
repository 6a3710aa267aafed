"""Torch modules of the user: made by their factory, checked, described and called (docs/networks.md).

A module is a function of a row's inputs. Actors and learners compute it for batches of different rows, on
different ranks, and compare the results. Whatever lets a row's output depend on other rows, on earlier calls
or on chance is therefore refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from hpcmarl import plugins
from hpcmarl.errors import ConfigError, HpcmarlError
from hpcmarl.nets.input_form import Field, InputForm
from hpcmarl.nets.inputs import Inputs, Values
from hpcmarl.nets.module_shapes import ArraySpace, ModuleShape, ModuleSpaces, ObservationSpace, Role
from hpcmarl.nets.recurrence import Packing
from hpcmarl.types import Array, FloatArray

PAGE = "docs/networks.md"
# Rows of the calls that check a module.
TRIAL_ROWS = 3
TOLERANCE = 1e-3
# Largest seed of torch's generators that numpy's integers also cover.
SEEDS = 2**63 - 1


def describe_module(name: str, arguments: Mapping[str, Any], spaces: ModuleSpaces, key: str) -> ModuleShape:
    """Make a module once, check it and describe it.

    Args:
        name: package.module:factory, or the name of an entry point.
        arguments: Keyword arguments of the factory.
        spaces: Inputs and outputs.
        key: Key of the configuration, such as "algo.network.module".

    Raises:
        ConfigError: It cannot be made, or it is no function of a row's inputs with the expected outputs.
        MissingPackageError: A package is not installed.
    """
    factory = plugins.need("modules", name)
    make = functools.partial(_make, factory, dict(arguments), spaces, f"{key}: {name}")
    module = make(0)
    return ModuleShape(
        functools.partial(make, 0),
        functools.partial(_drawn, make),
        {own: tuple(parameter.shape) for own, parameter in module.named_parameters()},
        memory_of(module),
    )


def memory_of(module: nn.Module) -> int:
    """Return the length of a module's memory, its attribute `memory_size`; 0 without one."""
    return int(getattr(module, "memory_size", 0))


def spaces_of(form: InputForm, role: Role, policy: str, outputs: int) -> ModuleSpaces:
    """Return the spaces of a module with the given inputs.

    Args:
        form: The inputs.
        role: "policy" or "critic".
        policy: Name of the policy.
        outputs: Number of outputs, K.
    """
    seen = [field for field in form.fields if field.policy is not None]
    numbers = sum(field.size for field in form.fields if field.policy is None)
    observation: ObservationSpace = None
    if len(seen) == 1:
        observation = _space(seen[0])
    elif seen:
        observation = {field.name: _space(field) for field in seen}
    return ModuleSpaces(role, policy, observation, numbers, outputs, form.size)


def _space(field: Field) -> ArraySpace | dict[str, Any]:
    assert field.policy is not None
    several = () if field.count is None else (field.count,)
    if not field.policy.observation_parts:
        return ArraySpace(field.shape, field.policy.observation_type)
    return {
        part.key: ArraySpace((*several, *part.shape), part.dtype) for part in field.policy.observation_parts
    }


def call(module: nn.Module, form: InputForm, inputs: Inputs, *memory: torch.Tensor) -> Any:
    """Call a module with the fields of its inputs.

    Args:
        module: The module.
        form: Its inputs.
        inputs: n rows of them.
        *memory: Memory before the rows, shape [n, H], if the module has one.

    Returns:
        Outputs [n, K]; with a memory also the memory [n, H] after the rows.
    """
    seen: dict[str, Values] = {}
    numbers: list[torch.Tensor] = []
    for field in form.fields:
        values = inputs.fields[field.name]
        if field.policy is not None:
            seen[field.name] = values
        else:
            assert isinstance(values, torch.Tensor)
            numbers.append(values)
    observation: Any = None if not seen else next(iter(seen.values())) if len(seen) == 1 else seen
    joined = torch.cat(numbers, -1) if numbers else torch.zeros(inputs.rows, 0, device=_device(module))
    return module(observation, joined, *memory)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def unroll(
    module: nn.Module, form: InputForm, inputs: Inputs, memory: torch.Tensor, packing: Packing
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a recurrent module over packed rows, step by step; differentiable.

    Args:
        module: The module.
        form: Its inputs.
        inputs: Inputs of all rows.
        memory: Memory before row 0, shape [C, H]; gradients do not flow into it.
        packing: Order of the rows.

    Returns:
        Outputs [n, K] and memories [n, H] of the packed rows.
    """
    before = memory[packing.columns]
    outputs, after = [], [memory.new_empty(0, memory.shape[-1])]
    for step in packing.steps:
        before = before[: step.stop - step.start]
        if packing.keeps is not None:
            before = before * packing.keeps[step]
        output, before = call(module, form, inputs.take(packing.rows[step]), before)
        outputs.append(output)
        after.append(before)
    if not outputs:  # nobody acts: the shape of the outputs comes from a call with one row
        row = inputs.take(slice(0, 1))
        outputs.append(call(module, form, row, memory.new_zeros(1, memory.shape[-1]))[0][:0])
    return torch.cat(outputs), torch.cat(after)


def _drawn(make: Callable[[int], nn.Module], generator: np.random.Generator) -> dict[str, FloatArray]:
    """Return the initial parameters that a module has after its own initialisation."""
    module = make(int(generator.integers(SEEDS)))
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def _make(
    factory: Callable[..., Any], arguments: dict[str, Any], spaces: ModuleSpaces, name: str, seed: int
) -> nn.Module:
    """Make and check a module; `name` begins the messages.

    Modules initialise their weights from torch's global generator. It gets a seed of its own for that time.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = factory(spaces, **arguments)
        except HpcmarlError:
            raise
        except Exception as error:
            raise ConfigError(f"{name}: the factory failed: {plugins.said(error)}; correct it") from error
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"{name} returned {type(module).__name__}; it must return a torch.nn.Module ({PAGE})"
            )
        module.eval()
        _check(module, spaces, name)
    for parameter in module.parameters():
        parameter.grad = None
    return module


def _check(module: nn.Module, spaces: ModuleSpaces, name: str) -> None:
    """Refuse modules that are no functions of a row, or have other outputs than `spaces` says.

    Raises:
        ConfigError: One line with the reason and the remedy.
    """
    for own, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats:
            raise ConfigError(
                f"{name}: {own or 'it'} is a {type(part).__name__}, whose running statistics are hidden "
                "state that ranks do not share; use LayerNorm or GroupNorm, or track_running_stats=False for "
                "InstanceNorm"
            )
    memory = getattr(module, "memory_size", 0)
    if not isinstance(memory, int) or memory < 0 or (memory and spaces.role == "mixer"):
        raise ConfigError(
            f"{name}: memory_size is {memory!r}; allowed: a whole number above 0 for recurrent policies and "
            "critics, else 0"
        )
    inputs = trial_inputs(spaces, TRIAL_ROWS)
    buffers = {own: buffer.clone() for own, buffer in module.named_buffers()}
    outputs = _outputs(module, spaces, inputs, TRIAL_ROWS, name)
    for own, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            raise ConfigError(
                f"{name}: parameter {own} is {parameter.dtype}; allowed: torch.float32, since all parameters "
                "lie in one vector"
            )
    if not any(True for _ in module.parameters()):
        raise ConfigError(f"{name} has no parameters, so nothing can be trained; register them in the module")
    again = _outputs(module, spaces, inputs, TRIAL_ROWS, name)
    if not all(torch.equal(one, other) for one, other in zip(outputs, again, strict=True)):
        raise ConfigError(
            f"{name}: two calls with the same inputs differ, so it draws random numbers or keeps hidden "
            f"state; return the state as memory ({PAGE}), and let the algorithm draw actions"
        )
    changed = [own for own, buffer in module.named_buffers() if not torch.equal(buffer, buffers[own])]
    if changed:
        raise ConfigError(
            f"{name}: a call changes the buffer {changed[0]}, which is hidden state that ranks do not share; "
            f"return it as memory ({PAGE})"
        )
    alone = _outputs(module, spaces, _first_row(inputs), 1, name)
    if not all(
        torch.allclose(one, other[:1], TOLERANCE, TOLERANCE)
        for one, other in zip(alone, outputs, strict=True)
    ):
        raise ConfigError(
            f"{name}: the outputs of a row depend on the other rows of the batch; each row must be computed "
            "from its own inputs"
        )


def _outputs(
    module: nn.Module, spaces: ModuleSpaces, inputs: list[Any], rows: int, name: str
) -> list[torch.Tensor]:
    """Call a module and check types and shapes of what it returns."""
    memory = memory_of(module)
    try:
        with torch.no_grad():
            given = module(*inputs, *([torch.zeros(rows, memory)] if memory else []))
    except Exception as error:
        raise ConfigError(
            f"{name}: a call with {_shown(inputs)} failed: {plugins.said(error)}; correct it ({PAGE})"
        ) from error
    results = list(given) if memory and isinstance(given, tuple) else [given]
    wanted: list[tuple[int, ...]] = [(rows,)] if spaces.role == "mixer" else [(rows, spaces.outputs)]
    if memory:
        wanted.append((rows, memory))
    found = [
        f"{list(each.shape)} {each.dtype}" if isinstance(each, torch.Tensor) else type(each).__name__
        for each in results
    ]
    if found != [f"{list(shape)} torch.float32" for shape in wanted]:
        raise ConfigError(
            f"{name}: for {rows} rows it returned {' and '.join(found)}; the {spaces.role} needs "
            f"{' and '.join(str(list(shape)) for shape in wanted)} torch.float32"
        )
    return results


def trial_inputs(spaces: ModuleSpaces, rows: int) -> list[Any]:
    """Return inputs of a module with arbitrary values, as `call` passes them."""
    generator = np.random.default_rng(0)
    if spaces.role == "mixer":
        return [_array(ArraySpace((count,), "float32"), rows, generator) for count in _mixer_sizes(spaces)]
    return [
        _trial(spaces.observation, rows, generator),
        _array(ArraySpace((spaces.numbers,), "float32"), rows, generator),
    ]


def _mixer_sizes(spaces: ModuleSpaces) -> tuple[int, int]:
    """Return the number of agents and the size of the state."""
    assert isinstance(spaces.observation, ArraySpace)
    return spaces.observation.shape[0], spaces.numbers


def _trial(space: ObservationSpace, rows: int, generator: np.random.Generator) -> Any:
    if space is None:
        return None
    if isinstance(space, dict):
        return {key: _trial(each, rows, generator) for key, each in space.items()}
    return _array(space, rows, generator)


def _array(space: ArraySpace, rows: int, generator: np.random.Generator) -> torch.Tensor:
    shape = (rows, *space.shape)
    values: Array = generator.standard_normal(shape)
    if np.issubdtype(np.dtype(space.dtype), np.integer):
        values = generator.integers(100, size=shape)
    return torch.from_numpy(values.astype(space.dtype))


def _first_row(inputs: Any) -> Any:
    if isinstance(inputs, list):
        return [_first_row(each) for each in inputs]
    if isinstance(inputs, dict):
        return {key: _first_row(each) for key, each in inputs.items()}
    return None if inputs is None else inputs[:1]


def _shown(inputs: Any) -> str:
    """Return the shapes and types of inputs, for messages."""
    if isinstance(inputs, list):
        return " and ".join(_shown(each) for each in inputs)
    if isinstance(inputs, dict):
        return "{" + ", ".join(f"{key}: {_shown(each)}" for key, each in inputs.items()) + "}"
    return "None" if inputs is None else f"{list(inputs.shape)} {inputs.dtype}"
