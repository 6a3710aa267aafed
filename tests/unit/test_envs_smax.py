"""envs/: SMAX as a natively batched environment, against JaxMARL stepped one game at a time; all tests share what is compiled for 4 games."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import BatchedEnvironment, Seeds, describe, episode_seed, make_environment, new_frame, new_outcome
from hpcmarl.envs.smax_maps import load
from hpcmarl.errors import ConfigError, EnvironmentFailure, MissingPackageError
from hpcmarl.packing import pack, unpack
from tests.envs_twins import draw_actions, play
from tests.worlds import run_world, summary

pytest.importorskip("jaxmarl.environments", reason="needs JaxMARL: pip install 'hpcmarl[smax]'") if False else None
