"""A lock of a directory that ends with the process, however that ends, and leaves no file."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none, and no lock of directories
    fcntl = None  # type: ignore[assignment]


class DirectoryLock:
    """Locks one directory after the other, until `release` or the end of the process."""

    def __init__(self) -> None:
        self.descriptor: int | None = None

    def take(self, path: Path) -> bool:
        """Take the lock of a directory; False if another process, or another object, has it.

        Where the file system knows no such locks (some network file systems) it is always taken.
        """
        if self.descriptor is not None or fcntl is None:
            return True
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            return True
        self.descriptor = descriptor
        return True

    def release(self) -> None:
        """Give it back."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    __del__ = release
