"""Value decomposition networks (arXiv 1706.05296).

    Q_tot(o, u) = sum_a Q_a(o_a, u_a)

Loss, targets and symbols are in mixed.py and q_learning.py.
"""

from hpcmarl.algos.mixed import Mixed


class VDN(Mixed):
    """Value-based learning with the sum as mixer."""
