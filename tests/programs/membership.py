"""Members come and go: join, add, promote, demote, update, remove, leave, several at once."""

import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack

import trio

from multiraft import (
    Entry,
    Group,
    GroupExists,
    Host,
    HostConfig,
    Member,
    MemberRemoved,
    MembershipRejected,
    NotMember,
    Role,
    StateMachine,
    open_host,
)


class Words(StateMachine):
    def __init__(self) -> None:
        self.words: list[str] = []

    def apply(self, entries: Sequence[Entry]) -> list[object]:
        self.words += [bytes(entry.data).decode() for entry in entries]
        return [None] * len(entries)

    def query(self, request: object) -> object:
        return " ".join(self.words)

    def snapshot(self) -> Iterable[bytes]:
        return [" ".join(self.words).encode()]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.words = b"".join(chunks).decode().split()


async def rejected(call: Callable[[], Awaitable[object]]) -> str:
    """The call must be refused, at once, with a reason; return the reason."""
    with trio.fail_after(8):  # leader_wait_s is more than that
        try:
            await call()
        except MembershipRejected as error:
            assert error.reason
            return str(error.reason)
    raise AssertionError("was not refused")


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.01)


def roles(group: Group) -> dict[int, Role]:
    return {i: m.role for i, m in group.members.items() if m.role is not Role.REMOVED}


async def settled(*groups: Group) -> None:
    """A change is done when it is applied where it was asked for. Elsewhere, the leader included, it may
    be under way for a moment longer, and then another one asked for there would be refused."""
    await until(lambda: len({group.status().version for group in groups}) == 1)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            hosts: list[Host] = []
            for name in "abcde":
                config = HostConfig(data_dir=f"{folder}/{name}", listen="127.0.0.1:0", tick_interval_s=0.02)
                hosts.append(
                    await stack.enter_async_context(open_host(config, machines=lambda group_id: Words()))
                )
            with trio.fail_after(60):
                await scenario(hosts)
    print("ok")


async def scenario(hosts: list[Host]) -> None:
    a, b, c, d, e = hosts
    first = await a.create_group(9)
    await first.propose(b"one")

    # Join by any member; who is not a member's host cannot help.
    second = await b.join_group(9, via=a.address)
    assert second.members[second.member_id].role is Role.VOTER
    await settled(first, second)
    third = await c.join_group(9, via="http://" + b.address.removeprefix("http://"), role=Role.VOTER)
    assert third.member_id in third.members
    assert await third.query(None) == "one"
    await settled(first, second, third)
    learner = await d.join_group(9, via=c.address, role=Role.LEARNER)
    assert learner.members[learner.member_id].role is Role.LEARNER
    await settled(first, second, third, learner)
    # A learner writes and reads like everybody.
    await learner.propose(b"two")
    assert await learner.query(None) == "one two"
    assert learner.stale_query(None) == "one two"
    await settled(first, second, third, learner)
    assert len(first.members) == 4

    # Joining twice is harmless (or says that the group is here).
    try:
        same = await d.join_group(9, via=a.address, role=Role.LEARNER)
    except GroupExists:
        same = d.group(9)
    assert same.member_id == learner.member_id
    try:
        with trio.fail_after(20):
            await e.join_group(10, via=a.address)
    except MembershipRejected as error:
        assert "10" in error.reason
        assert a.address in error.reason
    else:
        raise AssertionError("joined a group that nobody has")
    assert 10 not in e.groups

    # Promote and demote, from any member.
    assert "voter" in await rejected(lambda: first.promote_member(second.member_id))
    assert "voter" in await rejected(lambda: first.demote_member(learner.member_id))
    await first.promote_member(learner.member_id)
    await settled(first, second, third, learner)
    assert roles(third)[learner.member_id] is Role.VOTER
    await learner.demote_member(learner.member_id)
    await settled(first, second, third, learner)
    assert roles(third)[learner.member_id] is Role.LEARNER

    # Unknown ids are refused by every call.
    unknown: list[Callable[[], Awaitable[object]]] = [
        lambda: first.remove_member(4711),
        lambda: first.update_member(4711, address="127.0.0.1:9"),
        lambda: first.promote_member(4711),
        lambda: first.demote_member(4711),
    ]
    for call in unknown:
        assert "4711" in await rejected(call)

    # Updating to the same address succeeds.
    await first.update_member(learner.member_id, address=d.address)

    # A member that is nowhere: added as a learner, with an id picked here; updated; removed though
    # nobody ever answered.
    ghost = await first.add_member(Member(None, "127.0.0.1:1", role=Role.LEARNER))
    assert ghost.id is not None
    assert first.members[ghost.id].role is Role.LEARNER
    await first.update_member(ghost.id, address="127.0.0.1:2")
    assert first.members[ghost.id].address.endswith("127.0.0.1:2")
    await first.remove_member(ghost.id)
    assert ghost.id not in roles(first)
    # Its id is burnt, its address is free.
    assert first.members[ghost.id].role is Role.REMOVED
    assert str(ghost.id) in await rejected(
        lambda: first.add_member(Member(ghost.id, "127.0.0.1:3", role=Role.LEARNER))
    )
    await rejected(lambda: first.remove_member(ghost.id))
    await rejected(lambda: first.promote_member(ghost.id))
    other = await first.add_member(Member(None, "127.0.0.1:2", role=Role.LEARNER))
    assert other.id not in (ghost.id, None)
    await second.remove_member(other.id)
    await settled(first, second, third, learner)

    # Several at once, in one joint change.
    await first.change_membership(
        add=[Member(77, "127.0.0.1:5", role=Role.LEARNER)],
        promote=[learner.member_id],
        demote=[second.member_id],
    )
    assert roles(first).get(77) is Role.LEARNER
    assert roles(first)[learner.member_id] is Role.VOTER
    assert roles(first)[second.member_id] is Role.LEARNER
    await settled(first, second, third, learner)
    await first.change_membership(remove=[77], promote=[second.member_id])
    await until(lambda: 77 not in roles(third) and roles(third)[second.member_id] is Role.VOTER)

    # All of a change or nothing of it.
    await rejected(lambda: first.change_membership(remove=[4711], demote=[second.member_id]))
    assert roles(first)[second.member_id] is Role.VOTER

    # A change while another is under way: one of two at the same time may be refused, none is lost.
    refused: list[str] = []

    async def add(number: int) -> None:
        try:
            await first.add_member(Member(number, f"127.0.0.1:{number}", role=Role.LEARNER))
        except MembershipRejected as error:
            refused.append(error.reason)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(add, 21)
        nursery.start_soon(add, 22)
    added = [number for number in (21, 22) if number in roles(first)]
    assert len(added) + len(refused) == 2
    for number in added:
        await first.remove_member(number)

    # A removed member is told so; its group stays, stopped, until it is removed here.
    await first.remove_member(third.member_id)
    await until(lambda: third.member_id not in roles(first))
    with trio.fail_after(5):
        while True:
            try:
                await third.propose(b"never")
            except MemberRemoved:
                break
            except (NotMember, MembershipRejected) as error:
                raise AssertionError("the wrong error for a removed member") from error
    assert 9 in c.groups
    for call in (third.read_barrier, lambda: third.query(None), third.leave):
        try:
            await call()
        except MemberRemoved:
            pass
        else:
            raise AssertionError("a removed member still works")
    await c.remove_group(9)
    assert 9 not in c.groups
    # The host comes back as somebody new.
    back = await c.join_group(9, via=a.address, role=Role.LEARNER)
    assert back.member_id != third.member_id
    assert await back.query(None) == "one two"
    await settled(first, second, learner, back)

    # Leaving.
    await back.leave()
    await until(lambda: back.member_id not in roles(first))
    await settled(first, second, learner)
    await learner.leave()
    await until(lambda: learner.member_id not in roles(first))
    await settled(first, second)
    await second.leave()
    await until(lambda: list(roles(first)) == [first.member_id])
    assert await first.propose(b"three") is None

    # The last voter stays.
    await rejected(lambda: first.remove_member(first.member_id))
    await rejected(lambda: first.demote_member(first.member_id))
    await rejected(first.leave)
    assert await first.query(None) == "one two three"

    # The leader leaves: somebody else takes over.
    fifth = await e.join_group(9, via=a.address)
    await settled(first, fifth)
    await first.leave()
    await fifth.wait_leader()
    assert await fifth.propose(b"four") is None
    assert await fifth.query(None) == "one two three four"

    # A list without oneself.
    try:
        await a.create_group(50, members=[Member(1, b.address), Member(2, c.address)])
    except NotMember as error:
        assert "50" in str(error) or a.address in str(error), str(error)
    else:
        raise AssertionError("created a group of others")
    assert 50 not in a.groups


if __name__ == "__main__":
    trio.run(main)
