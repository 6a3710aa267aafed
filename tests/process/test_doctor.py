"""Checks of the doctor that start programs: mpiexec, and the remains of killed launchers."""

import os
import subprocess

from hpcmarl.doctor import checks


def test_mpiexec_of_another_library_is_bad():
    assert checks.check_mpiexec(os.environ, "Open MPI v5.0.11").status == "OK"
    finding = checks.check_mpiexec(os.environ, "MPICH Version: 5.0.2")
    assert finding.status == "BAD"
    assert "put the mpiexec of MPICH first" in finding.remedy


def test_leftover_launcher_files_are_warned_about(tmp_path, monkeypatch):
    gone = subprocess.Popen(["true"])
    gone.wait()
    for name in ("ompi.sock", f"ompi.{os.getpid()}"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert checks.check_left_behind() == []
    (tmp_path / f"ompi.{gone.pid}").mkdir()
    (finding,) = checks.check_left_behind()
    assert finding.status == "WARN"
    assert finding.value.startswith(f"1 in {tmp_path} from killed launchers (ompi.{gone.pid}, ...)")
    assert f"rm -rf {tmp_path}/ompi.* while no MPI job" in finding.remedy
