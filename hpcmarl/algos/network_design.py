"""Descriptions of the networks of policies and critics by their sections of the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hpcmarl.config import (
    ActionCriticConfig,
    ActorCriticConfig,
    COMAConfig,
    MixingConfig,
    NetworkConfig,
    ValueCriticConfig,
)
from hpcmarl.errors import ConfigError
from hpcmarl.nets.choosers import Chooser
from hpcmarl.nets.encoder_shapes import describe_encoder, flat_encoder
from hpcmarl.nets.input_form import Field, InputForm
from hpcmarl.nets.layer_shapes import FIRST_POLICY_GAIN
from hpcmarl.nets.module_shapes import ArraySpace, ModuleShape, ModuleSpaces, Role
from hpcmarl.nets.shapes import CriticShape, MixerModuleShape, PolicyShape
from hpcmarl.types import EnvironmentSpec, PolicySpec

# Names of the inputs of critics: the state, the agent's own observation, the actions of all agents, and the
# agent's number. All observations of a policy have the name of the policy.
STATE, OWN, ACTIONS, AGENT = "(state)", "(own)", "(actions)", "(agent)"


def policy_shape(
    spec: EnvironmentSpec,
    policy: PolicySpec,
    network: NetworkConfig,
    raw_size: int,
    last_gain: float = FIRST_POLICY_GAIN,
    *,
    normalise: bool = False,
    agent_id: bool = False,
    last_action: bool = False,
    dueling: bool = False,
) -> PolicyShape:
    """Describe the network of a policy.

    Args:
        spec: The environment.
        policy: The policy.
        network: Section algo.network.
        raw_size: Number of outputs, K.
        last_gain: Gain of the last layer's initial weights.
        normalise: Whether inputs are normalised by their running moments.
        agent_id: Whether the agent's number is an input.
        last_action: Whether the agent's last action is an input.
        dueling: Whether the outputs are a value and advantages; modules have none.

    Raises:
        ConfigError: If the encoder does not fit the observations, or if the module is refused.
        MissingPackageError: A package of the module is not installed.
    """
    shape = PolicyShape(policy, network, raw_size, last_gain, normalise, agent_id, last_action, dueling)
    where = f"policy {policy.name} of {spec.id}"
    if network.module is not None:
        check_flat(shape.normalise, f"algo.network.module: {network.module}", where)
        form = replace(shape.form, flat=False)
        module = module_shape(network, form, ("policy", policy.name, raw_size), "algo.network")
        return replace(shape, module=module, dueling=False)
    encoder = describe_encoder(policy, network, "algo.network", spec.id)
    if encoder is not None:
        check_flat(shape.normalise, f"algo.network.encoder: {network.encoder}", where)
    return replace(shape, encoder=encoder)


def actor_shapes(
    spec: EnvironmentSpec, config: ActorCriticConfig | ActionCriticConfig, choosers: Mapping[str, Chooser]
) -> dict[str, PolicyShape]:
    """Describe the policies of an algorithm with critics; raises as `policy_shape`.

    Args:
        spec: The environment.
        config: Configuration of the algorithm.
        choosers: Chooser of each policy's agents.
    """
    return {
        policy.name: policy_shape(
            spec,
            policy,
            config.network,
            choosers[policy.name].raw_size,
            normalise=config.normalise_observations,
            agent_id=config.agent_id,
        )
        for policy in spec.policies
    }


def check_flat(normalised: bool, key: str, where: str) -> None:
    """Refuse normalised observations with inputs that are no flat vectors.

    Args:
        normalised: Whether inputs are normalised by their running moments.
        key: Key and value that make the inputs no flat vectors.
        where: The network, for the message.

    Raises:
        ConfigError: They exclude each other.
    """
    if normalised:
        raise ConfigError(
            f"algo.normalise_observations: true needs flat inputs, but {where} has {key}; set "
            "algo.normalise_observations: false, or use encoder: flat"
        )


def module_shape(
    network: NetworkConfig, form: InputForm, what: tuple[Role, str, int], key: str
) -> ModuleShape:
    """Describe a torch module of the user. Imports torch.

    Args:
        network: Section of the network.
        form: Inputs of the module.
        what: Its role, the name of its policy, and its number of outputs.
        key: Key of the section.

    Raises:
        ConfigError: The module is refused.
        MissingPackageError: A package is not installed.
    """
    from hpcmarl.nets.modules import describe_module, spaces_of

    assert network.module is not None
    return describe_module(network.module, network.arguments, spaces_of(form, *what), f"{key}.module")


def central_fields(spec: EnvironmentSpec, config: ActorCriticConfig | ActionCriticConfig) -> list[Field]:
    """Describe the inputs of critics that see the state or all observations."""
    if config.critic == "state":
        return [Field(STATE, spec.state_size or 0)]
    return [Field.all_observations(each.name, each) for each in spec.policies]


def value_fields(spec: EnvironmentSpec, policy: PolicySpec, config: ValueCriticConfig) -> list[Field]:
    """Describe the inputs of a policy's critic of observations or states."""
    alone = config.critic == "independent"
    fields = [] if alone else central_fields(spec, config)
    if alone or config.critic_input == "agent":
        fields.append(Field.observation(OWN, policy))
        if config.agent_id:
            fields.append(Field(AGENT, len(policy.agents)))
    return fields


def critic_shape(
    spec: EnvironmentSpec,
    policy: PolicySpec,
    config: ActorCriticConfig | ActionCriticConfig,
    fields: Sequence[Field],
    outputs: int | None = None,
) -> CriticShape:
    """Describe the critic of a policy with the given inputs.

    Raises:
        ConfigError: If the encoder does not fit the observations or is normalised.
    """
    network = config.critic_network or config.network.model_copy(update={"body": "mlp", "output_gain": None})
    key = "algo.network" if config.critic_network is None else "algo.critic_network"
    where, normalised = f"the critic of policy {policy.name} of {spec.id}", config.normalise_observations
    if network.module is not None:
        check_flat(normalised, f"{key}.module: {network.module}", where)
        form = InputForm(tuple(fields), flat=False)
        module = module_shape(network, form, ("critic", policy.name, outputs or 1), key)
        if module.memory and isinstance(config, COMAConfig | ActionCriticConfig):
            raise ConfigError(
                f"{key}.module: {network.module} is recurrent, but critics of algo.name: {config.name} "
                "have no memory; set memory_size = 0 for the role critic"
            )
        return CriticShape(
            form.size, network, outputs, normalise_values=config.normalise_values, form=form, module=module
        )
    features = shared_features(spec, config) if isinstance(config, ActorCriticConfig) else {}
    if features:
        fields = [
            replace(field, encoded=field.policy is not None and field.policy.name in features)
            for field in fields
        ]
    shared = {field.name: features[field.policy.name] for field in fields if field.policy and field.encoded}
    seen = {field.name: field.policy for field in fields if field.policy is not None and not field.encoded}
    if features:
        network = network.model_copy(update={"encoder": "flat", "keys": {}})
    described = {name: describe_encoder(each, network, key, spec.id) for name, each in seen.items()}
    encoders = (
        {name: encoder or flat_encoder(seen[name]) for name, encoder in described.items()}
        if shared or any(encoder is not None for encoder in described.values())
        else {}
    )
    if encoders:
        check_flat(normalised, f"{key}.encoder: {network.encoder}", where)
    widths = shared | {name: encoder.features for name, encoder in encoders.items()}
    size = sum(
        widths[field.name] * (field.count or 1) if field.name in widths else field.size for field in fields
    )
    return CriticShape(
        size,
        network,
        outputs,
        config.normalise_observations,
        config.normalise_values,
        InputForm(tuple(fields), flat=not (encoders or shared)),
        encoders,
    )


def shared_features(spec: EnvironmentSpec, config: ActorCriticConfig) -> dict[str, int]:
    """Return the number of features of each policy whose encoder critics share.

    Policies without an encoder are left out. Critics see their observations as numbers.

    Raises:
        ConfigError: algo.shared_encoder is set, but no policy has an encoder.
    """
    if not config.shared_encoder:
        return {}
    encoders = {
        policy.name: describe_encoder(policy, config.network, "algo.network", spec.id)
        for policy in spec.policies
    }
    features = {name: encoder.features for name, encoder in encoders.items() if encoder is not None}
    if not features:
        raise ConfigError(
            f"algo.shared_encoder: true needs an encoder, but the policies of {spec.id} see flat "
            f"observations (algo.network.encoder: {config.network.encoder}); set algo.network.encoder: cnn, "
            "entities or dict, or algo.shared_encoder: false"
        )
    return features


def mixer_module(config: MixingConfig, agents: int, state: int) -> MixerModuleShape:
    """Describe a torch module of the user as mixer. Imports torch.

    Args:
        config: Section algo, with `mixer_module`.
        agents: Number of agents, n.
        state: Size of the mixer's state, S.

    Raises:
        ConfigError: The module is refused.
        MissingPackageError: A package is not installed.
    """
    from hpcmarl.nets.modules import describe_module

    assert config.mixer_module is not None
    spaces = ModuleSpaces("mixer", "", ArraySpace((agents,), "float32"), state, 1, agents + state)
    return MixerModuleShape(
        describe_module(config.mixer_module, config.mixer_arguments, spaces, "algo.mixer_module")
    )
