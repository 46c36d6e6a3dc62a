"""Zips are unpacked once, completely or not at all, and write only into their folder."""

import os
import signal
import stat
import subprocess
import sys
import threading
import warnings
import zipfile
from collections import namedtuple

import numpy as np
import pytest

from d3d.datasets import archives
from d3d.datasets.archives import list_zip, read_member, unpack_member, unpack_zip
from d3d.errors import DataError

FILES = {f"seq-01/frame-{i:06d}.pose.txt": os.urandom(100 + 100 * i) for i in range(6)} | {
    "seq-01/empty": b""
}


def write_zip(path, files=None, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as z:
        for name, content in (FILES if files is None else files).items():
            z.writestr(name, content)
    return path


@pytest.fixture
def archive(tmp_path):
    return write_zip(tmp_path / "seq-01.zip")


def content_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_unpacks_all_or_a_part_and_what_is_there_is_left_alone(archive, tmp_path):
    folder = unpack_zip(archive, tmp_path / "all")
    assert content_of(folder) == FILES
    part = unpack_zip(archive, tmp_path / "a" / "part", below="seq-01")
    assert content_of(part) == {k.removeprefix("seq-01/"): v for k, v in FILES.items()}
    (part / "frame-000000.pose.txt").write_bytes(b"mine")
    archive.unlink()
    assert unpack_zip(archive, part) == part
    assert (part / "frame-000000.pose.txt").read_bytes() == b"mine"
    assert [p.name for p in tmp_path.rglob(".*") if not p.name.endswith(".lock")] == []


def test_lists_and_reads_in_place(archive):
    assert list_zip(archive) == {k: len(v) for k, v in FILES.items()}
    name = "seq-01/frame-000003.pose.txt"
    assert read_member(archive, name) == FILES[name]
    with pytest.raises(DataError, match=r"has 400 bytes, more than 10"):
        read_member(archive, name, at_most=10)
    with pytest.raises(DataError, match="there is no nothing in it"):
        read_member(archive, "nothing")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "/x",
        "//x",
        "C:/x",
        "c:x",
        "a\\..\\..\\x",
        "..",
        "a/..",
        "a\nb",
        "x" * 300,
        "a/" + "y" * 300,
    ],
)
def test_names_that_leave_the_folder_are_refused_before_anything_is_written(tmp_path, name):
    (tmp_path / "in").mkdir()
    bad = write_zip(tmp_path / "in" / "bad.zip", {"good": b"1", name: b"2"})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"bad\.zip: the name .*Nothing was unpacked"):
        unpack_zip(bad, tmp_path / "in" / "out")
    assert {p for p in set(tmp_path.rglob("*")) - before if p.suffix != ".lock"} == set()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, kind):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as z:
        info = zipfile.ZipInfo("link")
        info.external_attr = (kind | 0o777) << 16
        z.writestr(info, "/etc/passwd")
        z.writestr("link/x", b"through it")
    with pytest.raises(DataError, match="'link' is a link or a device"):
        unpack_zip(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_would_overwrite_itself_is_refused(tmp_path):
    for names in (("a", "a"), ("Frame", "frame")):
        path = tmp_path / "twice.zip"
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w") as z:
            for name in names:
                z.writestr(name, b"1")
        with pytest.raises(DataError, match="appears twice"):
            list_zip(path)
    with pytest.raises(DataError, match="cannot be written"):  # a file and a folder of one name
        unpack_zip(write_zip(tmp_path / "both.zip", {"a": b"1", "a/b": b"2"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bomb_is_refused_by_what_it_claims_and_by_what_it_holds(tmp_path, archive):
    bomb = write_zip(tmp_path / "bomb.zip", {"zeros": bytes(30_000_000)})
    assert bomb.stat().st_size < 50_000
    with pytest.raises(DataError, match=r"claims to unpack to 30,000,000 bytes, 1,0\d\d times its size"):
        unpack_zip(bomb, tmp_path / "out")
    # a claim that is smaller than the content: no byte more than it is written
    claims = bytearray(bomb.read_bytes())
    start = claims.rindex(b"PK\1\2")
    claims[start + 24 : start + 28] = (1000).to_bytes(4, "little")
    bomb.write_bytes(claims)
    with pytest.raises(DataError, match="zeros is damaged or truncated"):
        unpack_zip(bomb, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # members that all claim the same bytes of the archive
    path = write_zip(tmp_path / "many.zip", {f"{i}": b"" for i in range(3)})
    many = bytearray(path.read_bytes())
    at = -1
    while (at := many.find(b"PK\1\2", at + 1)) >= 0:
        many[at + 24 : at + 28] = (10**6).to_bytes(4, "little")
    path.write_bytes(many)
    with pytest.raises(DataError, match="claims to unpack to 3,000,000 bytes"):
        list_zip(path)


def test_encrypted_and_foreign_methods_are_refused(tmp_path):
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(DataError, match="encrypted, or compressed by another method"):
            list_zip(write_zip(tmp_path / "x.zip", {"a": b"1"}, method))
    content = bytearray(write_zip(tmp_path / "x.zip", {"a": b"1"}).read_bytes())
    content[content.rindex(b"PK\1\2") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        list_zip(tmp_path / "x.zip")


def test_a_damaged_member_leaves_no_folder_and_names_it(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    at = content.index(b"frame-000004.pose.txt") + 60
    content[at] ^= 255
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"frame-000004\.pose\.txt is damaged.*Download it again"):
        unpack_zip(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # a whole archive in its place: what was good is kept, what was not is written
    kept = tmp_path / ".out.part" / "seq-01" / "frame-000000.pose.txt"
    inode = kept.stat().st_ino
    kept.with_name("frame-000001.pose.txt").write_bytes(b"x" * 200)
    kept.with_name("foreign").write_bytes(b"of another archive")
    folder = unpack_zip(write_zip(archive), tmp_path / "out")
    assert content_of(folder) == FILES
    assert (folder / "seq-01" / "frame-000000.pose.txt").stat().st_ino == inode


def test_a_kill_leaves_nothing_that_looks_whole(archive, tmp_path):
    """After SIGKILL during unpacking, a second start gives the complete folder."""
    code = """
import os, signal, sys
from pathlib import Path
from d3d.datasets import archives
written, write = [], archives._write
def deadly(opened, info, archive, to):
    if len(written) == int(sys.argv[3]):
        to.with_name(f".{to.name}.new").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write(opened, info, archive, to)
    written.append(to)
archives._write = deadly
archives.unpack_zip(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    folder = tmp_path / "out"
    arguments = [str(archive), str(folder), "3"]
    killed = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not folder.exists()
    assert sum(len(v) > 4 for v in content_of(tmp_path / ".out.part").values()) == 3
    assert content_of(unpack_zip(archive, folder)) == FILES


def test_two_at_once_unpack_once(archive, tmp_path, capsys):
    threads = [threading.Thread(target=unpack_zip, args=(archive, tmp_path / "out")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content_of(tmp_path / "out") == FILES
    assert capsys.readouterr().out.count("unpacking") == 1


def test_too_little_room_is_told_before_anything_is_written(archive, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage(0, 0, 10**6))
    with pytest.raises(DataError, match=r"takes 0\.00 GB, but .* has 0\.00 GB left.*Make room"):
        unpack_zip(archive, tmp_path / "out")
    assert not (tmp_path / ".out.part").exists()


def test_a_folder_that_cannot_be_written_is_told(archive, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written.*by hand"):
        unpack_zip(archive, tmp_path / "file" / "out")
    with pytest.raises(DataError, match=r"is missing"):
        unpack_zip(tmp_path / "none.zip", tmp_path / "out")
    with pytest.raises(DataError, match=r"nothing below seq-09/ in it"):
        unpack_zip(archive, tmp_path / "out", below="seq-09")


def test_one_member_to_a_file(archive, tmp_path):
    outer = write_zip(tmp_path / "chess.zip", {"chess/seq-01.zip": archive.read_bytes(), "chess/a.txt": b"1"})
    copy = unpack_member(outer, "chess/seq-01.zip", tmp_path / "copy.zip")
    assert copy.read_bytes() == archive.read_bytes()
    outer.unlink()
    assert unpack_member(outer, "chess/seq-01.zip", copy) == copy
    with pytest.raises(DataError, match="there is no b in it"):
        unpack_member(write_zip(outer), "b", tmp_path / "b")


def test_members_may_lie_in_any_order(tmp_path):
    """The table of contents has the reverse order: members are found by name and read in the order of the bytes."""
    path = write_zip(
        tmp_path / "x.zip", {f"{i}": bytes([i]) for i in np.random.default_rng(0).permutation(20)}
    )
    folder = unpack_zip(path, tmp_path / "out")
    assert content_of(folder) == {f"{i}": bytes([i]) for i in range(20)}
