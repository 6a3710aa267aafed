"""The doctor: messages between all pairs on virtual ranks, and its findings."""

import errno
import fcntl
import json
from collections import namedtuple
from pathlib import Path

import pytest

from hpcmarl.comm.local import LocalWorld
from hpcmarl.config.file import load_config
from hpcmarl.doctor import checks, devices, world
from hpcmarl.doctor.findings import Finding, any_bad, as_json, as_text
from hpcmarl.doctor.ping import AllPairs
from tests.support.worlds import SPREAD


def exchange(size, lose=lambda source, destination: False, dead=()):
    """Let virtual ranks ping each other under a simulated clock.

    Args:
        size: Number of ranks.
        lose: Whether a message from one rank to another is lost.
        dead: Ranks that do not take part.

    Returns:
        The pings of rank 0, and the seconds until all ranks were done.
    """
    local, now = LocalWorld(size), [0.0]
    ranks = {}
    for rank in (rank for rank in range(size) if rank not in dead):
        transport, send = local.transports[rank], local.transports[rank].send

        def lossy(destination, buffer, rank=rank, send=send, transport=transport):
            return send(rank if lose(rank, destination) else destination, buffer)

        transport.send = lossy
        ranks[rank] = AllPairs(transport, {"rank": rank}, timeout=1.0, clock=lambda: now[0])
    done = dict.fromkeys(ranks, False)
    while not all(done.values()):
        for rank, part in ranks.items():
            done[rank] = done[rank] or part.step()
        now[0] += 0.05
        assert now[0] < 10, "the deadline does not hold"
    return ranks[0], now[0]


class TestPing:
    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_all_pings_arrive_before_the_deadline(self, size):
        part, seconds = exchange(size)
        assert part.failures() == []
        assert {rank: report["facts"]["rank"] for rank, report in part.reports.items()} == {
            rank: rank for rank in range(size)
        }
        assert seconds < 1.0

    def test_lost_ping_names_source_and_destination(self):
        part, _ = exchange(4, lose=lambda source, destination: (source, destination) == (1, 2))
        assert part.failures() == ["1 -> 2"]

    def test_dead_rank_is_reported_once(self):
        part, _ = exchange(4, dead={2})
        assert part.failures() == ["2 did not report"]
        finding = world.judge_messages(part)
        assert finding.status == "BAD"
        assert "2 did not report" in finding.value

    def test_ping_finding_counts_pairs_and_suggests_more_ranks(self):
        assert world.judge_messages(exchange(3)[0]).value.startswith("all 6 pairs")
        assert world.judge_messages(exchange(1)[0]).remedy == "hpcmarl doctor -n 4"


def reports_of(places, problem=()):
    """Return reports of ranks that are given as rank -> (host, cores)."""
    return {
        rank: {
            "facts": {
                "host": host,
                "cores": list(cores),
                "memory": 1e12,
                "write_problem": dict(problem).get(rank, ""),
            }
        }
        for rank, (host, cores) in places.items()
    }


BASE = "env: {id: a.b}\nstop: {updates: 3}\n"


class TestFindings:
    def test_findings_are_formatted_as_text_and_json(self):
        findings = [Finding("OK", "a", "fine"), Finding("BAD", "longer", "two\nlines", "do this")]
        assert as_text(findings) == "OK    a       fine\nBAD   longer  two lines  -> do this"
        assert json.loads(as_json(findings)) == {
            "findings": [
                {"status": "OK", "name": "a", "value": "fine", "remedy": ""},
                {"status": "BAD", "name": "longer", "value": "two\nlines", "remedy": "do this"},
            ],
            "bad": True,
        }
        assert not any_bad(findings[:1])

    def test_core_finding_warns_of_oversubscribed_hosts(self):
        reports = reports_of(
            {rank: ("h0" if rank < 4 else "h1", range(4)) for rank in range(5)}, problem={4: "Read-only"}
        )
        findings = world.judge_facts(reports, threads=2)
        assert [(finding.status, finding.name) for finding in findings] == [
            ("WARN", "cores"),
            ("OK", "cores"),
            ("BAD", "run directory"),
        ]
        assert findings[0].value == "h0: ranks 0-3 with 2 threads each on 4 cores"
        assert findings[0].remedy.startswith(
            "3 ranks are useful on these cores, of which the server's waits most of the time"
        )
        assert "rank 4 on h1: Read-only" in findings[2].value

    def test_a_host_without_the_server_has_a_rank_a_core(self):
        findings = world.judge_facts(
            reports_of({0: ("h0", range(4)), **{rank: ("h1", range(2)) for rank in (1, 2, 3)}}), threads=1
        )
        assert [(finding.status, finding.name) for finding in findings] == [
            ("OK", "cores"),
            ("WARN", "cores"),
        ]
        assert findings[1].remedy.startswith(
            "2 ranks are useful on these cores; more are useful only if environments sleep"
        )

    def test_cores_of_a_host_are_the_union_of_its_ranks_cores(self):
        bound = reports_of({0: ("h", [0, 1]), 1: ("h", [2, 3]), 2: ("h", [4, 5])})
        (finding,) = world.judge_facts(bound, threads=2)
        assert (finding.status, finding.value) == ("OK", "h: ranks 0-2 with 2 threads each on 6 cores")
        (finding,) = world.judge_facts(reports_of({rank: ("h", [0]) for rank in range(3)}), threads=1)
        assert (finding.status, finding.value) == ("WARN", "h: ranks 0-2 with 1 thread each on 1 core")

    def test_ranks_that_are_bound_to_too_few_cores_are_named(self):
        reports = reports_of(
            {0: ("h", range(8)), 1: ("h", [0]), 2: ("h", [1]), 3: ("h", range(8)), 5: ("h", [2])}
        )
        reports.pop(3)
        (finding,) = world.judge_facts(reports, threads=2)
        assert finding.status == "WARN"
        assert finding.value == "h: ranks 1-2, 5 with 2 threads each bound to 1 core"
        assert "mpirun --bind-to none" in finding.remedy

    def test_memory_of_a_host_is_the_least_that_a_rank_sees(self):
        reports = reports_of({0: ("h", [0]), 1: ("h", [0]), 2: ("g", [0])})
        for rank, memory in enumerate((3e9, 2e9, None)):
            reports[rank]["facts"]["memory"] = memory
        assert world.memory_by_host(reports) == {"h": 2e9}

    def test_this_machine_has_some_memory(self):
        assert world.local_facts(Path("runs"))["memory"] > 1e6

    def test_role_findings_list_ranks_or_a_bad_topology(self):
        findings = world.judge_roles(["h"] * 4, load_config(BASE, ["topology.actors_per_learner=2"]))
        assert [finding.name for finding in findings] == ["rank 0", "rank 1", "rank 2", "rank 3"]
        assert findings[1].value.startswith("learner on h")
        [bad] = world.judge_roles(["h"] * 2, load_config(BASE, ["topology.groups=7"]))
        assert bad.status == "BAD"
        assert "topology.groups" in bad.remedy

    def test_storage_finding_checks_directory_and_file_locks(self, tmp_path, monkeypatch):
        target = tmp_path / "not" / "yet"
        assert [(finding.name, finding.status) for finding in checks.check_storage(target)][:2] == [
            ("run directory", "OK"),
            ("HDF5 locking", "OK"),
        ]
        assert list(tmp_path.iterdir()) == []

        def no_locks(*arguments):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
        monkeypatch.setattr(fcntl, "flock", no_locks)
        finding = checks.check_storage(target)[1]
        assert (finding.status, finding.remedy) == ("WARN", "export HDF5_USE_FILE_LOCKING=FALSE")
        monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
        assert checks.check_storage(target)[1].status == "OK"

    @pytest.mark.parametrize(("free", "status"), [(1 << 20, "BAD"), (1 << 30, "WARN"), (1 << 40, "OK")])
    def test_free_space_determines_the_status(self, tmp_path, monkeypatch, free, status):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage(1 << 50, 0, free))
        assert checks.check_storage(tmp_path)[-1].status == status

    def test_unwritable_run_directory_is_bad(self, tmp_path):
        (tmp_path / "file").write_text("")
        [finding] = checks.check_storage(tmp_path / "file")
        assert finding.status == "BAD"

    def test_environment_finding_describes_or_rejects_it(self):
        (bad,), nothing = checks.check_environment(load_config(BASE))
        assert nothing is None
        assert bad.status == "BAD"
        assert bad.remedy
        (good, policy, state), spec = checks.check_environment(
            load_config("env: {id: mpe2.simple_spread_v3}\nstop: {updates: 1}\n")
        )
        assert "parallel, 1 policy" in good.value
        assert policy.value.endswith("observations 18, actions discrete 5, no action masks")
        assert state.value.startswith("54 numbers")
        assert spec.policies[0].agents == ("agent_0", "agent_1", "agent_2")

    def test_image_environment_is_warned_about(self):
        (seen, *_), _ = checks.check_environment(
            load_config(
                "env: {id: tests.support.environments:screen}\nstop: {updates: 1}\n"
                "algo: {network: {encoder: flat}}\n"
            )
        )
        assert seen.status == "WARN"
        assert "look like images (64x64x3 uint8, 12,288 numbers)" in seen.value
        assert "algo.network.encoder: cnn" in seen.remedy

    def test_images_with_convolutions_are_no_problem(self):
        (seen, *_), _ = checks.check_environment(
            load_config("env: {id: tests.support.environments:screen}\nstop: {updates: 1}\n")
        )
        assert seen.status == "OK"

    def test_missing_packages_are_reported_with_install_command(self, monkeypatch):
        monkeypatch.setattr(
            checks,
            "OPTIONAL_PACKAGES",
            {"numpy": ("numpy", "no"), "surely-not-there": ("surely_not_there", "pip install it")},
        )
        there, missing = checks.check_packages()
        assert there.remedy == ""
        assert (missing.value, missing.remedy) == ("not installed", "pip install it")


def test_each_learner_without_its_device_is_bad(monkeypatch):
    monkeypatch.setattr("torch.version.cuda", None)
    config = load_config(SPREAD, ["device=cuda"])
    findings = devices.check_devices_of_ranks(LocalWorld(1).transports[0], config)
    assert [(finding.status, finding.name) for finding in findings] == [("BAD", "device of rank 0")]
    assert "device: cuda, but torch " in findings[0].value


def test_devices_of_learners_are_shown(monkeypatch):
    monkeypatch.setattr(devices, "open_own", lambda *_: ("cuda:0", "GPU-7"))
    config = load_config(SPREAD, ["device=cuda"])
    (finding,) = devices.check_devices_of_ranks(LocalWorld(1).transports[0], config)
    assert finding.status == "OK"
    assert finding.value.startswith("cuda:0 (GPU-7) on ")
    (other,) = devices.describe_other_devices(load_config(SPREAD))
    assert other.value == "cpu (device: auto)"
