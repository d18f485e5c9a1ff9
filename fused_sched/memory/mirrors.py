"""What the host knows of numbers on the device: when its mirrors are right, and what replays of graphs do to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakSet, ref

from .platforms import Platform

if TYPE_CHECKING:
    from .hosted_array import HostedArray

_FOLLOWED = 128  # steps at a time: to wait for the device once is no slower than more of them


class Replay:
    """What a replay of one captured graph does to the mirrors of one optimizer, as the capture found it out.

    Attributes:
        steps: do the same to the mirrors, in order; None if only the device knows what comes out.
        conditions: for ``steps``, at the time of the replay.
    """

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] | None = []
        self.conditions: list[Callable[[], bool]] = []
        self._open: object | None = None

    def give_up(self) -> None:
        """Only the device knows."""
        self.steps = None

    def add(self, step: Callable[[], None]) -> None:
        """What comes next."""
        if self._open is not None:
            self.give_up()
        elif self.steps is not None:
            self.steps.append(step)

    def leave_open(self, owner: object) -> None:
        """Only the device knows whether the next step of ``owner`` is made already."""
        if self._open is not None:
            self.give_up()
        self._open = owner

    def close(self, owner: object, step: Callable[[], None], condition: Callable[[], bool]) -> None:
        """It is now, at whichever time, if ``condition`` holds before the replay."""
        if self._open is not owner:
            self.give_up()
        self._open = None
        self.conditions.append(condition)
        self.add(step)

    def finish(self) -> None:
        """The capture is over."""
        if self._open is not None:
            self.give_up()


class Mirrors:
    """All the mirrors that the host keeps of one optimizer's memory: they go out of date, and are read anew, together.

    The device's pow and cos are not the host's in the last place, so a mirror that followed by itself moves a
    little when it is read anew. Numbers that are the same on the device, such as the lr in the control block
    and in the schedule that set it, have to move at the same time.

    Replays are followed late: when the first of the mirrors is looked at.
    """

    def __init__(self) -> None:
        self._age = self._oldest = 0
        self._before: int | None = None  # the age that the last expire() ended, where that can be taken back
        self._arrays: WeakSet[HostedArray] = WeakSet()
        self._replays: list[tuple[ReferenceType[Replay], int]] = []  # not followed yet: which, and how many steps
        self._recorded: Replay | None = None
        self._recorded_by: ReferenceType[Any] | None = None
        self._began_at = 0

    def __iter__(self) -> Iterator[HostedArray]:
        return iter(self._arrays)

    @property
    def age(self) -> int:
        """Another when all of them have gone out of date."""
        if self._replays:
            self._follow_replays()
        return self._age

    def add(self, array: HostedArray) -> None:
        """Read ``array`` anew with the others from now on."""
        self._arrays.add(array)

    def expire(self) -> None:
        """Only the device knows what it has now: let the next read of any of them read all."""
        if self._recorded is not None:
            self._recorded.give_up()
        self._before = None if self._replays else self._age
        self._replays.clear()
        self._age = self._oldest = self._oldest + 1  # never one that was taken back: an array may have it

    def take_back(self, age: int) -> bool:
        """The last :meth:`expire` was none; False if it was not at that age."""
        if self._before != age or self._replays:
            return False
        self._age, self._before = age, None
        return True

    # -- replays -----------------------------------------------------------------------------------------

    def recorded(self, capturing: Callable[[], bool]) -> Replay | None:
        """Where to note what a replay will do, if something is being captured whose replays are told of."""
        if self._recorded is not None and not capturing():
            self.give_up(self._recorded)  # the capture has failed
        return self._recorded

    def is_recorded_by(self, telling: object) -> bool:
        """Whether ``telling`` is who tells of replays of what is being captured."""
        return self._recorded is not None and self._recorded_by is not None and self._recorded_by() is telling

    def record(self, replay: Replay, telling: object) -> None:
        """A graph is being captured, and nothing of what it does is done by now."""
        self._began_at = self.age
        self._recorded, self._recorded_by = None, ref(telling)
        self.expire()
        self._recorded = replay

    def finish(self, replay: Replay) -> None:
        """The capture is over: what was known before it is known again."""
        if self._recorded is replay:
            self._recorded = None
            replay.finish()
            self.take_back(self._began_at)

    def give_up(self, replay: Replay) -> None:
        """The capture has come to nothing."""
        replay.give_up()
        self.finish(replay)

    def note_replay(self, replay: Replay) -> None:
        """A graph was replayed."""
        if replay.steps is None or not all(holds() for holds in replay.conditions):
            self.expire()
        elif replay.steps:
            self._replays.append((ref(replay), len(replay.steps)))
            if sum(n for _, n in self._replays) > _FOLLOWED:
                self.expire()

    def _follow_replays(self) -> None:
        replays, self._replays = self._replays, []
        for reference, _ in replays:
            replay, age = reference(), self._age
            for step in (replay and replay.steps) or (self.expire,):
                step()
                if self._age != age:
                    return


class Telling(list[tuple[Mirrors, Replay]]):
    """Who is to call :meth:`Mirrors.note_replay` with these at every replay."""


_telling: Telling | None = None  # of the capture that goes on


@contextmanager
def told_of_replays() -> Iterator[Telling]:
    """For a capture whose every replay calls :meth:`Mirrors.note_replay` with what this gives."""
    global _telling
    found = _telling = Telling()
    try:
        yield found
    finally:
        _telling = None
        for mirrors, replay in found:
            mirrors.finish(replay)


def recording_of(mirrors: Mirrors, platform: Platform) -> bool:
    """Begin to record what a replay will do, unless that has begun; False if nobody tells of replays."""
    telling: Any = platform.graph_being_captured() if _telling is None else _telling
    if telling is None:
        return False
    if mirrors.is_recorded_by(telling):
        return True
    replay = Replay()
    mirrors.record(replay, telling)
    if _telling is not None:
        _telling.append((mirrors, replay))
        return True
    one = ref(mirrors)

    def call(what: Callable[[Mirrors, Replay], None]) -> None:
        found = one()
        if found is not None:
            what(found, replay)

    platform.follow_graph(telling, lambda: call(Mirrors.finish), lambda: call(Mirrors.note_replay))
    return True
