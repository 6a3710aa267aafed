"""Types and keys of observations, from the spaces of an environment to the arrays of its policies."""

from collections import OrderedDict

import numpy as np
import pytest
from gymnasium import spaces

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import Seeds, describe, make_environment, new_frame, new_outcome
from hpcmarl.envs.observations import MisfitError, view_of_policy
from hpcmarl.envs.spaces import view_observation
from hpcmarl.errors import ConfigError, EnvironmentFailure
from hpcmarl.types import EnvironmentSpec, flat_observations
from tests.support.observations import IMAGE, Seeing

SEEING = "tests.support.observations:Seeing"


def make(slots=2, spec=None, **kwargs):
    config = EnvConfig(id=SEEING, kwargs=kwargs)
    return make_environment(config, {}, slots, Seeds(3), spec=spec)


def run(environment, steps):
    """Step an environment with action 0 and return its frame and outcome."""
    frame = new_frame(environment.spec, environment.slots)
    outcome = new_outcome(environment.spec, environment.slots)
    environment.reset(frame)
    policy = environment.spec.policies[0]
    for _ in range(steps):
        actions = {policy.name: np.zeros((environment.slots, len(policy.agents)), np.int64)}
        environment.step(actions, outcome, frame)
    return frame, outcome


@pytest.mark.parametrize("name", ["bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float16"])
def test_a_box_keeps_its_type(name):
    space = spaces.Box(0, 1, (2, 3), np.dtype(name).type)
    view = view_observation(space, "a")
    assert (view.shape, view.type, view.parts, view.plain) == ((2, 3), name, (), True)
    sample = space.sample()
    assert view.read(sample, np.dtype(name)).dtype == name
    np.testing.assert_array_equal(view.read(sample.tolist(), np.dtype(name)), sample)


@pytest.mark.parametrize("name", ["float64", "int64", "uint64", "float32"])
def test_wide_types_of_a_box_become_float32(name):
    assert view_observation(spaces.Box(0, 9, (2,), np.dtype(name).type), "a").type == "float32"


@pytest.mark.parametrize(
    ("space", "given", "shape", "name", "expected"),
    [
        (spaces.Discrete(3, start=5), 6, (3,), "float32", [0, 1, 0]),
        (spaces.MultiDiscrete([2, 3], start=[0, 1]), np.array([1, 3]), (5,), "float32", [0, 1, 0, 0, 1]),
        (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), (3,), "int8", [1, 0, 1]),
        (spaces.Box(-1, 1, ()), 0.5, (1,), "float32", [0.5]),
    ],
)
def test_other_spaces_become_one_array(space, given, shape, name, expected):
    view = view_observation(space, "a")
    assert (view.shape, view.type) == (shape, name)
    assert view.read(given, np.dtype(name)).tolist() == expected


def test_nested_spaces_become_records_in_their_order():
    space = spaces.Dict(
        OrderedDict(
            second=spaces.Box(0, 9, (2,), np.uint8),
            first=spaces.Dict({"deep": spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (1,))))}),
        )
    )
    view = view_observation(space, "a")
    assert [(part.key, part.shape, part.dtype) for part in view.parts] == [
        ("second", (2,), "uint8"),
        ("first/deep/0", (2,), "float32"),
        ("first/deep/1", (1,), "float32"),
    ]
    given = {"first": {"deep": (1, [0.25])}, "second": np.array([7, 8])}
    dtype = np.dtype([(part.key, part.dtype, part.shape) for part in view.parts])
    assert [value.tolist() for value in view.read(given, dtype).item()] == [[7, 8], [0, 1], [0.25]]
    assert flat_observations(view.read(given, dtype), 0).tolist() == [7, 8, 0, 1, 0.25]


def test_masks_stay_apart_from_the_entries_of_a_record():
    seen, mask = spaces.Box(0, 1, (2,), np.int8), spaces.MultiBinary(3)
    inner = view_observation(spaces.Dict({"observation": seen, "action_mask": mask}), "a")
    assert (inner.has_mask, inner.shape, inner.type, inner.parts) == (True, (2,), "int8", ())
    more = view_observation(spaces.Dict({"observation": seen, "action_mask": mask, "time": seen}), "a")
    assert more.has_mask
    assert [part.key for part in more.parts] == ["observation", "time"]


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (spaces.Dict({}), "no entries: Dict"),
        (spaces.Dict({"a": spaces.Dict({}), "b": spaces.Discrete(2)}), "no entries at key a"),
        (spaces.Dict({"a/b": spaces.Discrete(2)}), "the key 'a/b'; a key may not be empty, a dot"),
        (spaces.Dict({"": spaces.Discrete(2)}), "the key ''"),
        (spaces.Dict({"a": spaces.Box(0, 1, (0, 3))}), r"the shape \(0, 3\) at key a; no size may be 0"),
        (spaces.Dict({"a": spaces.Text(3)}), "space Text.* at key a; allowed: Box"),
        (spaces.Tuple((spaces.Sequence(spaces.Discrete(2)),)), "at key 0; allowed: Box"),
        (spaces.Graph(spaces.Box(0, 1, (2,)), None), "allowed: Box of numbers"),
    ],
)
def test_spaces_without_a_record_are_refused_in_one_line(space, text):
    with pytest.raises(ConfigError, match=f"^agent a has .*{text}") as caught:
        view_observation(space, "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("missing", "b observes no key bits in a dictionary with the keys image, place"),
        ("shape", r"b observes at key image an array of shape \(2, 4, 3\); .* the shape \(5, 4, 3\)"),
        ("float", "b observes at key image numbers of type float64; .* has the type uint8"),
        ("range", r"b observes at key image the number \d+; .* has 0 to 255 \(uint8\)"),
        ("nan", r"agent b observes at key place/0 nan \(component 1 of 2\)"),
    ],
)
def test_a_wrong_entry_is_named_with_agent_key_and_value(fault, text):
    with pytest.raises(EnvironmentFailure, match=text) as caught:
        run(make(fault=fault), 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["shape", "float", "range"])
def test_a_wrong_image_is_refused_on_the_fast_path(fault):
    with pytest.raises(EnvironmentFailure, match="broke the PettingZoo contract: agent b observes"):
        run(make(fault=fault, plain=True), 4)


def test_values_of_discrete_entries_are_checked():
    view = view_observation(spaces.Discrete(3, start=1), "a")
    for value in (0, 4, 1.0, "x", [1, 2], None):
        with pytest.raises(MisfitError):
            view.read(value, np.dtype(np.float32))


def test_frames_hold_records_of_the_values_that_were_seen():
    environment = make()
    frame, _ = run(environment, 4)
    (policy,) = environment.spec.policies
    assert policy.observation_dtype.names == ("image", "place/0", "place/1", "bits")
    assert policy.observation_size == 60 + 2 + 3 + 2
    seen = frame.policies[policy.name].obs
    assert (seen.shape, seen["image"].dtype) == ((2, 2), np.uint8)
    reference = Seeing()
    reference.reset(seed=environment._seed(1))
    reference.time = 4
    expected = reference._see("b")
    np.testing.assert_array_equal(seen["image"][1, 1], expected["image"])
    np.testing.assert_array_equal(seen["place/0"][1, 1], expected["place"][0].astype(np.float32))
    assert seen["place/1"][1, 1].tolist() == [0, 0, 1]


def test_last_observations_of_truncated_episodes_are_records():
    environment = make(cut=True)
    _, outcome = run(environment, 6)
    (policy,) = environment.spec.policies
    assert len(outcome.finals) == 2
    final = outcome.finals[0].obs[policy.name]
    assert (final.dtype, final.shape) == (policy.observation_dtype, (2,))
    assert final["bits"].tolist() == [[1, 0], [1, 0]]


def test_nonfinite_entries_become_zeros_if_episodes_are_skipped():
    config = EnvConfig(id=SEEING, kwargs={"fault": "nan", "cut": True})
    environment = make_environment(config, {}, 1, Seeds(0), skip_bad_numbers=True)
    _, outcome = run(environment, 3)
    assert environment.counts["bad_numbers"] == 1
    assert np.isfinite(outcome.finals[0].obs["policy_0"]["place/0"]).all()


def test_records_follow_the_order_of_another_process():
    spec = make().spec
    tree = spec.tree()
    tree["policies"][0]["observation_parts"] = tree["policies"][0]["observation_parts"][::-1]
    turned = EnvironmentSpec.of_tree(tree)
    environment = make(spec=turned)
    assert environment.spec.policies[0].observation_dtype.names == ("bits", "place/1", "place/0", "image")
    frame, _ = run(environment, 2)
    straight, _ = run(make(), 2)
    for key in ("bits", "place/1", "place/0", "image"):
        one, other = (each.policies["policy_0"].obs[key] for each in (frame, straight))
        np.testing.assert_array_equal(one, other)
    tree["policies"][0]["observation_parts"][0]["dtype"] = "uint8"
    with pytest.raises(EnvironmentFailure, match="must not depend on the process"):
        make(spec=EnvironmentSpec.of_tree(tree))


def test_agents_of_one_policy_need_equal_types():
    config = EnvConfig(id="tests.support.observations:Unlike")
    assert len(describe(config, {}).policies) == 2
    with pytest.raises(ConfigError, match="agents of one policy need equal spaces"):
        describe(config, {"all": PolicyConfig(agents=("*",))})


def test_the_form_of_a_policy_reads_nested_observations():
    policy = make().spec.policies[0]
    view = view_of_policy(policy)
    given = {"image": np.zeros(IMAGE, np.uint8), "place": ([0.5, 1], [0, 1, 0]), "bits": (True, False)}
    record = view.read(given, policy.observation_dtype)
    assert record["place/0"].tolist() == [0.5, 1.0]
    assert record["bits"].tolist() == [1, 0]
