"""Small files that are replaced as a whole."""

from __future__ import annotations

from multiraft.interfaces import Files


def replace_file(files: Files, folder: str, name: str, data: bytes) -> None:
    """Put `data` in the file's place, so that a power cut leaves the old or the new, and sync it."""
    path = f"{folder}/{name}"
    temporary = path + ".tmp"
    file = files.open(temporary, create=True)
    try:
        file.truncate(0)
        file.write(0, data)
        file.sync()
    finally:
        file.close()
    files.rename(temporary, path)
    files.sync_folder(folder)
