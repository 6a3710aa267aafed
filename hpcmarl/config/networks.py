"""Shapes of networks, and sparse training of their weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hpcmarl.config.base import (
    Count,
    Fraction,
    Line,
    Natural,
    PositiveFloat,
    PositiveInt,
    Section,
    Width,
    section,
)
from hpcmarl.config.choice import Factory

InferenceForm = Literal["auto", "dense", "sparse"]


Body = Literal["mlp", "gru", "lstm"]
Initialisation = Literal["orthogonal", "xavier", "torch"]
EncoderName = Literal["auto", "flat", "cnn", "entities", "dict"]


class CNNConfig(Section):
    """Convolutional encoder of images."""

    architecture: Literal["nature", "impala"] = Field(
        "nature",
        description=(
            "three convolutions (nature, 10.1038/nature14236; at least 36 x 36 pixels), or three residual "
            "blocks (impala, arXiv 1802.01561; any size)"
        ),
    )
    channels: Literal["last", "first"] = Field(
        "last", description="place of the channels in the shape of an image: height x width x channels (last)"
    )
    features: Width | None = Field(
        None, description="units of the layer after the convolutions; null: nature 512, impala 256"
    )


class EntityGroupConfig(Section):
    """Entities of one kind inside a vector."""

    count: Count = Field(1, description="number of entities; they follow each other at each place")
    starts: tuple[Natural, ...] = Field(
        (0,), min_length=1, max_length=64, description="places at which features of the first entity begin"
    )
    sizes: tuple[Count, ...] = Field(
        (1,),
        min_length=1,
        max_length=64,
        description="number of features of one entity at each of the places",
    )


class EntitiesConfig(Section):
    """Encoder of a set of entities by attention."""

    width: Width = Field(64, description="features of each entity inside the encoder")
    heads: Count = Field(4, description="attention heads; they share the width")
    layers: Annotated[int, Field(ge=1, le=64)] = Field(1, description="attention layers")
    groups: dict[str, EntityGroupConfig] = Field(
        default_factory=dict,
        description=(
            "entities inside a vector, by kind; all other numbers describe the agent itself; empty: each row "
            "of a matrix is an entity"
        ),
    )


ModuleName = Annotated[Line, Factory("modules")]


class EncoderConfig(Section):
    """Encoder of an observation, or of one entry of it."""

    encoder: EncoderName = Field(
        "auto",
        description=(
            "layers that turn an observation into features: none (flat), convolutions (cnn), attention over "
            "a set of entities (entities), or one encoder for each entry of a Dict or Tuple (dict); auto: "
            "cnn for uint8 images of at least 36 x 36 pixels, dict if an entry is such an image, else flat"
        ),
    )
    cnn: CNNConfig = section(CNNConfig, "encoder cnn")
    entities: EntitiesConfig = section(EntitiesConfig, "encoder entities")


class NetworkConfig(EncoderConfig):
    """Shape of a network: an encoder, hidden layers, and an optional memory before its head."""

    module: ModuleName | None = Field(
        None,
        description=(
            "torch module in place of all layers: package.module:factory, or the name of an entry point of "
            "the group hpcmarl.modules (docs/networks.md); the other keys but arguments then have no effect"
        ),
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of the factory in `module`"
    )
    keys: dict[str, EncoderConfig] = Field(
        default_factory=dict,
        description="encoder dict: encoder of each entry, by key; keys that are left out: auto",
    )
    hidden: tuple[Width, ...] = Field((64, 64), max_length=64, description="units of each hidden layer")
    activation: Literal["tanh", "relu"] = Field(
        "tanh", description="activation function of the hidden layers"
    )
    layer_norm: bool = Field(
        False, description="normalise the features of each hidden layer before its activation"
    )
    body: Body = Field(
        "mlp", description="hidden layers alone (mlp), or a GRU or LSTM between them and the head"
    )
    memory: Width = Field(64, description="units of the GRU or LSTM")
    initialisation: Initialisation = Field(
        "orthogonal",
        description=(
            "initial weights: orthogonal, uniform by Glorot and Bengio (xavier), or those of torch's layers "
            "(torch); biases are 0, but for torch"
        ),
    )
    output_gain: PositiveFloat | None = Field(
        None,
        description=(
            "factor of the initial weights of the last layer; null: 0.01 for policies, 0.1 for action values "
            "and 1 for critics"
        ),
    )

    @property
    def recurrent(self) -> bool:
        """Whether the network's own layers have a memory; a module says itself whether it has one."""
        return self.body != "mlp" and self.module is None


class AgentNetworkConfig(NetworkConfig):
    """Shape of the agents' networks in value-based algorithms: recurrent by default, as in PyMARL."""

    hidden: tuple[Width, ...] = Field((64,), max_length=64, description="units of each hidden layer")
    activation: Literal["tanh", "relu"] = Field(
        "relu", description="activation function of the hidden layers"
    )
    body: Body = Field(
        "gru", description="hidden layers alone (mlp), or a GRU or LSTM between them and the action values"
    )
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
