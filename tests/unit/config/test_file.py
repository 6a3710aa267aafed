"""Reading and writing of configurations: accepted values, overrides, and dumps without loss."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config import AdamConfig, Config, GroupConfig, MATraceConfig, NigtConfig, ReinforceConfig
from hpcmarl.config.file import dump_config, load_config, load_either
from hpcmarl.config.keys import members_of, schema_rows
from hpcmarl.config.sweep import cases
from hpcmarl.errors import ConfigError

BASE = "env: {id: a.b}\nstop: {updates: 3}\n"
EXAMPLES = sorted(Path(__file__).parents[3].glob("configs/**/*.yaml"))

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12) | st.sampled_from(
    [
        "1e-3",
        "yes",
        "null",
        "~",
        "2024-01-01",
        "0x10",
        "1_000",
        "*a",
        "&b",
        "- x",
        "a: b",
        "#",
        "",
        " ",
        ".inf",
        "1:30",
        "=",
        "<<",
    ]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def configs(draw):
    optimizer = draw(
        st.sampled_from([NigtConfig(), AdamConfig(step_size=1e-5), AdamConfig(max_gradient_norm=0.5)])
    )
    algo = draw(
        st.sampled_from(
            [
                ReinforceConfig(discount=0.5),
                MATraceConfig(critic="independent"),
                MATraceConfig(critic_network={"hidden": (3,)}),
            ]
        )
    )
    groups = draw(
        st.integers(1, 3)
        | st.lists(
            st.builds(GroupConfig, delay=st.just({"step": 0.25}), actors=st.none() | st.integers(0, 3)),
            min_size=1,
            max_size=3,
        )
    )
    return Config.model_validate(
        {
            "env": {"id": draw(words), "kwargs": draw(st.dictionaries(words, values, max_size=3))},
            "algo": algo,
            "optimizer": optimizer,
            "topology": {"groups": groups},
            "stop": {"seconds": draw(st.floats(1e-6, 1e9))},
        }
    )


@settings(max_examples=80, deadline=None)
@given(configs())
def test_dump_then_load_gives_an_equal_configuration(config):
    text = dump_config(config)
    assert load_config(text) == config
    assert dump_config(load_config(text)) == text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_loads(path):
    config = load_either(path)
    assert config.env.id if isinstance(config, Config) else cases(config)
    assert load_either(dump_config(config)) == config


def test_at_least_five_example_configurations_exist():
    assert len(EXAMPLES) >= 5


def test_loaded_defaults_equal_the_schema_defaults():
    assert load_config(BASE) == Config.model_validate({"env": {"id": "a.b"}, "stop": {"updates": 3}})


def test_exponents_are_numbers_and_dates_stay_text():
    config = load_config(
        "name: 2024-01-01\nenv: {id: a.b, kwargs: {rate: 1e-3, text: '1e-3'}}\nstop: {updates: 3}\n"
    )
    assert config.name == "2024-01-01"
    assert config.env.kwargs == {"rate": 0.001, "text": "1e-3"}


def test_a_section_without_name_means_the_default_choice():
    config = load_config(BASE + "algo: {unroll: 7}\noptimizer: {step_size: 0.5}\n")
    assert isinstance(config.algo, MATraceConfig)
    assert config.algo.unroll == 7
    assert isinstance(config.optimizer, AdamConfig)


class TestOverrides:
    def test_override_values_are_parsed_as_yaml(self):
        config = load_config(
            BASE,
            [
                "seed=7",
                "algo.network.hidden=[8, 4]",
                "algo.network.body=gru",
                "stop.updates=",
                "stop.seconds=1e1",
            ],
        )
        assert (config.seed, config.algo.network.hidden, config.algo.network.body) == (7, (8, 4), "gru")
        assert (config.stop.updates, config.stop.seconds) == (None, 10.0)

    def test_a_value_may_hold_an_equals_sign(self):
        assert load_config(BASE, ["env.kwargs.a=b=c"]).env.kwargs == {"a": "b=c"}

    def test_a_quoted_key_may_hold_a_colon(self):
        assert load_config(BASE, ["env.kwargs={'a:1': 2, 'b:': }"]).env.kwargs == {"a:1": 2, "b:": None}

    def test_overrides_create_sections_and_keep_other_keys(self):
        config = load_config(
            "env: {id: a.b, kwargs: {N: 2, M: 5}}\nstop: {updates: 3}\n",
            ["env.kwargs.N=3", "env.kwargs.deep.er=1"],
        )
        assert config.env.kwargs == {"N": 3, "M": 5, "deep": {"er": 1}}

    def test_later_overrides_win(self):
        assert load_config(BASE, ["seed=1", "seed=2"]).seed == 2

    def test_override_sets_an_item_of_a_list(self):
        config = load_config(
            BASE + "topology: {groups: [{}, {actors: 2}]}\n", ["topology.groups.0.delay.step=0.1"]
        )
        assert [group.delay.step for group in config.topology.group_list] == [0.1, 0.0]
        assert [group.actors for group in config.topology.group_list] == [None, 2]

    def test_a_number_of_groups_becomes_a_list(self):
        config = load_config(BASE, ["topology.groups=3", "topology.groups.2.delay.step=0.1"])
        assert [group.delay.step for group in config.topology.group_list] == [0.0, 0.0, 0.1]

    def test_numbered_keys_in_kwargs_stay_keys(self):
        assert load_config(BASE, ["env.kwargs.0=1"]).env.kwargs == {"0": 1}

    def test_switching_the_algorithm_keeps_common_keys_only(self):
        config = load_config(
            BASE + "algo: {name: ma_trace, unroll: 4, discount: 0.5}\n", ["algo.name=reinforce"]
        )
        assert config.algo == ReinforceConfig(discount=0.5)

    def test_switching_the_optimizer_ignores_override_order(self):
        text = BASE + "optimizer: {name: adam, step_size: 0.5, beta1: 0.1}\n"
        for overrides in (
            ["optimizer.name=nigt", "optimizer.momentum=0.3"],
            ["optimizer.momentum=0.3", "optimizer.name=nigt"],
        ):
            assert load_config(text, overrides).optimizer == NigtConfig(step_size=0.5, momentum=0.3)

    def test_switching_does_not_hide_misspelt_keys(self):
        with pytest.raises(ConfigError, match=r"unknown key algo\.unrol "):
            load_config(BASE + "algo: {name: ma_trace, unrol: 4}\n", ["algo.name=reinforce"])

    def test_switching_does_not_drop_other_overrides(self):
        with pytest.raises(
            ConfigError, match=r"command line: unknown key algo\.unroll .* belongs to algo\.name: ma_trace"
        ):
            load_config(BASE, ["algo.unroll=4", "algo.name=reinforce"])


class TestSchema:
    def test_every_key_of_a_full_configuration_is_listed(self):
        listed = {row.key for row in schema_rows()}

        def keys(value, prefix=""):
            for key, item in value.items():
                if isinstance(item, dict) and item:
                    yield from keys(item, f"{prefix}{key}.")
                else:
                    yield f"{prefix}{key}"

        for name in members_of("optimizer"):
            config = load_config(BASE, [f"optimizer.name={name}"])
            missing = set(keys(config.model_dump(exclude={"policies": True}))) - listed
            assert not missing

    def test_schema_rows_state_the_enforced_limits(self):
        rows = {(row.key, row.only): row for row in schema_rows()}
        assert rows["seed", ()].allowed == "a whole number >= 0"
        assert rows["algo.discount", ()].allowed == "a number > 0 and <= 1"
        assert rows["rounds.rule", ()].allowed == "one of sync, rennala, malenia, afedpg"
        assert rows["algo.unroll", ("ma_trace", "ppo", "coma")].default == "25"
        assert rows["env.id", ()].default == "required"
        assert "topology.groups.0.delay.step" in {key for key, _ in rows}
        assert "policies.<name>.agents" in {key for key, _ in rows}

    def test_schema_choices_equal_the_registries(self):
        from hpcmarl.algos import ALGORITHMS
        from hpcmarl.optim import OPTIMIZERS
        from hpcmarl.optim.rounds import RULES

        assert set(members_of("algo")) == set(ALGORITHMS)
        assert set(members_of("optimizer")) == set(OPTIMIZERS)
        rule = next(row for row in schema_rows() if row.key == "rounds.rule")
        assert rule.allowed == f"one of {', '.join(RULES)}"
