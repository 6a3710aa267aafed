"""Shapes of networks, and sparse training of their weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpcmarl.config.base import (
    Fraction,
    PositiveInt,
    Section,
    Width,
)

InferenceForm = Literal["auto", "dense", "sparse"]


class NetworkConfig(Section):
    """Shape of a multi-layer perceptron, with an optional GRU before its head."""

    hidden: tuple[Width, ...] = Field((64, 64), max_length=64, description="units of each hidden layer")
    activation: Literal["tanh", "relu"] = Field(
        "tanh", description="activation function of the hidden layers"
    )
    recurrent: bool = Field(False, description="put a GRU between the hidden layers and the head")
    memory: Width = Field(64, description="units of the GRU")


class AgentNetworkConfig(NetworkConfig):
    """Shape of the agents' networks in value-based algorithms: recurrent by default, as in PyMARL."""

    hidden: tuple[Width, ...] = Field((64,), max_length=64, description="units of each hidden layer")
    activation: Literal["tanh", "relu"] = Field(
        "relu", description="activation function of the hidden layers"
    )
    recurrent: bool = Field(True, description="put a GRU between the hidden layers and the action values")
    dueling: bool = Field(
        False,
        description=(
            "compute action values as a state value plus advantages, whose mean over the allowed actions is 0"
        ),
    )


class SparseConfig(Section):
    """Sparse training with the topology of MAST, RigL or SET, or a fixed one: most weights stay zero."""

    sparsity: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.9, description="share of the weights that are zero; small layers are denser (Erdős–Rényi)"
    )
    growth: Literal["gradient", "random", "none"] = Field(
        "gradient",
        description=(
            "where new weights grow: at the largest gradients (gradient: MAST, RigL, RLx2), at random "
            "(random: SET), or nowhere (none: fixed topology)"
        ),
    )
    every: PositiveInt = Field(200, description="updates between changes of the topology")
    initial_share: Fraction = Field(
        0.5,
        description=(
            "share of a layer's weights that the first change replaces; it then falls like a cosine"
        ),
    )
    last: PositiveInt = Field(20_000, description="number of updates after which the topology stays fixed")
    inference: InferenceForm = Field(
        "auto",
        description=(
            "multiply by all weights (dense), by the active weights (sparse), or by the form that was "
            "measured to be faster for each layer (auto)"
        ),
    )
    training: Literal["dense", "sparse"] = Field(
        "dense",
        description=(
            "form in which learners multiply by the weights of the GRU; sparse is faster for wide GRUs"
        ),
    )
