"""Which members have left a host for good: their ids never come back to it.

A member that forgot its log and its vote could vote a second time in a term, or for a log that
lacks what it once acknowledged, and so undo what was committed (the amnesia of PITFALLS, seen
elsewhere as "a wiped host rejoins under its old id"). Deleting a group here forgets both, so
the member's id is noted first, on disk, and a group is not made with it again.
"""

from __future__ import annotations

import json

from multiraft.errors import StorageFailed
from multiraft.interfaces import Files
from multiraft.replace import replace_file
from multiraft.types import GroupId, MemberId

NAME = "departed.json"


class Departed:
    """The file `departed.json` of a data folder: member ids by group. Its methods block."""

    def __init__(self, files: Files, data_dir: str) -> None:
        """Raises: StorageFailed when the file is damaged."""
        self._files = files
        self._data_dir = data_dir
        self._ids: dict[GroupId, set[MemberId]] = {}
        path = f"{data_dir}/{NAME}"
        if not files.exists(path):
            return
        file = files.open(path)
        try:
            data = file.read(0, file.size())
        finally:
            file.close()
        try:
            self._ids = {int(group): {int(each) for each in ids} for group, ids in json.loads(data).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise StorageFailed(f"{path} is damaged ({error!r}); restore this host from its peers") from None

    def __contains__(self, member: tuple[GroupId, MemberId]) -> bool:
        group, member_id = member
        return member_id in self._ids.get(group, ())

    def add(self, group: GroupId, member_id: MemberId) -> None:
        """Note that a member left; on disk when this returns."""
        self._ids.setdefault(group, set()).add(member_id)
        values = {str(each): sorted(ids) for each, ids in sorted(self._ids.items())}
        replace_file(self._files, self._data_dir, NAME, json.dumps(values).encode())
