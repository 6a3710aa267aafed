"""Configurations as rank 0 sends them to the other ranks."""

from pathlib import Path

import pytest

from hpcmarl.config import Config
from hpcmarl.config.base import Section
from hpcmarl.config.file import dump_config, load_config
from hpcmarl.config.plain import _subclasses, from_json, to_json

CONFIGS = sorted(
    path for path in (Path(__file__).parents[3] / "configs").rglob("*.yaml") if "sim:" not in path.read_text()
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_arrive_as_they_were(path):
    config = load_config(path)
    told = from_json(to_json(config))
    assert type(told) is Config
    assert told == config
    assert told.model_fields_set == config.model_fields_set
    assert dump_config(told) == dump_config(config)
    assert told.topology.group_list == config.topology.group_list


def test_values_of_any_kind_keep_their_types():
    kwargs = {"a": [1, 2.5, None], "b": {"section": "Config", "tuple": [1]}, "c": float("inf"), "d": "x"}
    config = load_config(CONFIGS[0]).model_copy(
        update={"env": load_config(CONFIGS[0]).env.model_copy(update={"kwargs": kwargs})}
    )
    assert from_json(to_json(config)).env.kwargs == kwargs


def test_names_of_sections_are_unique():
    names = {}
    for cls in _subclasses(Section):
        if cls.__module__.startswith("hpcmarl."):
            assert names.setdefault(cls.__name__, cls) is cls


def test_class_of_another_package_may_have_a_name_of_ours():
    class StopConfig(Section):
        other: int = 3

    config = load_config(CONFIGS[0])
    assert from_json(to_json(config)).stop == config.stop
    assert type(config.stop) is not StopConfig
