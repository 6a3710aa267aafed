# Shared by tools/quickstart and tools/test: the virtual environment .venv in the repository. Sourced, with the root as working directory.

say() { printf '%s\n' "$*" >&2; }

# The first Python that is new enough, or a clear end.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    say "No Python 3.11 or newer (with venv) was found. Load or install one (on a cluster: module load python), or name it: PYTHON=/path/to/python3 $0"
    return 2
}

# prepare_environment EXTRA,EXTRA: make .venv and install hpcmarl with these extras; does nothing where it has been done.
prepare_environment() {
    local extras=$1 python stamp wanted
    stamp=.venv/.hpcmarl-$(printf '%s' "$extras" | tr -c 'a-z' '-')
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python) || return
        say "making .venv with $python"
        "$python" -m venv .venv || { say "$python -m venv failed; on Debian and Ubuntu its package is python3-venv"; return 1; }
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

# A second, small environment for MPICH: both MPI wheels install bin/mpiexec, so they cannot share one. Everything else comes from .venv.
prepare_mpich_environment() {
    local wanted
    wanted=$(cksum <tools/constraints.txt)
    if [ -x .venv-mpich/bin/mpiexec ] && [ "$(cat .venv-mpich/.hpcmarl 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    say "making .venv-mpich"
    .venv/bin/python -m venv --clear .venv-mpich || return
    .venv-mpich/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -c tools/constraints.txt mpich mpi4py || return
    # addsitedir, unlike a bare path, also runs the other environment's .pth files: hpcmarl itself is one of them
    printf 'import site; site.addsitedir("%s")\n' "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
        >"$(.venv-mpich/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/hpcmarl-shared.pth"
    printf '%s\n' "$wanted" >.venv-mpich/.hpcmarl
}
