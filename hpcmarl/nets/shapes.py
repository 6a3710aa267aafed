"""Descriptions of networks without torch: policies, critics and mixers.

A learner builds torch modules from these descriptions (build.py). Other ranks build a forward pass in numpy
(numpy_policy.py) where the network allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from hpcmarl.config import Initialisation, NetworkConfig
from hpcmarl.nets.encoder_shapes import EncoderShape
from hpcmarl.nets.input_form import Field, InputForm
from hpcmarl.nets.layer_shapes import (
    FIRST_POLICY_GAIN,
    FIRST_VALUE_GAIN,
    FIRST_WEIGHT_GAIN,
    DenseShape,
    GRUShape,
    LSTMShape,
    MomentsShape,
    NetworkShape,
    Shape,
)
from hpcmarl.nets.module_shapes import ModuleShape
from hpcmarl.types import ActionSpace, PolicySpec


@dataclass(frozen=True)
class PolicyShape(NetworkShape):
    """A policy network: an encoder, dense layers, an optional memory, then `raw_size` outputs.

    With `dueling` the last layer is replaced by two (dueling.py).

    Attributes:
        spec: The policy.
        config: Sizes, activation and memory of the network.
        raw_size: Number of outputs, K.
        last_gain: Gain of the last layer's initial weights, unless the section has output_gain.
        normalise: Whether inputs are normalised by their running moments.
        agent_id: Whether the agent's number is an input.
        last_action: Whether the agent's last action is an input (discrete actions only).
        dueling: Whether the outputs are a value and advantages.
        encoder: Encoder of the observations; None: the network sees flat rows of numbers.
        module: Torch module of the user in place of all layers; None: there is none.
    """

    spec: PolicySpec
    config: NetworkConfig
    raw_size: int
    last_gain: float = FIRST_POLICY_GAIN
    normalise: bool = False
    agent_id: bool = False
    last_action: bool = False
    dueling: bool = False
    encoder: EncoderShape | None = None
    module: ModuleShape | None = None

    @property
    def initialisation(self) -> Initialisation:
        return self.config.initialisation

    @property
    def agents(self) -> int:
        """Number of agents of the policy, N."""
        return len(self.spec.agents)

    @property
    def action(self) -> ActionSpace:
        """Action space of an agent."""
        return self.spec.action

    @cached_property
    def form(self) -> InputForm:
        """The inputs: the observation, the last action and the agent's number."""
        fields = [Field.observation("observation", self.spec)]
        if self.last_action:
            fields.append(Field("last_action", self.actions))
        if self.agent_id:
            fields.append(Field("agent", self.agents))
        return InputForm(tuple(fields), self.encoder is None and self.module is None)

    @cached_property
    def encoded_form(self) -> InputForm:
        """The same inputs, with rows of a table of features in place of observations."""
        own, *others = self.form.fields
        return InputForm((replace(own, encoded=True), *others), flat=False)

    @property
    def in_numpy(self) -> bool:
        """Whether numpy_policy.py can compute the network; otherwise torch must."""
        own = self.encoder is None and self.module is None
        return own and self.config.body != "lstm" and not self.config.layer_norm

    @property
    def actions(self) -> int:
        """Number of inputs for the one-hot last action, A; 0 if it is not an input."""
        return self.action.sizes[0] if self.last_action else 0

    @property
    def inputs(self) -> int:
        """Inputs of the layers after the encoder, D: features, the last action and the agent's number."""
        features = self.spec.observation_size if self.encoder is None else self.encoder.features
        return features + self.actions + (self.agents if self.agent_id else 0)

    @property
    def width(self) -> int:
        """Length of the network's memory, H; 0 without one. An LSTM has two numbers for each unit."""
        return memory_length(self.config) if self.module is None else self.module.memory

    @property
    def memory_size(self) -> int:
        """Length of the memory that an acting agent carries from step to step, H + A."""
        return self.width + self.actions

    @property
    def moments(self) -> MomentsShape | None:
        """The moments that normalise the inputs; None without normalisation."""
        return MomentsShape(self.inputs) if self.normalise else None

    @property
    def body(self) -> DenseShape | None:
        """The layers before the GRU or before the two heads; None if `outputs` contains all layers."""
        if not (self.config.recurrent or self.dueling):
            return None
        return DenseShape(
            (self.inputs, *self.config.hidden),
            self.config.activation,
            activate_last=True,
            layer_norm=self.config.layer_norm,
        )

    @property
    def cell(self) -> GRUShape | LSTMShape | None:
        """The GRU or LSTM; None in feed-forward policies."""
        return cell_shape(self._last_hidden, self.config)

    @property
    def outputs(self) -> DenseShape:
        """The output layer, preceded by all hidden layers if `body` is None.

        With dueling heads it yields the advantages.
        """
        if self.body is None:
            return DenseShape(
                (self.inputs, *self.config.hidden, self.raw_size),
                self.config.activation,
                last_gain=self._gain,
                layer_norm=self.config.layer_norm,
            )
        return DenseShape((self._before_heads, self.raw_size), self.config.activation, last_gain=self._gain)

    @property
    def value(self) -> DenseShape | None:
        """The value layer of dueling heads; None without them."""
        return (
            DenseShape((self._before_heads, 1), self.config.activation, last_gain=self._gain)
            if self.dueling
            else None
        )

    @property
    def _gain(self) -> float:
        return self.last_gain if self.config.output_gain is None else self.config.output_gain

    @property
    def _last_hidden(self) -> int:
        return self.config.hidden[-1] if self.config.hidden else self.inputs

    @property
    def _before_heads(self) -> int:
        return self.config.memory if self.config.recurrent else self._last_hidden

    def children(self) -> Mapping[str, Shape]:
        if self.module is not None:
            return {"module": self.module}
        return _present(
            encoder=self.encoder,
            moments=self.moments,
            body=self.body,
            cell=self.cell,
            outputs=self.outputs,
            value=self.value,
        )

    def stages(self, prefix: str = "") -> list[dict[str, str | None]]:
        """List the computation from an observation to raw outputs, stage by stage.

        Args:
            prefix: Prefix of the parameters' names.

        Returns:
            One dictionary per stage: its kind (module, encoder, normalise, dense, gru, lstm or dueling), the
            names of its parameters (of a module or encoder: their prefix), and its activation or None.
        """
        if self.module is not None:
            return [{"kind": "module", "prefix": f"{prefix}module."}]
        result: list[dict[str, str | None]] = (
            [] if self.encoder is None else [{"kind": "encoder", "prefix": f"{prefix}encoder."}]
        )
        if self.moments is not None:
            result.append({"kind": "normalise", "moments": f"{prefix}moments.moments"})
        if self.body is not None:
            result += self.body.stages(f"{prefix}body.")
        if self.cell is not None:
            result.append(
                {
                    "kind": self.config.body,
                    **{name: f"{prefix}cell.{name}" for name in self.cell.own()},
                    "activation": None,
                }
            )
        result += self.outputs.stages(f"{prefix}outputs.")
        if self.value is not None:
            value = self.value.stages(f"{prefix}value.")[0]
            result[-1] |= {"kind": "dueling", "value_weight": value["weight"], "value_bias": value["bias"]}
        return result


@dataclass(frozen=True)
class CriticShape(NetworkShape):
    """A value network: encoders, dense layers, with an optional memory before the last layer.

    Attributes:
        inputs: Inputs of the layers after the encoders, D.
        config: Sizes, activation and recurrence of the network.
        outputs: Number of outputs; None: one output without an axis for them.
        normalise_inputs: Whether inputs are normalised by their running moments.
        normalise_values: Whether outputs are in units of the running moments of the targets.
        form: The inputs; None: flat rows of D numbers.
        encoders: Encoder of each input that has one, by the name of the field; several observations in a
            field share it. Encoded fields have none: they hold features of the policies' encoders.
        module: Torch module of the user in place of all layers; None: there is none.
    """

    inputs: int
    config: NetworkConfig
    outputs: int | None = None
    normalise_inputs: bool = False
    normalise_values: bool = False
    form: InputForm | None = None
    encoders: Mapping[str, EncoderShape] = field(default_factory=dict)
    module: ModuleShape | None = None

    @property
    def initialisation(self) -> Initialisation:
        return self.config.initialisation

    @property
    def memory_size(self) -> int:
        """Length of the critic's memory, H; 0 without one."""
        return memory_length(self.config) if self.module is None else self.module.memory

    def children(self) -> Mapping[str, Shape]:
        hidden, activation = self.config.hidden, self.config.activation
        gain = 1.0 if self.config.output_gain is None else self.config.output_gain
        moments = _present(
            _inputs=MomentsShape(self.inputs) if self.normalise_inputs else None,
            _targets=MomentsShape(1) if self.normalise_values else None,
        )
        if self.module is not None:
            return {**moments, "module": self.module}
        encoders = {f"encoders.{index}": shape for index, shape in enumerate(self.encoders.values())}
        norm, cell = self.config.layer_norm, cell_shape(hidden[-1] if hidden else self.inputs, self.config)
        if cell is None:
            sizes = (self.inputs, *hidden, self.outputs or 1)
            return {
                **encoders,
                **moments,
                "layers": DenseShape(sizes, activation, last_gain=gain, layer_norm=norm),
            }
        return {
            **encoders,
            **moments,
            "body": DenseShape((self.inputs, *hidden), activation, activate_last=True, layer_norm=norm),
            "cell": cell,
            "head": DenseShape((self.config.memory, self.outputs or 1), activation, last_gain=gain),
        }


@dataclass(frozen=True)
class SumMixerShape(Shape):
    """VDN's mixer, which has no parameters."""


@dataclass(frozen=True)
class MixerModuleShape(Shape):
    """A torch module of the user as mixer.

    Attributes:
        module: The module.
    """

    module: ModuleShape

    def children(self) -> Mapping[str, Shape]:
        return {"module": self.module}


@dataclass(frozen=True)
class MonotonicMixerShape(Shape):
    """QMIX's mixer (mixers.py): networks of the state that produce its weights.

    Attributes:
        agents: Number of agents, n.
        state: Size of the state, S.
        width: Hidden units of the mixing network.
        hyper: Hidden units of the networks that produce the weights.
        activation: Activation of these networks.
    """

    agents: int
    state: int
    width: int
    hyper: int
    activation: str = "relu"

    def children(self) -> Mapping[str, Shape]:
        def dense(*sizes: int, gain: float = FIRST_WEIGHT_GAIN) -> DenseShape:
            return DenseShape((self.state, *sizes), self.activation, last_gain=gain)

        return {
            "first": dense(self.hyper, self.agents * self.width),
            "second": dense(self.hyper, self.width),
            "bias": dense(self.width),
            "value": dense(self.width, 1, gain=FIRST_VALUE_GAIN),
        }


@dataclass(frozen=True)
class UnrestrictedMixerShape(Shape):
    """WQMIX's central mixer (mixers.py).

    Attributes:
        agents: Number of agents, n.
        state: Size of the state, S.
        width: Hidden units of each layer.
    """

    agents: int
    state: int
    width: int

    def children(self) -> Mapping[str, Shape]:
        width = self.width
        return {
            "mixed": DenseShape(
                (self.state + self.agents, width, width, width, 1), "relu", last_gain=FIRST_VALUE_GAIN
            ),
            "value": DenseShape((self.state, width, 1), "relu", last_gain=FIRST_VALUE_GAIN),
        }


def memory_length(config: NetworkConfig) -> int:
    """Return the length of a network's memory; 0 without one. An LSTM has two numbers for each unit."""
    return {"mlp": 0, "gru": 1, "lstm": 2}[config.body] * config.memory


def cell_shape(inputs: int, config: NetworkConfig) -> GRUShape | LSTMShape | None:
    """Describe the cell of a network that gets `inputs` numbers; None for feed-forward networks."""
    if not config.recurrent:
        return None
    return (GRUShape if config.body == "gru" else LSTMShape)(inputs, config.memory)


def _present(**parts: Shape | None) -> dict[str, Shape]:
    return {name: part for name, part in parts.items() if part is not None}
