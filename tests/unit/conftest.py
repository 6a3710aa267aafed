"""What several unit tests ask for."""

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
