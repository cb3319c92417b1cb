"""The one file I/O module: durable writes, locks, the run folder, and listings of folders and zip archives.

A write is complete or absent: temporary name, fsync, rename, fsync of the folder. All of it goes through `os`, so that
tests can crash or fill the disk at every operation.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import socket
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataError, RunError

JSON_LIMIT = 64 << 20  # bytes; a run.json of a million split indices is 8 MB


# ---- durable writes -------------------------------------------------------------------------------------------------
def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor to write to, never through a link; errors name the file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flags, 0o644)
    try:
        yield fd
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_new(path: Path, data: bytes | memoryview) -> None:
    """Write a file under its final name and fsync it; for files inside a folder that is not yet visible."""
    with _opened(path, os.O_TRUNC) as fd:
        _write_all(fd, data)
        os.fsync(fd)


def write(path: Path, data: bytes | memoryview) -> None:
    """Replace a file's contents durably and at once, or leave the old ones."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_new(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def to_json(value: Any) -> bytes:
    """JSON in which numbers that are not finite are null."""
    return (json.dumps(_finite(value), ensure_ascii=False, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def write_json(path: Path, value: Any) -> None:
    write(path, to_json(value))


def read_json(path: Path) -> Any:
    """Parse a JSON file of at most JSON_LIMIT bytes. Raises RunError naming the file."""
    try:
        with open(path, "rb") as file:
            data = file.read(JSON_LIMIT + 1)
        if len(data) > JSON_LIMIT:
            raise RunError(f"{path} is larger than {JSON_LIMIT >> 20} MB; it is not a file that gansmith wrote.")
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{path} is not valid JSON ({error}); restore it from a copy or start afresh with --fresh."
        ) from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line; the disk being full leaves no part of it."""
    with _opened(path, os.O_APPEND) as fd:
        before = os.fstat(fd).st_size
        try:
            _write_all(fd, to_json(value))
        except OSError:
            os.ftruncate(fd, before)
            raise


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a log, one a line; torn and foreign lines are left out."""
    rows = []
    with suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            with suppress(ValueError, RecursionError):
                rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def free_space(folder: Path) -> int:
    """Bytes free on the disk that holds a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def cache_folder() -> Path:
    """Where indices and decoded pictures are kept between runs: $GANSMITH_CACHE, else the user's cache folder."""
    named = os.environ.get("GANSMITH_CACHE")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gansmith"
    return base.expanduser()


# ---- the run folder -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class RunFolder:
    """Names inside a run folder (formats: run.json, log.jsonl, lock, samples/, checkpoints/, latest.json, best.json)."""

    path: Path

    @property
    def run(self) -> Path:
        return self.path / "run.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def generated(self) -> Path:
        return self.path / "generated"

    def pointer(self, which: str) -> Path:
        return self.path / f"{which}.json"

    def read_run(self) -> dict[str, Any]:
        """The parsed run.json. Raises RunError where there is none."""
        if not self.run.is_file():
            raise RunError(
                f"{self.path} is not a run folder: it has no run.json. Train one with: gansmith train DATA --out {self.path}"
            )
        state = read_json(self.run)
        if not isinstance(state, dict):
            raise RunError(f"{self.run} does not hold a run.")
        return state

    def set_aside(self) -> Path | None:
        """Rename the folder to the first free `<name>.N`; nothing is deleted. Returns the new name."""
        if not self.path.exists():
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        os.rename(self.path, aside)
        return aside

    @contextmanager
    def locked(self, use: str = "trained") -> Iterator[None]:
        """Hold `lock` while the folder is in use; a second process gets RunError naming the owner. The system frees it
        when its owner dies.

        A folder that this made and in which nothing else came to be is removed again.
        """
        import fcntl

        path, made = self.path / "lock", not self.path.exists()
        while True:
            os.makedirs(self.path, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            try:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    owner = os.read(fd, 200).decode(errors="replace").strip() or "another process"
                    raise RunError(
                        f"{self.path} is being {use} by {owner}; wait for it, or choose another --out."
                    ) from None
                if not path.exists() or not os.path.samestat(os.fstat(fd), os.stat(path)):
                    continue  # the folder was moved aside between opening and locking
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
                try:
                    yield
                finally:
                    if path.exists() and os.path.samestat(os.fstat(fd), os.stat(path)):  # not moved aside meanwhile
                        os.unlink(path)
                        if made and not os.listdir(self.path):
                            os.rmdir(self.path)
                return
            finally:
                os.close(fd)


# ---- folders and archives of data -----------------------------------------------------------------------------------
ENTRY_LIMIT = 256 << 20  # bytes of one item after decompression
RATIO_LIMIT = 100  # decompressed over compressed, above 1 MB: beyond it an archive member is a bomb


@dataclass(frozen=True)
class Entry:
    """One file of a data source. name: with forward slashes, relative; stamp: checksum (zip) or time (folder)."""

    name: str
    size: int
    stamp: int


class Source:
    """A folder, a zip archive or a single file, listed in name order and read one entry at a time; thread-safe.

    Nothing is ever extracted. Entries that lead outside, special files and bombs land in `refused` with a reason.
    """

    def __init__(self, path: Path):
        self.path = path
        self.refused: list[tuple[str, str]] = []
        self.zip: zipfile.ZipFile | None = None
        if path.is_file() and path.suffix.lower() == ".zip":
            try:
                self.zip = zipfile.ZipFile(path)
            except Exception as error:  # a damaged directory raises nearly anything
                raise DataError(
                    f"{path} cannot be opened as a zip archive ({error}); copy or download it again."
                ) from None
            self.entries = sorted(self._zip_entries(self.zip), key=lambda e: e.name)
        elif path.is_dir():
            self.entries = sorted(self._folder_entries(path), key=lambda e: e.name)
        elif path.is_file():
            info = path.stat()
            self.entries = [Entry(path.name, info.st_size, info.st_mtime_ns)]
        else:
            raise DataError(f"There is no file or folder {path}.")

    def _zip_entries(self, archive: zipfile.ZipFile) -> Iterator[Entry]:
        seen: set[str] = set()
        for info in archive.infolist():
            name, mode = info.filename, info.external_attr >> 16
            if info.is_dir():
                continue
            if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:2] == ":":
                self.refused.append((name, "its name leads outside the archive"))
            elif mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                self.refused.append((name, "not a regular file"))
            elif name in seen:
                self.refused.append((name, "a second entry of the same name"))
            elif info.flag_bits & 1:
                self.refused.append((name, "encrypted"))
            elif info.file_size > 1 << 20 and info.file_size > RATIO_LIMIT * max(1, info.compress_size):
                self.refused.append((name, f"unpacks to more than {RATIO_LIMIT} times its size"))
            else:
                seen.add(name)
                yield Entry(name, info.file_size, info.CRC)

    def _folder_entries(self, root: Path) -> Iterator[Entry]:
        todo = [(os.fspath(root), "")]
        while todo:
            folder, prefix = todo.pop()
            try:
                items = list(os.scandir(folder))
            except OSError as error:
                self.refused.append((prefix or folder, f"cannot be listed: {error.strerror}"))
                continue
            for item in items:
                name = prefix + item.name
                if item.is_dir(follow_symlinks=False):
                    todo.append((item.path, name + "/"))
                elif item.is_file(follow_symlinks=True) and self._inside(item):
                    info = item.stat()
                    yield Entry(name, info.st_size, info.st_mtime_ns)
                else:
                    self.refused.append(
                        (name, "a link that leads outside" if item.is_symlink() else "not a regular file")
                    )

    def _inside(self, item: os.DirEntry[str]) -> bool:
        return not item.is_symlink() or Path(item.path).resolve().is_relative_to(self.path.resolve())

    def read(self, name: str) -> bytes:
        """Contents of one entry, at most ENTRY_LIMIT bytes. Raises DataError with the reason alone, for the caller to name."""
        try:
            if self.zip is not None:
                with self.zip.open(name) as member:
                    data = member.read(ENTRY_LIMIT + 1)
            else:
                with open(self.path / name if self.path.is_dir() else self.path, "rb") as file:
                    data = file.read(min(ENTRY_LIMIT, os.fstat(file.fileno()).st_size) + 1)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, KeyError) as error:
            raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
        except Exception as error:  # zlib.error and friends: a damaged archive member
            raise DataError(f"is damaged: {error}") from None
        if len(data) > ENTRY_LIMIT:
            raise DataError(f"is larger than {ENTRY_LIMIT >> 20} MB")
        return data

    def fingerprint(self) -> str:
        """Hash over names, sizes and stamps; changes when the data does, without reading it."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(f"{entry.name}\0{entry.size}\0{entry.stamp}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()
