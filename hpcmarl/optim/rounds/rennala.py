"""Rennala (arXiv 2509.24305): groups sample the same objective; the first M trajectories end the round, whoever made them."""

from hpcmarl.optim.rounds.base import RoundRule


class Rennala(RoundRule):
    """A round ends when sum_i M_i >= M; the direction is (sum_i S_i) / (sum_i M_i). Unfinished work is abandoned."""

    summary = "the first M trajectories of any groups end the round (homogeneous objectives)"

    def complete(self) -> bool:
        return sum(self.counts) >= self.target
