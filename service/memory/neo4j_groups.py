"""Calls that are carried out together: what comes while a transaction runs shares the next one.

A transaction takes some 20 ms, most of it waiting for the disk, whether it writes one memory or a
hundred; and those of a tenant run one after the other.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from service.errors import ServiceError, StoreUnavailable
from service.memory.model import Draft, Receipt, Remembered
from service.memory.neo4j_errors import can_be_repeated
from service.memory.store import MAX_DRAFTS


class RememberCall(NamedTuple):
    """What one call of `remember` is given."""

    drafts: Sequence[Draft]
    now: datetime
    receipt: Receipt | None


Answer = list[Remembered] | ServiceError

# Carries calls out in one transaction, in their order; the answer to each.
CarryOut = Callable[[str, Sequence[RememberCall]], Awaitable[Sequence[Answer]]]


class CallGroups:
    """Calls of each tenant, in groups; to be finished before it is dropped."""

    def __init__(self, carry_out: CarryOut) -> None:
        self._carry_out = carry_out
        self._waiting: defaultdict[str, deque[_Waiting]] = defaultdict(deque)
        self._workers: dict[str, asyncio.Task[None]] = {}

    async def remember(self, tenant: str, call: RememberCall) -> list[Remembered]:
        """What became of the call's drafts; raises what the call alone is answered with."""
        answer: asyncio.Future[list[Remembered]] = asyncio.get_running_loop().create_future()
        self._waiting[tenant].append(_Waiting(call, answer))
        if tenant not in self._workers:
            self._workers[tenant] = asyncio.create_task(self._work(tenant))
        return await answer

    async def finish(self) -> None:
        """Return when what was called is answered."""
        while self._workers:
            await asyncio.wait(self._workers.values())

    async def _work(self, tenant: str) -> None:
        try:
            while group := self._next_group(tenant):
                await self._answer(tenant, group)
        finally:
            del self._workers[tenant], self._waiting[tenant]

    def _next_group(self, tenant: str) -> "list[_Waiting]":
        waiting = self._waiting[tenant]
        group: list[_Waiting] = []
        drafts = 0
        while waiting and (not group or drafts + len(waiting[0].call.drafts) <= MAX_DRAFTS):
            one = waiting.popleft()
            if not one.answer.done():  # cancelled meanwhile
                group.append(one)
                drafts += len(one.call.drafts)
        return group

    async def _answer(self, tenant: str, group: "Sequence[_Waiting]") -> None:
        try:
            answers = await self._carry_out(tenant, [waiting.call for waiting in group])
        except Exception as error:  # noqa: BLE001 - it is the callers', and must not end the worker
            if len(group) == 1 or _concerns_all(error):
                for waiting in group:
                    waiting.fail(error)
                return
            for waiting in group:
                await self._answer(tenant, [waiting])
            return
        for waiting, answer in zip(group, answers, strict=True):
            waiting.end(answer)


class _Waiting(NamedTuple):
    call: RememberCall
    answer: "asyncio.Future[list[Remembered]]"

    def end(self, answer: Answer) -> None:
        if isinstance(answer, ServiceError):
            self.fail(answer)
        elif not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def _concerns_all(error: Exception) -> bool:
    """Whether the calls would fail one by one too, as no server answers or it is not our store."""
    return isinstance(error, StoreUnavailable) and (
        error.__cause__ is None or can_be_repeated(error.__cause__)
    )
