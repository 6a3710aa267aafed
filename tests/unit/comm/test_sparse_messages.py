"""Updates whose direction must include inactive weights, so that messages cannot be sparse."""

from hpcmarl.config import SparseConfig
from hpcmarl.optim.sparse import needs_all


def test_full_gradient_is_needed_only_before_growth():
    plan = SparseConfig(every=5, last=15, growth="gradient")
    assert [update for update in range(1, 30) if needs_all(plan, update)] == [5, 10]
    assert not any(
        needs_all(SparseConfig(every=5, growth=growth), update)
        for growth in ("random", "none")
        for update in range(30)
    )
