"""An optimizer added through the registry: its state is written, checked and resumed."""

from typing import ClassVar, Literal

import numpy as np
import pytest

from hpcmarl.config import SgdConfig
from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError, FormatError
from hpcmarl.optim import OPTIMIZERS, make_optimizer
from hpcmarl.optim.base import Optimizer
from hpcmarl.roles.state_checks import check_fits
from tests.support.worlds import SPREAD, final_state, run_world


class SignConfig(SgdConfig):
    name: Literal["sign"] = "sign"


class Sign(Optimizer):
    """Optimizer that steps along the sign of an average."""

    state_keys: ClassVar = ("drift",)

    def __init__(self, config, parameters, parts=()):
        super().__init__(config, parameters, parts)
        self.drift = np.zeros_like(self.parameters)

    def _move(self, direction):
        self.drift = 0.5 * self.drift + 0.5 * direction
        self._advance(self.config.step_size * np.sign(self.drift))


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "sign", Sign)
    return load_config(SPREAD).model_copy(update={"optimizer": SignConfig(step_size=0.1)})


def test_added_optimizer_resumes_exactly(config):
    start, directions = np.zeros(5, np.float32), np.random.default_rng(0).normal(size=(6, 5))
    whole = make_optimizer(config.optimizer, start)
    first, second = (make_optimizer(config.optimizer, start) for _ in range(2))
    for direction in directions:
        whole.step(direction)
    for direction in directions[:3]:
        first.step(direction)
    second.load_state_dict(first.state_dict())
    for direction in directions[3:]:
        second.step(direction)
    np.testing.assert_array_equal(second.parameters, whole.parameters)
    np.testing.assert_array_equal(second.drift, whole.drift)


def test_checkpoint_of_an_added_optimizer_is_checked(config, tmp_path):
    run_world(1, tmp_path, "stop.updates=2")
    state = final_state(tmp_path)
    saved = state["engine"]["optimizer"]
    with pytest.raises(ConfigError, match=r"with another optimizer than optimizer\.name: sign"):
        check_fits(config, state, {}, tmp_path)
    saved["drift"] = np.zeros_like(saved["parameters"])
    check_fits(config, state, {}, tmp_path)
    saved["drift"] = np.zeros(3, np.float32)
    with pytest.raises(FormatError, match=r"optimizer/drift has shape \[3\]"):
        check_fits(config, state, {}, tmp_path)
