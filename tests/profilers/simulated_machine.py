"""A machine whose clock only sessions move, so that the truth is known."""

import itertools
import math
import random


class Machine:
    """A clock that only sessions move; its speed drifts as a shared machine's does."""

    def __init__(self, *, drift=0.3, noise=0.0, seed=0):
        self.now, self.drift, self.noise, self.random = 0.0, drift, noise, random.Random(seed)

    def clock(self):
        return self.now

    @property
    def slowness(self):
        return 1 + self.drift * math.sin(self.now * 3)

    def work(self, seconds):
        self.now += seconds * self.slowness * (1 + self.noise * abs(self.random.gauss(0, 1)))


class FakeSession:
    """Stands for a runtime's session: takes a known time on a simulated machine."""

    def __init__(self, machine, seconds):
        self.machine, self.seconds, self.visits = machine, seconds, 0

    def durations(self, count, clock):
        self.visits += 1
        stamps = [clock()]
        for _ in range(count):
            self.machine.work(self.seconds)
            stamps.append(clock())
        return [after - before for before, after in itertools.pairwise(stamps)]


class SharedMachine(Machine):
    """One whose processor another process takes, for as long again, every 3 ms, from `busy[0]` to `busy[1]` seconds.

    The run in which it comes back, and `cold` of the next one, are slower: its caches were used by the other.
    """

    slice_s = 3e-3

    def __init__(self, *, busy=(0.0, math.inf), cold=0.0):
        super().__init__(drift=0)
        self.waited, self.left, self.switches, self.busy, self.cold = 0.0, self.slice_s, 0, busy, cold

    def work(self, seconds):
        if not self.busy[0] <= self.now < self.busy[1]:
            self.now += seconds
            return
        while seconds >= self.left:
            self.now, self.waited = self.now + self.left + self.slice_s, self.waited + self.slice_s
            self.switches += 1
            seconds, self.left = seconds - self.left + self.cold, self.slice_s
        self.now, self.left = self.now + seconds, self.left - seconds
