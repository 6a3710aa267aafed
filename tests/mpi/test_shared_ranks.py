"""The checks of tests/mpi/checks on real ranks; each MPI library has one world."""

import pytest

from tests.mpi.checks import load_checks
from tests.support.launch import LIBRARIES, needs_horovod, ranks_take_seconds
from tests.support.rank_world import RankWorld

pytestmark = [pytest.mark.mpi, ranks_take_seconds]
CHECKS = load_checks()


def cases() -> list:
    """Return one test for each library and check; tests of a world stay together and in order."""
    found = []
    for library in LIBRARIES:
        name, marks = (library, ()) if isinstance(library, str) else (library.values[0], library.marks)
        for check in CHECKS.values():
            if name in check.libraries:
                own = [needs_horovod] if check.needs_horovod else []
                found.append(pytest.param(name, check.name, marks=[*marks, *own], id=f"{name}-{check.name}"))
    return found


@pytest.fixture(scope="session")
def worlds(request, tmp_path_factory):
    """Start a world for each library, which runs only the selected checks."""
    chosen: dict[str, list[str]] = {}
    for item in request.session.items:
        if item.function is test_shared_ranks_pass and not any(
            marker.name == "skipif" and marker.args[0] for marker in item.iter_markers()
        ):
            chosen.setdefault(item.callspec.params["library"], []).append(item.callspec.params["check"])
    made = {
        library: RankWorld(
            library, max(CHECKS[name].ranks for name in names), names, tmp_path_factory.mktemp(library)
        )
        for library, names in chosen.items()
    }
    yield made
    for world in made.values():
        world.close()


@pytest.mark.parametrize(("library", "check"), cases())
def test_shared_ranks_pass(library, check, worlds):
    worlds[library].expect(check)


def test_failed_check_is_reported_and_the_next_one_runs(tmp_path):
    failing, passing = "rank_1_raises[2]", "nothing_is_wrong[2]"
    world = RankWorld("openmpi", 2, [failing, passing], tmp_path)
    try:
        with pytest.raises(pytest.fail.Exception, match=r"rank 1:\nTraceback(.|\n)*this rank is broken"):
            world.expect(failing)
        world.expect(passing)
    finally:
        world.close()
