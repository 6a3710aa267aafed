"""QMIX (arXiv 1803.11485): the team's value is a monotonic function, made from the state, of the agents'
values.

    Q_tot = w_2(s)ᵀ elu( W_1(s) q + b_1(s) ) + b_2(s),      W_1, w_2 >= 0,   q = (Q_1(o_1, u_1) ... Q_n(o_n,
        u_n))

so that argmax_u Q_tot is made of each agent's own argmax. W_1, w_2: two-layer networks of s (absolute
values), b_1 linear, b_2 of two layers (nets/mixers.py: MonotonicMixer). Loss, targets and symbols: mixed.py,
q_learning.py.
"""

from hpcmarl.algos.mixed import Mixed


class QMIX(Mixed):
    """The mixer is monotonic."""
