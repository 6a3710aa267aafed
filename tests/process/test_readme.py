"""Commands of the README.

Blocks marked `bash run` are run without changes, in order, in one working directory.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```bash run\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_readme_has_runnable_blocks():
    assert len(BLOCKS) >= 4


@pytest.mark.slow("runs the commands of the README as they stand, ten seconds of training among them")
@pytest.mark.mpi
def test_readme_commands_exit_with_zero(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for block in BLOCKS:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"first", "alone"}
