"""The commands: exit codes, one-line errors, starts with -n, and JSON on standard output.

The functions that do the work are replaced.
"""

import json
import re
import sys
import types

import pytest

from hpcmarl import __version__
from hpcmarl.cli import main as cli
from tests.support.fixtures import CONFIG

COMMANDS = [
    "train",
    "eval",
    "doctor",
    "config show",
    "config check",
    "config schema",
    "list envs",
    "list algos",
    "list presets",
    "list rules",
    "bench throughput",
    "bench learning",
    "bench comm",
    "bench io",
    "bench sparse",
    "bench league",
    "bench stragglers",
    "bench startup",
    "bench scale",
    "simulate",
    "submit",
]


class TestUsage:
    def test_version_option_prints_the_version(self, run):
        assert run("--version") == (0, f"hpcmarl {__version__}\n", "")

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_has_help(self, run, command):
        code, out, _ = run(*command.split(), "--help")
        assert code == 0
        assert "Usage: hpcmarl" in out
        if not command.startswith("list"):
            assert f"hpcmarl {command}" in out.split("\n", 1)[1]  # an example

    @pytest.mark.parametrize(
        "arguments",
        [
            ["bogus"],
            ["train", "--bogus"],
            ["eval"],
            ["train", "tiny.yaml", "-n", "0"],
            ["train", "tiny.yaml", "-n", "x"],
        ],
    )
    def test_wrong_usage_exits_with_code_2(self, run, here, arguments):
        code, _, err = run(*arguments)
        assert code == 2
        assert "rror:" in err

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["train", "none.yaml"], "none.yaml: no such file"),
            (["train", "tiny.yaml", "stop.updates=0"], "command line: stop.updates is 0"),
            (["train", "tiny.yaml", "stop.updates=0", "-n", "2"], "command line: stop.updates is 0"),
            (["train"], "CONFIG is missing"),
            (["train", "--resume", "auto"], "CONFIG is missing"),
            (["train", "--resume", "nowhere"], "nowhere: no such run directory or checkpoint"),
            (["train", "--resume", "."], "no config.yaml there"),
            (["eval", "nowhere"], "nowhere: no such run"),
            (["config", "check", "tiny.yaml", "seed=x"], "seed is 'x'"),
            (["config", "show", "tiny.yaml", "sed=1"], "did you mean seed?"),
            (["doctor", "none.yaml"], "none.yaml: no such file"),
            (["bench", "throughput", "none.yaml"], "none.yaml: no such file"),
        ],
    )
    def test_user_errors_are_one_line_and_exit_with_code_2(
        self, run, here, trained, started, arguments, words
    ):
        code, out, err = run(*arguments)
        assert code == 2
        assert out == ""
        assert re.fullmatch(r"error: [^\n]*\n", err)
        assert words in err
        assert not trained
        assert not started

    def test_errors_of_nonzero_ranks_name_the_rank(self, run, here, monkeypatch):
        for name, value in (("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "3")):
            monkeypatch.setenv(name, value)
        assert run("train", "none.yaml")[2].startswith("rank 3: error: none.yaml")


class TestTrain:
    def test_train_runs_in_process_on_one_rank(self, run, here, trained, started):
        assert run("train", "tiny.yaml", "seed=5", "--run-dir", "d", "--resume", "auto")[0] == 75
        [(config, run_dir, resume)] = trained
        assert (config.seed, run_dir, resume) == (5, "d", "auto")
        assert run("train", "tiny.yaml", "-n", "1")[0] == 75
        assert not started

    def test_train_starts_ranks_with_a_shared_run_directory(self, run, here, trained, started):
        assert run("train", "tiny.yaml", "seed=5", "-n", "3", "stop.updates=9")[0] == 7
        [(ranks, arguments)] = started
        assert ranks == 3
        assert arguments[:-1] == ["train", "tiny.yaml", "seed=5", "stop.updates=9", "--run-dir"]
        assert re.fullmatch(r"runs/tiny-\d{8}-\d{6}", arguments[-1])
        assert not trained

    def test_train_forwards_run_directory_and_resume(self, run, here, started):
        run("train", "tiny.yaml", "-n", "2", "--run-dir", "d", "--resume", "auto")
        run("train", "tiny.yaml", "-n", "2", "--resume", "auto")
        assert [arguments for _, arguments in started] == [
            ["train", "tiny.yaml", "--run-dir", "d", "--resume", "auto"],
            ["train", "tiny.yaml", "--resume", "auto"],
        ]

    def test_resume_uses_the_configuration_of_the_run(self, run, here, trained, started):
        (here / "r" / "checkpoints").mkdir(parents=True)
        (here / "r" / "config.yaml").write_text(CONFIG)
        checkpoint = here / "r" / "checkpoints" / "checkpoint-1.h5"
        checkpoint.write_bytes(b"")
        run("train", "--resume", "r", "stop.updates=8")
        run("train", "stop.updates=9", "--resume", str(checkpoint))
        assert [(config.stop.updates, resume) for config, _, resume in trained] == [
            (8, "r"),
            (9, str(checkpoint)),
        ]
        run("train", "--resume", "r", "-n", "2", "seed=1")
        assert started[0][1] == ["train", "seed=1", "--resume", "r"]

    def test_train_sets_the_thread_count(self, run, here, trained, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "")
        run("train", "tiny.yaml")
        import os

        assert os.environ["OMP_NUM_THREADS"] == "2"

    def test_one_rank_inside_a_world_is_refused(self, run, here, trained, monkeypatch):
        monkeypatch.setenv("PMI_SIZE", "4")
        monkeypatch.setenv("PMI_RANK", "0")
        code, _, err = run("train", "tiny.yaml", "-n", "1")
        assert code == 2
        assert "leave -n out" in err

    def test_an_error_of_hpcmarl_itself_is_raised_whole(self, here, monkeypatch):
        monkeypatch.setitem(
            sys.modules, "hpcmarl.training", types.SimpleNamespace(train=lambda *_, **__: 1 / 0)
        )
        monkeypatch.setattr(sys, "argv", ["hpcmarl", "train", "tiny.yaml"])
        with pytest.raises(ZeroDivisionError):
            cli.main()


class TestOutput:
    def test_config_show_output_can_be_loaded_again(self, run, here):
        code, out, _ = run("config", "show", "tiny.yaml", "optimizer.name=nigt")
        assert code == 0
        (here / "again.yaml").write_text(out)
        assert run("config", "show", "again.yaml")[1] == out
        assert "extrapolate: true" in out

    def test_config_check_summarises_a_valid_file(self, run, here):
        assert run("config", "check", "tiny.yaml")[1] == "tiny.yaml is valid: a.b, ma_trace, adam, sync\n"

    def test_config_schema_explains_one_key(self, run, monkeypatch):
        monkeypatch.setenv("COLUMNS", "60")
        lines = run("config", "schema", "rounds.batch")[1].splitlines()
        assert lines[0] == "rounds.batch"
        assert max(map(len, lines)) <= 60
        code, _, error = run("config", "schema", "lr")
        assert code == 2
        assert "did you mean optimizer.step_size?" in error

    def test_config_check_makes_the_environment(self, run):
        code, out, _ = run("config", "check", "quickstart", "--env")
        assert code == 0
        assert "policy agent: 3 agents" in out
        assert run("config", "check", "quickstart", "--env", "env.id=mpe2.simple_sprad_v3")[0] == 2

    def test_config_schema_prints_a_table_and_json(self, run):
        lines = run("config", "schema")[1].splitlines()
        assert any(
            re.match(r"topology\.groups\.0\.delay\.step +a number >= 0 +0\.0 +seconds", line)
            for line in lines
        )
        assert json.loads(run("config", "schema", "--json")[1])["properties"]["rounds"]

    @pytest.mark.parametrize(
        ("what", "key", "name"),
        [
            ("envs", "environments", "mpe2.simple_spread_v3"),
            ("algos", "algorithms", "ma_trace"),
            ("rules", "rules", "rennala"),
        ],
    )
    def test_list_commands_print_tables_and_json(self, run, what, key, name):
        rows = json.loads(run("list", what, "--json")[1])[key]
        assert name in [row.get("name", row.get("id")) for row in rows]
        table = run("list", what)[1].splitlines()
        assert len(table) == len(rows) + 1
        assert any(line.startswith(name) for line in table)

    def test_eval_prints_json_and_forwards_its_options(self, run, here, monkeypatch):
        calls = []

        def evaluate(path, episodes, greedy, seed, random, on_progress):
            calls.append((str(path), episodes, greedy, seed, random))
            return {"return_mean": 1.5, "episodes": 4}

        monkeypatch.setitem(
            sys.modules, "hpcmarl.evaluation", types.SimpleNamespace(evaluate_checkpoint=evaluate)
        )
        (here / "config.yaml").write_text(CONFIG)
        assert json.loads(run("eval", ".", "--episodes", "4", "--json")[1]) == {
            "return_mean": 1.5,
            "episodes": 4,
        }
        assert run("eval", ".", "--sample", "--seed", "3", "--random", "a_0")[1].splitlines() == [
            "return_mean  1.5",
            "episodes     4",
        ]
        assert calls == [(".", 4, None, None, ()), (".", None, False, 3, ["a_0"])]

    def test_bench_starts_ranks_or_runs_in_process(self, run, here, started, monkeypatch):
        monkeypatch.setitem(
            sys.modules,
            "hpcmarl.bench.throughput",
            types.SimpleNamespace(run=lambda config, seconds: {"name": config.name, "seconds": seconds}),
        )
        monkeypatch.setitem(
            sys.modules, "hpcmarl.bench.comm", types.SimpleNamespace(run=lambda config, seconds: None)
        )
        assert run("bench", "comm", "-n", "4", "--seconds", "2", "--json")[0] == 7
        assert run("bench", "stragglers", "--unit", "0.1")[0] == 7
        assert started == [
            (4, ["bench", "comm", "--seconds", "2.0", "--json"]),
            (9, ["bench", "stragglers", "--seconds", "12.0", "--unit", "0.1"]),
        ]
        monkeypatch.setenv("PMI_SIZE", "4")
        monkeypatch.setenv("PMI_RANK", "0")
        assert json.loads(run("bench", "throughput", "tiny.yaml", "--seconds", "2", "--json")[1]) == {
            "name": "tiny",
            "seconds": 2.0,
        }
        assert json.loads(run("bench", "throughput", "name=other", "--json")[1])["name"] == "other"
        assert run("bench", "comm", "--json")[:2] == (0, "")  # a rank without a result
        assert len(started) == 2

    def test_bench_sparse_prints_rows_as_table_and_json(self, run, monkeypatch):
        rows = [
            {"width": 8, "sparsity": 0.5, "forms": "csr dense"},
            {"width": 16, "sparsity": 0.5, "forms": "dense"},
        ]
        monkeypatch.setitem(
            sys.modules,
            "hpcmarl.bench.sparse",
            types.SimpleNamespace(run=lambda seconds, on_progress: [row | {"s": seconds} for row in rows]),
        )
        assert json.loads(run("bench", "sparse", "--seconds", "3", "--json")[1]) == {
            "rows": [row | {"s": 3.0} for row in rows]
        }
        table = run("bench", "sparse")[1].splitlines()
        assert table[0].split() == ["width", "sparsity", "forms", "s"]
        assert len(table) == 3
        assert run("bench", "sparse", "--seconds", "0")[0] == 2

    def test_data_forwards_its_arguments(self, run, monkeypatch):
        calls = []

        def data_app(arguments, prog_name):
            calls.append((arguments, prog_name))

        monkeypatch.setitem(sys.modules, "hpcmarl.cli.data", types.SimpleNamespace(data_app=data_app))
        run("data", "inspect", "a", "--json")
        run("data", "--help")
        assert calls == [(["inspect", "a", "--json"], "hpcmarl data"), (["--help"], "hpcmarl data")]

    def test_doctor_forwards_its_arguments(self, run, here, started, monkeypatch):
        calls = []

        def examine(config, run_directory, as_json):
            calls.append((config and config.name, str(run_directory), as_json))
            return 1

        monkeypatch.setattr("hpcmarl.doctor.examine", examine)
        assert run("doctor")[0] == 1
        assert run("doctor", "tiny.yaml", "--run-dir", "d", "--json")[0] == 1
        assert calls == [(None, "runs", False), ("tiny", "d", True)]
        run("doctor", "tiny.yaml", "seed=3", "-n", "2", "--json")
        assert started == [(2, ["doctor", "tiny.yaml", "seed=3", "--run-dir", "runs", "--json"])]
