"""Names of other libraries lead to the right key, value or option in the error."""

import pytest

from hpcmarl.cli.hints import key_for_option
from hpcmarl.config import foreign
from hpcmarl.config.file import load_config
from hpcmarl.config.keys import schema_rows
from hpcmarl.errors import ConfigError

RUN = "env: {id: a.b}\nalgo: {name: ma_trace}\nstop: {updates: 3}\n"
KEYS = {
    "lr": "optimizer.step_size",
    "optimizer.learning_rate": "optimizer.step_size",
    "algo.gamma": "algo.discount",
    "n_envs": "topology.environments_per_actor",
    "num_envs": "topology.environments_per_actor",
    "total_timesteps": "stop.env_steps",
    "algo.batch_size": "rounds.batch",
    "entropy_coef": "algo.entropy_cost",
    "algo.clip_param": "algo.clip (with algo.name: ppo)",
    "buffer_size": "algo.replay.episodes with another algo.name",
    "log_dir": "--run-dir DIR",
}


def test_every_foreign_name_leads_to_a_key_of_the_schema():
    keys = {row.key for row in schema_rows()} | {"policies", "env.kwargs", "logging.wandb"}
    assert {target.partition(" ")[0] for target in foreign._KEY_OF.values()} <= keys
    words = [
        word for words in (*foreign._NAMES.values(), *foreign._OPTIONS.values()) for word in words.split()
    ]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(("key", "meant"), KEYS.items())
def test_keys_of_other_libraries_name_the_key_here(key, meant):
    with pytest.raises(ConfigError) as caught:
        load_config(RUN, [f"{key}=3"])
    assert f" {meant}" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("algo.name=MAPPO", "write preset=mappo instead of algo.name"),
        ("algo.name=ippo", "write preset=ippo instead of algo.name"),
        ("algo.name=PPO", "did you mean ppo?"),
        ("algo.name=dqn", "did you mean iql?"),
        ("optimizer.name=Adam", "did you mean adam?"),
        ("rounds.rule=synch", "did you mean sync?"),
        ("env=simple_spread_v3", "write env.id=simple_spread_v3"),
        ("optimizer=adam", "write optimizer.name=adam"),
    ],
)
def test_values_of_other_libraries_name_the_value_here(change, words):
    with pytest.raises(ConfigError) as caught:
        load_config(RUN, [change])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "3"], "write seed=3 without dashes"),
        (["--lr=0.1"], "write optimizer.step_size=0.1 without dashes"),
        (["--total-timesteps", "1000"], "write stop.env_steps=1000 without dashes"),
        (["--clip-param", "0.1"], "write algo.clip=0.1 without dashes (with algo.name: ppo)"),
        (["--log-dir", "x"], "use --run-dir DIR"),
        (["--gamma"], "write algo.discount=VALUE without dashes"),
        (["--frobnicate"], "keys of the configuration have no dashes"),
    ],
)
def test_unknown_options_name_the_key(arguments, words):
    assert words in key_for_option(arguments[0].partition("=")[0], arguments)
