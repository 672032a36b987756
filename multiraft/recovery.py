"""Groups that are recovered by force: alone from this host's log, or from a snapshot file.

Both begin a new generation of their group. Members of another one are not heard, whatever they
know or promised: see docs/invariants.md for why, and for what a power cut leaves at each step.

`force`: the group stops here; what it has under way in the workers and in the log comes to its
end; its machine is brought up anew, as after a restart; then one batch of the log makes it so.
`restore`: the snapshot's file is written as one of the new group; then one batch makes the group;
then its machine is restored.
"""

from __future__ import annotations

from collections.abc import Callable

from multiraft.catalog import Catalog
from multiraft.environment import Environment
from multiraft.errors import GroupFailed, GroupNotFound, MultiraftError, StateMachineFailed, StorageFailed
from multiraft.forced import Forced
from multiraft.group import Group
from multiraft.interfaces import Executor, GroupLog, SnapshotFile, StateMachine, WriteBatch
from multiraft.membership import GroupMeta
from multiraft.messages import EntryKind, HardState, Run
from multiraft.post import Post
from multiraft.proposals import Waiter
from multiraft.snapshots import Standing, restore_failure, standing_of
from multiraft.types import GroupId, MemberId


class Recovery:
    """Forces groups to go on alone, and makes groups from files."""

    def __init__(
        self,
        environment: Environment,
        groups: dict[GroupId, Group],
        catalog: Catalog,
        post: Post,
        executor: Executor,
        apply_executor: Executor,
        submit: Callable[[WriteBatch, Callable[[], None]], None],
    ) -> None:
        self._env = environment
        self._groups = groups
        self._catalog = catalog
        self._post = post
        self._executor = executor
        self._apply_executor = apply_executor
        self._submit = submit

    def force(self, group: Group, member: MemberId, generation: int, waiter: Waiter) -> None:
        """Have `member`, here, go on alone at `generation`; `waiter` gets the new `Group`.

        Until then no group of that id is here. If its state cannot be brought back, the group as it
        was comes back, stopped, and nothing was written.

        Raises:
            GroupNotFound: It is not here any more.
        """
        group_id = group.id
        if self._groups.get(group_id) is not group:
            raise GroupNotFound(group_id)
        del self._groups[group_id]
        if group.failed is None:
            group.stop(GroupFailed(f"group {group_id} was stopped here, to go on alone as a new one"))
        self._post.disconnect(group)
        self._catalog.reserve([group_id], waiter)

        def failed(error: MultiraftError) -> None:
            self._groups[group_id] = group
            self._catalog.give_up([group_id], waiter, error)

        def idle(_: None, __: BaseException | None) -> None:
            # Nothing of the group is in the worker any more, nor can it get there.
            self._executor.submit(lambda: self._env.snapshots.files(group_id), listed)

        def listed(files: list[SnapshotFile] | None, error: BaseException | None) -> None:
            if files is None:
                failed(StorageFailed(f"reading the snapshots of group {group_id} failed: {error}"))
            else:
                # Empty: it comes when all that was submitted before it is on disk.
                self._submit(self._env.store.batch(), lambda: settled(files))

        def settled(files: list[SnapshotFile]) -> None:
            log = self._env.store.groups()[group_id]
            self._bring_up(log, files, lambda machine, standing: write(log, machine, standing), failed)

        def write(log: GroupLog, machine: StateMachine, standing: Standing) -> None:
            batch = self._env.store.batch()
            self._write_forced(batch, log, Forced(member, self._env.hello.address), generation)
            self._submit(batch, lambda: done(log, machine, standing))

        def done(log: GroupLog, machine: StateMachine, standing: Standing) -> None:
            self._catalog.release(group_id)
            self._catalog.resolve(waiter, self._catalog.bring_back(log, machine, standing))

        self._apply_executor.submit(lambda: None, idle)

    @staticmethod
    def _write_forced(batch: WriteBatch, log: GroupLog, forced: Forced, generation: int) -> None:
        """All of it in one batch, so that a power cut leaves the old generation or the new one."""
        last, state = log.last_index(), log.hard_state
        meta = GroupMeta.decode(log.meta).forced(forced.member, generation, last)
        # As if elected: a term that no vote of this member, and no entry here, has seen.
        term = max(state.term, log.term(last)) + 1
        payload = forced.conf_change().encode()
        run = Run.of([payload], EntryKind.CONF_CHANGE_V2, first=last + 1, term=term)
        batch.meta(log.group, meta.encode())
        batch.append(log.group, [run])
        # Whatever the log has is committed: there is nobody whose consent it would need.
        batch.hard_state(log.group, HardState(term, forced.member, last + 1))

    def restore(
        self,
        group_id: GroupId,
        meta: GroupMeta,
        write: Callable[[], SnapshotFile],
        waiter: Waiter,
    ) -> None:
        """Make a group from a snapshot; `waiter` gets the `Group`.

        `write` verifies the snapshot and writes the file of the new group, in a worker.

        Raises:
            GroupExists: It is here already.
            StateMachineFailed: The factory raised, or its machine has state of such a group.
        """
        self._catalog.check_free([group_id])
        machine = self._new_machine(group_id)
        if machine.applied_index:
            raise StateMachineFailed(
                f"group {group_id} is not on this host, but its state machine has applied up to "
                f"{machine.applied_index}: delete that state first, or choose another id"
            )
        self._catalog.reserve([group_id], waiter)

        def written(file: SnapshotFile | None, error: BaseException | None) -> None:
            if file is None:
                self._catalog.give_up([group_id], waiter, _as_ours(group_id, error))
                return
            batch = self._env.store.batch()
            point = file.snapshot
            batch.create(group_id, meta.encode(), HardState(point.term, commit=point.index), point)
            self._submit(batch, lambda: created(file))

        def created(file: SnapshotFile) -> None:
            log = self._env.store.groups()[group_id]
            standing = Standing(file, file.snapshot.index, restore=True)
            self._restore(
                log,
                machine,
                standing,
                lambda: opened(log, standing),
                lambda error: broken(log, standing, error),
            )

        def opened(log: GroupLog, standing: Standing) -> None:
            self._catalog.release(group_id)
            self._catalog.resolve(waiter, self._catalog.bring_back(log, machine, standing))

        def broken(log: GroupLog, standing: Standing, error: MultiraftError) -> None:
            self._catalog.release(group_id)
            self._catalog.bring_back(log, machine, standing).stop(error)
            self._catalog.fail(waiter, error)

        self._executor.submit(write, written)

    def _bring_up(
        self,
        log: GroupLog,
        files: list[SnapshotFile],
        done: Callable[[StateMachine, Standing], None],
        failed: Callable[[MultiraftError], None],
    ) -> None:
        """A machine of its own for a group whose log nobody writes, brought up to its snapshot."""
        try:
            machine = self._new_machine(log.group)
            standing = standing_of(log, files, machine)
        except MultiraftError as error:
            failed(error)
            return
        if standing.restore:
            self._restore(log, machine, standing, lambda: done(machine, standing), failed)
        else:
            done(machine, standing)

    def _restore(
        self,
        log: GroupLog,
        machine: StateMachine,
        standing: Standing,
        done: Callable[[], None],
        failed: Callable[[MultiraftError], None],
    ) -> None:
        """Restore a machine in a worker: a large state must not hold up the other groups."""
        file = standing.file
        assert file is not None

        def restored(_: None, error: BaseException | None) -> None:
            if error is None:
                done()
            elif isinstance(error, MultiraftError):
                failed(error)
            else:
                failed(restore_failure(log.group, error))

        executor = self._apply_executor if machine.blocking else self._executor
        executor.submit(lambda: machine.restore(self._env.snapshots.read(file)), restored)

    def _new_machine(self, group_id: GroupId) -> StateMachine:
        try:
            return self._catalog.machine(group_id)
        except Exception as error:
            raise StateMachineFailed(f"the machine factory failed: {error!r}") from error


def _as_ours(group_id: GroupId, error: BaseException | None) -> MultiraftError:
    if isinstance(error, MultiraftError):
        return error
    return StorageFailed(f"writing the snapshot of group {group_id} failed: {error!r}")
