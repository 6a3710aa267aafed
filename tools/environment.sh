# Functions that make the virtual environment .venv in the repository. Source this file with the root of the
# repository as working directory.

say() { printf '%s\n' "$*" >&2; }

# find_python: print the first interpreter that is new enough; return 2 with a message if none is.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    say "No Python 3.11 or newer (with venv) was found. Load or install one (on a cluster: module load python), or set PYTHON=/path/to/python3"
    return 2
}

# prepare_environment EXTRA,EXTRA: make .venv and install hpcmarl with these extras, unless this was done
# before.
prepare_environment() {
    local extras=$1 python stamp wanted
    stamp=.venv/.hpcmarl-$(printf '%s' "$extras" | tr -c 'a-z' '-')
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python) || return
        say "making .venv with $python"
        "$python" -m venv .venv || { say "$python -m venv failed; on Debian and Ubuntu install the package python3-venv"; return 1; }
    fi
    wanted=$(cat tools/constraints.txt setup.py pyproject.toml | cksum)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return 0
    fi
    say "installing hpcmarl[$extras] into .venv (a few minutes the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c tools/constraints.txt -e ".[$extras]" || {
        say "pip failed, see above; the versions are in tools/constraints.txt"
        return 1
    }
    printf '%s\n' "$wanted" >"$stamp"
}

# prepare_mpich_environment: make .venv-mpich. The wheels of Open MPI and MPICH both install bin/mpiexec, so
# they cannot share an environment. All other packages come from .venv.
prepare_mpich_environment() {
    local wanted
    wanted=$(cksum <tools/constraints.txt)
    if [ -x .venv-mpich/bin/mpiexec ] && [ "$(cat .venv-mpich/.hpcmarl 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    say "making .venv-mpich"
    .venv/bin/python -m venv --clear .venv-mpich || return
    .venv-mpich/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -c tools/constraints.txt mpich mpi4py || return
    # addsitedir, unlike a bare path, also processes the .pth files of .venv, one of which provides hpcmarl
    printf 'import site; site.addsitedir("%s")\n' "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
        >"$(.venv-mpich/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/hpcmarl-shared.pth"
    printf '%s\n' "$wanted" >.venv-mpich/.hpcmarl
}
