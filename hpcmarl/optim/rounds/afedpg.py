"""AFedPG (arXiv 2404.08003): every arriving gradient, of any age, is a step."""

from hpcmarl.optim.rounds.base import POOLED, Accept, Command, Drop, Publish, RoundRule, Step


class AFedPG(RoundRule):
    """Step on every gradient, and send the new query point only to the group that sent the gradient.

    No group waits for another one. A group delivers one gradient of M trajectories and continues at the query
    point that it receives in return. With `nigt` the server computes

        d      = (1 - eta) d + eta g
        theta' = theta + alpha d / |d|
        answer = theta' + ((1 - eta) / eta)(theta' - theta)

    The momentum eta is constant, because the paper's dependence on the delay is not public. Faster groups
    weigh more, in proportion to their speed. AllReduce cannot be used: no sum over several groups exists, and
    each group has a different query point.
    """

    any_age = True
    waits = True
    summary = "every gradient, of any age, is a step; the new point goes to its sender only"

    def quota(self, target: int | None = None) -> int:
        return target or self.target

    def complete(self) -> bool:
        return any(self.counts)

    def on_gradient(self, group: int, version: int, count: int) -> list[Command]:
        self._check(group, version, count)
        age = self.round - version
        if group in self.lost:
            return [Drop(group, count, age)]
        self.round += 1
        return [Accept(group, age), Step(POOLED, self.total_scale(count)), Publish(self.round, (group,))]
