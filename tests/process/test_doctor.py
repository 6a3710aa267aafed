"""Checks of the doctor that start programs: mpiexec, and the remains of killed launchers."""

import os
import subprocess

from hpcmarl.doctor import checks, devices


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


def test_buffers_are_sent_between_two_ranks_of_their_own():
    finding = devices.check_gpu_aware_mpi(os.environ, "cpu")
    assert finding.status == "OK"
    assert finding.value.startswith("works: a buffer of cpu arrives unchanged")


def test_a_library_that_crashes_at_device_buffers_is_no_problem(monkeypatch):
    monkeypatch.setattr(devices, "SELF_TEST", "hpcmarl.no_such_module")
    finding = devices.check_gpu_aware_mpi(os.environ, "cpu")
    assert finding.status == "OK"
    assert "does not work here: exit code " in finding.value


def test_device_buffers_are_not_tested_inside_an_mpi_job(monkeypatch):
    inside = {**os.environ, "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}
    finding = devices.check_gpu_aware_mpi(inside, "cpu")
    assert finding.value == "not tested inside an MPI job"
