"""A file is written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cmpolicy.atomic_file import write_atomically


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write_atomically(tmp_path / "old.json", b"{}")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        for name in ("old.json", "new.json"):
            with pytest.raises(OSError, match="No space left"):
                write_atomically(tmp_path / name, b"{1}")
    assert (tmp_path / "old.json").read_bytes() == b"{}"
    assert [p.name for p in tmp_path.iterdir()] == ["old.json"]


def test_the_file_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        events.append(f"fsync {os.fstat(descriptor).st_size}")
        fsync(descriptor)

    def noted_replace(old: Path, new: Path) -> None:
        assert Path(old).parent == Path(new).parent  # else a rename is a copy
        events.append(f"replace {Path(new).name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_atomically(tmp_path / "x", b"12345")
    assert events[:2] == ["fsync 5", "replace x"]
