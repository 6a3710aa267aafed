"""Run `hpcmarl` as `python -m hpcmarl`.

Launchers start ranks this way, because the console script may not be on PATH.
"""

from hpcmarl.cli.main import main

if __name__ == "__main__":
    main()
