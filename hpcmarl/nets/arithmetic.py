"""Other arithmetic of a learner's networks: bfloat16 products, and compiled layers.

bfloat16 (`precision: bf16`): torch's autocast covers the forward passes of policies, critics and mixers. The
products of layers and convolutions take bfloat16 copies of their factors. GRUs stay in float32. Outputs are
float32 again, and so are losses, parameters, gradients, their sums and the optimizer.

Compiled (`compile: true`): torch.compile fuses dense layers, encoders, mixers and modules of the user. The
number of rows differs between gradients. torch therefore compiles a second graph, in which it may change. For
the same reason CUDA graphs, which need fixed shapes, are not used. A part that torch cannot compile, or that
would exceed its limit of recompilations, runs uncompiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch._dynamo
import torch._inductor.config
from torch import nn
from torch.utils._pytree import tree_map

from hpcmarl.nets.critic import Critic, ModuleCritic
from hpcmarl.nets.device import device_of
from hpcmarl.nets.encoders import CNN, Entities, Entries
from hpcmarl.nets.layers import Dense
from hpcmarl.nets.mixers import ModuleMixer, MonotonicMixer, UnrestrictedMixer
from hpcmarl.nets.policy import ModulePolicy, Policy

NETWORKS = (Policy, Critic, MonotonicMixer, UnrestrictedMixer, ModuleMixer)
OF_THE_USER = (ModulePolicy, ModuleCritic, ModuleMixer)
PASSES = ("forward", "unroll", "step", "encode")  # methods that compute outputs
GRAPHS_OF_A_PART = 8  # with and without gradients, of several numbers of dimensions
COMPILED = (MonotonicMixer, UnrestrictedMixer, CNN, Entities, Entries, Dense)


def use_bfloat16(modules: Iterable[nn.Module]) -> None:
    """Let the networks in these modules multiply in bfloat16."""
    for network in _outermost(modules, NETWORKS):
        _use_plain_layers(network)
        for name in PASSES:
            if hasattr(network, name):
                setattr(network, name, _in_bfloat16(network, getattr(network, name)))


def compile_networks(modules: Iterable[nn.Module]) -> None:
    """Let torch compile the layers of the networks in these modules, at their first call."""
    networks = list(_outermost(modules, NETWORKS))
    parts = [
        part
        for network in networks
        for part in (
            [network.module] if isinstance(network, OF_THE_USER) else _outermost([network], COMPILED)
        )
    ]
    for network in networks:
        _use_plain_layers(network)
    for part in parts:
        part.compile()
    # The limit counts the graphs of one line of code, which all parts of a class share.
    settings: Any = torch._dynamo.config
    settings.suppress_errors = True
    settings.recompile_limit = max(settings.recompile_limit, GRAPHS_OF_A_PART * len(parts))


def compiler_problem(device: torch.device) -> str:
    """Compile a small function for a device.

    Returns:
        The reason why it does not work, in one line; empty if it works.
    """
    # Compiling in this process leaves no helpers behind when a rank ends.
    settings: Any = torch._inductor.config
    settings.compile_threads = 1
    try:
        torch.compile(_small)(torch.ones(3, 2, device=device))
    except Exception as error:  # torch raises many kinds, with the compiler's output
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:200] if lines else type(error).__name__
        needed = "g++" if device.type == "cpu" else "Triton and a C compiler"
        return (
            f"compile: true has no effect on {device}, because torch.compile fails ({reason}); install "
            f"{needed}, or set compile: false"
        )
    return ""


def _small(rows: torch.Tensor) -> torch.Tensor:
    return torch.tanh(rows) * 2.0


def _use_plain_layers(network: nn.Module) -> None:
    for part in network.modules():
        if isinstance(part, Dense):
            part.plain = True


def _in_bfloat16(network: nn.Module, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(*arguments: Any, **named: Any) -> Any:
        with torch.autocast(device_of(network).type, dtype=torch.bfloat16):
            results = method(*arguments, **named)
        return tree_map(lambda each: each.float() if isinstance(each, torch.Tensor) else each, results)

    return run


def _outermost(modules: Iterable[nn.Module], kinds: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    """Return the modules of these kinds that lie in no other one of them."""
    for module in modules:
        if isinstance(module, kinds):
            yield module
        else:
            yield from _outermost(module.children(), kinds)
