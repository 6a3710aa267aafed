"""Imported modules of commands and packages, measured in fresh interpreters."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.leagues import RPS
from tests.support.worlds import run_world

CONFIGS = Path(__file__).parents[2] / "configs"
HELP = (
    "import sys; sys.argv = {}; import hpcmarl.cli.main\ntry: hpcmarl.cli.main.main()\nexcept SystemExit: "
    "pass"
)
HEAVY = ("torch", "numpy", "h5py", "mpi4py", "pettingzoo", "rich")


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import hpcmarl", (*HEAVY, "pydantic", "typer")),
        (HELP.format(["hpcmarl", "--help"]), (*HEAVY, "pydantic")),
        (
            HELP.format(["hpcmarl", "train", "--help"]),
            HEAVY,
        ),  # typer imports pydantic for the arguments of a command
        (HELP.format(["hpcmarl", "config", "--help"]), HEAVY),
        (HELP.format(["hpcmarl", "submit", str(CONFIGS / "quickstart.yaml"), "--dry-run"]), HEAVY),
    ],
    ids=[
        "import hpcmarl",
        "hpcmarl --help",
        "hpcmarl train --help",
        "hpcmarl config --help",
        "hpcmarl submit --dry-run",
    ],
)
def test_help_and_dry_run_load_no_heavy_packages(code, heavy):
    program = f"{code}\nimport sys\nprint('loaded:', *[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_launcher_loads_neither_mpi_nor_torch():
    program = "import sys, hpcmarl.config.file, hpcmarl.launch.mpiexec, hpcmarl.launch.world\n"
    program += "print('loaded:', *{'torch', 'numpy', 'mpi4py'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "loaded:"


def test_import_of_a_class_outside_sees_the_configured_threads(tmp_path):
    """Numpy, which such a class may load, reads the number of its threads only once."""
    (tmp_path / "threaded.py").write_text(
        "import os; print(os.environ['OMP_NUM_THREADS'])\n"
        "from hpcmarl.optim.rounds.sync import Sync as Mine\n"
    )
    overrides = ("env.id=a.b", "stop.updates=1", "topology.threads=3", "rounds.rule=threaded:Mine")
    program = f"from hpcmarl.config.file import load_config; load_config(None, {overrides})"
    environ = {**os.environ, "PYTHONPATH": str(CONFIGS.parent)}
    environ.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "3"


def test_the_data_command_is_light():
    script = (
        "import sys, hpcmarl.cli.data; print(sorted({'h5py', 'numpy', 'torch', 'pydantic', "
        "'rich.table'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == "[]"


def test_formula_simulation_loads_no_torch_or_environments():
    program = "from hpcmarl.config.file import load_simulation\nfrom hpcmarl.sim.running import run_one\n"
    program += "run_one(load_simulation('objective: {name: quadratics}\\nsim: {stop: {rounds: 3}}\\n'), 0)\n"
    program += "import sys; print('loaded:', *{'torch', 'gymnasium', 'pettingzoo'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "loaded:"


@pytest.mark.skipif(
    importlib.util.find_spec("jaxmarl") is None, reason="needs JaxMARL: pip install 'hpcmarl[smax]'"
)
def test_describing_smax_loads_no_other_game_and_prints_none() -> None:
    program = (
        "import sys; from hpcmarl.config import EnvConfig; from hpcmarl.envs import describe; "
        "describe(EnvConfig(id='smax:3m'), {});print(any(name.startswith('jaxmarl.environments.storm') for "
        "name in sys.modules), 'jaxmarl' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_commands_that_only_act_or_read_load_no_torch(tmp_path):
    run_world(3, tmp_path / "spread", "trajectories.enabled=true")
    run_world(4, tmp_path / "rps", text=RPS)
    shard = next((tmp_path / "spread" / "trajectories").rglob("*.h5"))
    commands = [
        ["eval", str(tmp_path / "spread"), "--episodes", "2"],
        ["league", "match", str(tmp_path / "rps"), "a", "b", "--episodes", "4"],
        ["league", "show", str(tmp_path / "rps")],
        ["data", "verify", str(tmp_path / "spread")],
        ["data", "inspect", str(shard)],
    ]
    program = (
        f"import sys, hpcmarl.cli.main\nfor arguments in {commands!r}:\n    sys.argv = ['hpcmarl', "
        "*arguments]\n  "
        "  try:\n        hpcmarl.cli.main.main()\n"
        "    except SystemExit as end:\n        assert not end.code, (arguments, end.code)\n"
        "    print('loaded:', arguments[0], *{'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("loaded:")]
    assert told == [f"loaded: {arguments[0]}" for arguments in commands]
