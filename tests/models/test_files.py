"""Files: whole and on the disk when they have their name, and nothing else of them, whatever goes wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from models.errors import FilesUnavailable, NoRoom
from models.files import FOLDERS, Files, new_name

_NOW_MS = 1_795_960_875_245


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "not" / "yet" / "there"


def test_a_file_is_on_the_disk_before_it_has_its_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content, then name, then the folder that holds the name: in any other order a loss of power leaves half a file."""
    done: list[str] = []
    sync, rename = os.fsync, os.rename

    def note_sync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        done.append("content" if os.path.isfile(path) else f"folder {os.path.relpath(path, root)}")
        sync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    files = Files(root, 0)
    partial = files.begin()
    partial.write(b"content")

    partial.sync()
    partial.keep(new_name("chatImgs", "png", _NOW_MS))

    made = ["folder .", "folder Diy", "folder Diy/chatImgs"]
    assert done[done.index("content") :] == ["content", *made, "rename", "folder Diy/chatImgs/20261129"]


def test_what_was_kept_can_be_opened_and_stays(root: Path) -> None:
    files, name = Files(root, 0), new_name("avatars", "png", _NOW_MS)
    assert files.open(name) is None
    partial = files.begin()
    partial.write(b"con")
    partial.write(b"tent")
    assert files.open(name) is None

    partial.sync()
    partial.keep(name)
    partial.discard()

    found = files.open(name)
    assert found is not None
    with found[0] as file:
        assert (file.read(), found[1], partial.size) == (b"content", 7, 7)
    assert list((root / "partial").iterdir()) == []
    assert {path.stat().st_mode & 0o077 for path in root.rglob("*")} == {0}


def test_what_was_discarded_is_gone(root: Path) -> None:
    partial = Files(root, 0).begin()
    partial.write(b"content")

    partial.discard()
    partial.discard()

    assert [path for path in root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_two_files_have_one_name(folder: str) -> None:
    """And 128 bits of it are random, of which no name tells anything about the next."""
    names = {new_name(folder, "png", _NOW_MS) for _ in range(100)}

    assert len({name.partition("_")[2] for name in names}) == 100
    assert {len(bytes.fromhex(name.partition("_")[2].removesuffix(".png"))) for name in names} == {16}
    assert {name.partition("_")[0] for name in names} == {f"Diy/{folder}/20261129/{_NOW_MS}"}


def test_only_names_are_opened(root: Path) -> None:
    """Whatever else lies in the folder, or leads out of it, does not exist."""
    name = new_name("chatImgs", "png", _NOW_MS)
    (root / name).parent.mkdir(parents=True)
    for path in (root / name, root.parent / "secret", root / "Diy" / "secret.png"):
        path.write_bytes(b"content")
    files = Files(root, 0)

    assert files.open(name) is not None
    for other in (
        "../secret",
        "Diy/../../secret",
        "Diy/secret.png",
        f"{name}\n",
        f"./{name}",
        str(root / name),
        "",
        "Diy",
    ):
        assert files.open(other) is None, other


def test_others_keep_their_room_on_the_disk(root: Path) -> None:
    """The database may lie beside the files: a full disk would stop it."""
    files = Files(root, 2**60)
    partial = files.begin()

    with pytest.raises(NoRoom):
        partial.write(b"content")

    assert partial.size == 0


def test_a_folder_that_is_none_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(FilesUnavailable):
        Files(tmp_path / "file", 0).begin()


def test_only_what_nobody_writes_any_more_is_removed(root: Path) -> None:
    files = Files(root, 0)
    assert files.remove_partials(60) == 0  # nothing was ever uploaded
    left, written = files.begin(), files.begin()
    for partial in (left, written):
        partial.write(b"content")
    hour_ago = time.time() - 3_600
    for path in (root / "partial").iterdir():
        os.utime(path, (hour_ago, hour_ago))
    written.write(b" and more")

    assert files.remove_partials(60) == 1

    written.sync()
    written.keep(new_name("chatImgs", "png", _NOW_MS))
    with pytest.raises(FilesUnavailable):
        left.keep(new_name("chatImgs", "png", _NOW_MS))
    left.discard()
