"""QMIX (arXiv 1803.11485): the team's value is a monotonic function of the agents' values.

    Q_tot = w_2(s)ᵀ elu( W_1(s) q + b_1(s) ) + b_2(s),      W_1, w_2 >= 0
    q     = (Q_1(o_1, u_1) ... Q_n(o_n, u_n))

The state s determines the function. Since it is monotonic, argmax_u Q_tot consists of each agent's own
argmax. W_1 and w_2 are absolute values of two-layer networks of s. b_1 is linear, and b_2 has two layers
(nets/mixers.py: MonotonicMixer). Loss, targets and symbols are in mixed.py and q_learning.py.
"""

from hpcmarl.algos.mixed import Mixed


class QMIX(Mixed):
    """Value-based learning with a monotonic mixer."""
