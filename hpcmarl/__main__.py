"""`python -m hpcmarl` is `hpcmarl`: how ranks are started where the console script may not be on PATH."""

from hpcmarl.cli.main import main

if __name__ == "__main__":
    main()
