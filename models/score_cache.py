"""Scores that survive a kill: log-probabilities, greedy answers and next words by content, in one SQLite file.

A row's key is the sha256 of everything that decides its bits: the model (content hash, dtype, device, thread count,
processor, versions, the code of this folder; :func:`model_identity`), the whole list of requests it was scored in, and the
request itself (its kind, its token ids, from where they are scored or how much is asked for). The list is in the key
because what stands beside a sequence in its batch moves its last bits: a row is found again for the same question in the
same company, never for one that is merely close. So a number from the cache is the number that would be computed, to the
last bit.

One batch is one transaction. Every row carries a checksum over key and value; a row that fails it is a row that is not
there. Several processes may share a file (SQLite's locks; a rollback journal and not WAL, which network file systems do not
carry): they wait for one another. What cannot be stored (disk full, a lock held for a minute) is not stored, said once and
counted: a cache is not a reason to lose a run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from teachfair.errors import RunFolderError
from teachfair.models.checkpoint import content_hash
from teachfair.models.next_words import FIRST_TOKENS
from teachfair.runs import fingerprint

FILE = "scores.sqlite"
_APPLICATION = 0x7EAC4FA1  # written into the file's header (offset 68): tells our files from any other SQLite file
_LAYOUT = 1
_SCORES, _ANSWERS, _STARTS, _RESTS = range(4)
_DTYPES = {_SCORES: np.dtype("<f8"), _ANSWERS: np.dtype("<i8"), _STARTS: FIRST_TOKENS, _RESTS: np.dtype("<i8")}
_PATIENCE_S = 60.0  # how long to wait for another process's transaction; one takes milliseconds
_AT_ONCE = 500  # SQLite takes 999 parameters in a statement, or more in newer versions
_DECISIVE = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes", "numpy")


def model_identity(policy: str | os.PathLike[str], model: Any, tokenizer: Any, *, dtype: str) -> dict[str, Any]:
    """The facts that decide a score's bits, for a policy as it was loaded.

    The thread count and the processor are among them: matrix products sum in another order on another machine. So is
    PyTorch's precision of float32 products, which a training run in the same process may have lowered (``tf32``).
    """
    import torch

    device = model.device
    return {
        "policy": content_hash(policy),
        "chat_template": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest(),
        "dtype": dtype,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": [platform.machine(), torch.backends.cpu.get_cpu_capability()],
        "threads": torch.get_num_threads(),
        "attention": model.config._attn_implementation,
        "float32_products": [torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision],
        "code": _code_hash(),
        "versions": _versions(),
    }


@functools.cache
def _code_hash() -> str:
    """sha256 of this folder's source: a changed scoring engine never reads what another one wrote."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in _DECISIVE:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


class ScoreCache:
    """One cache file, open for one model.

    Args: path: the file, made if it is not there; identity: what decides the bits of everything that is asked through
        this object (:func:`model_identity`, or any JSON-able value that names the scorer).
    Raises: RunFolderError if ``path`` is not a score cache, cannot be written, or lies where locks do not work. A score
        cache that is damaged is renamed to ``….damaged-1`` with a warning, and a new one begun.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Any) -> None:
        self.path = Path(path)
        self.identity = bytes.fromhex(fingerprint(identity))
        self.hits = self.stored = self.damaged = self.not_stored = 0
        self._inode: int | None = None
        self._said = False
        self._connection = self._open()

    # ------------------------------------------------------------------------------------------------ asking, keeping

    def within(self, *requests: Any) -> RequestCache:
        """The view of one list of requests: ``requests`` is all that decides what is asked, JSON-able or collections."""
        text = json.dumps(requests, ensure_ascii=False, default=_whole)
        scope = hashlib.sha256(self.identity + text.encode("utf-8", "surrogatepass")).digest()
        return RequestCache(self, scope)

    def read(self, kind: int, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The rows there are. One whose checksum fails is left out (and overwritten when it has been computed again)."""
        found: dict[bytes, np.ndarray] = {}
        try:
            for begin in range(0, len(keys), _AT_ONCE):
                part = list(keys[begin : begin + _AT_ONCE])
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(f"SELECT key, value, checksum FROM rows WHERE key IN ({marks})", part)
                for key, value, checksum in rows:
                    if not isinstance(value, bytes) or checksum != _checksum(kind, key, value):
                        self.damaged += 1
                    else:
                        found[bytes(key)] = np.frombuffer(value, dtype=_DTYPES[kind]).copy()
        except sqlite3.DatabaseError as error:
            self._trouble(error)
            return {}
        self.hits += len(found)
        return found

    def write(self, kind: int, rows: dict[bytes, np.ndarray]) -> None:
        """Keep ``rows`` in one transaction: all of them or none."""
        blobs = [(key, np.ascontiguousarray(values, dtype=_DTYPES[kind]).tobytes()) for key, values in rows.items()]
        full = [(key, value, _checksum(kind, key, value)) for key, value in blobs]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO rows (key, value, checksum) VALUES (?, ?, ?)", full)
            self._connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            self.not_stored += len(full)
            self._trouble(error)
            return
        self.stored += len(full)

    def report(self) -> dict[str, Any]:
        """What the run record says: rows found, computed and kept, found damaged, not kept; the file's bytes."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        return {
            "found": self.hits, "computed": self.stored + self.not_stored, "damaged": self.damaged,
            "not_stored": self.not_stored, "bytes": size,
        }  # fmt: skip

    def close(self) -> None:
        self._connection.close()

    # -------------------------------------------------------------------------------------------------------- the file

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            ours = _is_ours(self.path)
        except OSError as error:
            raise _unusable(self.path, error.strerror or str(error)) from error
        if not ours:
            raise RunFolderError(
                "this file is not a score cache, and is left as it is", where=str(self.path),
                fix="name another --score_cache folder, or move the file away",
            )  # fmt: skip
        try:
            return self._connected()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise _unusable(self.path, str(error)) from error
            self._set_aside(error)
            return self._connected()

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_PATIENCE_S, isolation_level=None)
        try:
            # A rollback journal: WAL needs memory shared between processes, which network file systems do not have.
            connection.execute("PRAGMA journal_mode=TRUNCATE")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("BEGIN IMMEDIATE")  # a lock is tried here: without locks this is where it shows
            connection.execute(
                "CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB NOT NULL, checksum BLOB NOT NULL)"
                " WITHOUT ROWID"
            )
            (layout,) = connection.execute("PRAGMA user_version").fetchone()
            if layout not in (0, _LAYOUT):
                raise _unusable(self.path, f"layout {layout}, written by another version")
            if layout == 0:
                connection.execute(f"PRAGMA application_id={_APPLICATION}")
                connection.execute(f"PRAGMA user_version={_LAYOUT}")
            connection.execute("COMMIT")
            self._inode = self.path.stat().st_ino
        except BaseException:
            connection.close()
            raise
        return connection

    def _trouble(self, error: sqlite3.DatabaseError) -> None:
        """A file that is damaged is set aside and a new one begun; anything else is said once and the run goes on."""
        if _is_damage(error):
            self._connection.close()
            self._set_aside(error)
            self._connection = self._connected()
        elif not self._said:
            self._said = True
            warnings.warn(f"scores are not kept in {self.path}: {error}. The run goes on without.", stacklevel=4)

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        with contextlib.suppress(FileNotFoundError):
            # Another process may have done so already: then its new file is not ours to move.
            if self._inode in (None, self.path.stat().st_ino):
                names = (self.path.with_name(f"{self.path.name}.damaged-{number}") for number in range(1, 10**6))
                aside = next(name for name in names if not name.exists())
                os.replace(self.path, aside)
                warnings.warn(f"the score cache was damaged ({error}); it is now {aside}, and a new one begun", stacklevel=5)
        self._inode = None


class RequestCache:
    """The rows of one model and one list of requests: what the scoring engine and the decoders ask and fill."""

    def __init__(self, cache: ScoreCache, scope: bytes) -> None:
        self._cache, self._scope = cache, scope

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Log-probabilities, float64, of those ``keys`` (sha256 of token ids, start and whole) that are there."""
        return self._read(_SCORES, keys)

    def put_many(self, found: dict[bytes, np.ndarray]) -> None:
        """Keep the log-probabilities of one batch, in one transaction."""
        self._write(_SCORES, found)

    def get_answers(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Token ids, int64, of generated answers."""
        return self._read(_ANSWERS, keys)

    def put_answers(self, found: dict[bytes, np.ndarray]) -> None:
        self._write(_ANSWERS, found)

    def get_starts(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The likeliest first tokens of texts, and their log-probabilities."""
        return self._read(_STARTS, keys)

    def put_starts(self, found: dict[bytes, np.ndarray]) -> None:
        self._write(_STARTS, found)

    def get_rests(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Token ids, int64, of what follows a text and a first token."""
        return self._read(_RESTS, keys)

    def put_rests(self, found: dict[bytes, np.ndarray]) -> None:
        self._write(_RESTS, found)

    def _read(self, kind: int, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        ours = {self._key(kind, key): key for key in keys}
        return {ours[key]: values for key, values in self._cache.read(kind, list(ours)).items()}

    def _write(self, kind: int, found: dict[bytes, np.ndarray]) -> None:
        self._cache.write(kind, {self._key(kind, key): values for key, values in found.items()})

    def _key(self, kind: int, key: bytes) -> bytes:
        return hashlib.sha256(self._scope + bytes([kind]) + key).digest()


def holds_rows(path: str | os.PathLike[str]) -> bool:
    """Whether a cache file is there and has something to give."""
    if not Path(path).is_file():
        return False
    with contextlib.closing(sqlite3.connect(path, timeout=_PATIENCE_S)) as connection:
        try:
            return connection.execute("SELECT 1 FROM rows LIMIT 1").fetchone() is not None
        except sqlite3.DatabaseError:
            return False


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a cache file and its journal."""
    path = Path(path)
    for name in (path.name, f"{path.name}-journal"):
        with contextlib.suppress(FileNotFoundError):
            (path.parent / name).unlink()


def _whole(value: Any) -> Any:
    """An array, a data set's column, a mapping as all that it holds: ``str`` of a long one leaves out its middle."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    if not hasattr(value, "__len__"):
        raise TypeError(f"{type(value).__name__} is no collection: it cannot stand in the key of a score")
    return list(value)


def _checksum(kind: int, key: bytes, value: bytes) -> bytes:
    return hashlib.sha256(bytes([kind]) + key + value).digest()[:16]


def _is_ours(path: Path) -> bool:
    """Whether there is no file yet (or an empty one), or one whose header is SQLite's with our mark."""
    if not path.exists():
        return True
    with open(path, "rb") as stream:
        header = stream.read(100)
    mark = int.from_bytes(header[68:72], "big")
    # A kill between the file's first page and our mark leaves an empty file: the page is written whole, by a transaction.
    return not header or (header.startswith(b"SQLite format 3\0") and mark == _APPLICATION)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _unusable(path: Path, why: str) -> RunFolderError:
    return RunFolderError(
        f"the score cache cannot be used ({why})", where=str(path),
        fix="name a --score_cache folder that you may write to, on a file system with locks (not every network one has any)",
    )  # fmt: skip
