"""Inputs of networks as records: what is copied, and that the values stay."""

import numpy as np
import pytest

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import describe
from hpcmarl.nets.input_form import Field, InputForm
from hpcmarl.nets.inputs import Inputs, row_inputs


@pytest.fixture
def policy():
    """Return a policy that sees images."""
    config = EnvConfig(id="pixels:gather", kwargs={"size": 3, "cell": 2})
    return describe(config, {"agent": PolicyConfig(agents=("agent_0", "agent_1"))}).policies[0]


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_single_field_records_share_the_images(policy, rows):
    images = np.random.default_rng(0).integers(0, 256, (rows, 2, *policy.observation_shape), np.uint8)
    records = InputForm((Field.observation("seen", policy),), flat=False).join((rows, 2), [images])
    assert np.array_equal(records["seen"], images)
    inputs = row_inputs(records, 2)
    assert isinstance(inputs, Inputs)
    assert np.array_equal(inputs.fields["seen"].numpy(), images.reshape(-1, *policy.observation_shape))
    if rows:
        assert np.shares_memory(records, images)
        assert np.shares_memory(inputs.fields["seen"].numpy(), images)


@pytest.mark.parametrize("rows", [1, 3])
def test_records_of_several_fields_are_copies(policy, rows):
    images = np.random.default_rng(0).integers(0, 256, (rows, *policy.observation_shape), np.uint8)
    form = InputForm((Field.observation("seen", policy), Field("number", 3)), flat=False)
    numbers = np.arange(3, dtype=np.float32)
    records = form.join((rows,), [images, numbers])
    inputs = row_inputs(records, 1)
    assert isinstance(inputs, Inputs)
    assert not np.shares_memory(records, images)
    assert np.array_equal(inputs.fields["seen"].numpy(), images)
    assert inputs.fields["number"].tolist() == [numbers.tolist()] * rows


def test_other_strides_are_copied(policy):
    images = np.random.default_rng(0).integers(0, 256, (2, 4, *policy.observation_shape), np.uint8)
    given = images.swapaxes(0, 1)
    records = InputForm((Field.observation("seen", policy),), flat=False).join((4, 2), [given])
    assert np.array_equal(records["seen"], given)
    assert not np.shares_memory(records, images)
