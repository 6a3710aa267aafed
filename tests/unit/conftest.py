"""What several unit tests ask for."""

import json
import sys

import pytest

from hpcmarl import cli


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command line; returns (exit code, standard output, standard error)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hpcmarl", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


@pytest.fixture
def told(run):
    """The JSON object of a command that must succeed."""

    def call(*arguments):
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call
