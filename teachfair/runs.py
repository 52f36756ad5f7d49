"""Run folders: whole or absent, with a record of what ran.

A run folder is complete only when it holds a ``run.json`` whose ``status`` is ``complete``; that file is written
last, aside and renamed. Everything here is standard library, so that doors can use it without loading torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from teachfair.errors import RunFolderError

RUN_RECORD = "run.json"
LOCK = ".teachfair.lock"
_LIBRARIES = (
    "teachfair", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "safetensors",
    "tokenizers", "numpy", "scipy",
)  # fmt: skip

_SECRETS = re.compile(r"(?:^|[-_])(?:token|password|secret|api_?key)$", re.I)  # hub_token, but not max_new_tokens


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write ``text`` so that the file appears whole or not at all (write aside, fsync, rename)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(aside, 0o666 & ~_umask())  # mkstemp makes it private; a result is as readable as any other file
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """As :func:`write_text`; keys sorted; NaN is refused because JSON has none (use ``None`` and a reason)."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_plain)
    return write_text(path, text + "\n")


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a folder aside; when the block ends without an error it is renamed to ``path`` in one step.

    Raises: RunFolderError if ``path`` exists and is not an empty folder.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunFolderError(
            "the output folder is already there and not empty", where=str(path),
            fix="choose another --output_dir, or remove it if you no longer need it",
        )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    os.chmod(aside, 0o777 & ~_umask())
    try:
        yield aside
        if path.exists():
            path.rmdir()
        os.replace(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextlib.contextmanager
def claimed(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Hold ``folder`` for this process; a second process gets a clear error. A dead owner's claim is taken over.

    Raises: RunFolderError if another live process on this host holds it, or it cannot be written.
    """
    folder = Path(folder)
    lock = folder / LOCK
    me = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"the output folder cannot be made ({error.strerror})", where=str(folder),
            fix="choose an --output_dir that you may write to",
        ) from error  # fmt: skip
    for _ in range(2):
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if _owner_is_alive(lock):
                raise RunFolderError(
                    "the output folder is in use by another run", where=f"{lock}: {lock.read_text().strip()}",
                    fix="wait for it, choose another --output_dir, or delete that file if the run is dead",
                ) from None  # fmt: skip
            with contextlib.suppress(FileNotFoundError):
                lock.unlink()
        except OSError as error:
            raise RunFolderError(
                f"the output folder cannot be written ({error.strerror})", where=str(folder),
                fix="choose an --output_dir that you may write to",
            ) from error  # fmt: skip
        else:
            with os.fdopen(handle, "w") as stream:
                json.dump(me, stream)
            break
    else:
        raise RunFolderError("the output folder was claimed by another run", where=str(folder), fix="start again")
    try:
        yield folder
    finally:
        with contextlib.suppress(FileNotFoundError):
            lock.unlink()


def _owner_is_alive(lock: Path) -> bool:
    try:
        owner = json.loads(lock.read_text())
        if owner["host"] != socket.gethostname():
            return True  # another node of a cluster: its pid says nothing here
        os.kill(int(owner["pid"]), 0)
    except (ValueError, KeyError, ProcessLookupError, FileNotFoundError):
        return False  # half-written by a killed process, or gone
    except PermissionError:
        return True
    return True


def begin(folder: str | os.PathLike[str], key: str) -> bool:
    """Start, or go on with, the run named by ``key`` in ``folder``; True if that very run is already complete.

    Args:
        key: fingerprint of everything that decides the result (:func:`fingerprint`).
    Raises: RunFolderError if the folder holds another run or other files.
    """
    folder = Path(folder)
    path = folder / RUN_RECORD
    if path.exists():
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            record = {}
        if record.get("key") != key:
            raise RunFolderError(
                "the output folder holds another run (other arguments, data or versions)", where=str(folder),
                fix="choose another --output_dir, or remove that folder",
            )  # fmt: skip
        return record.get("status") == "complete"
    strangers = [item.name for item in folder.iterdir() if item.name != LOCK] if folder.is_dir() else []
    if strangers:
        raise RunFolderError(
            f"the output folder holds other files ({', '.join(sorted(strangers)[:3])} …)", where=str(folder),
            fix="choose another --output_dir, or empty that folder",
        )  # fmt: skip
    write_json(path, {"status": "running", "key": key})
    return False


def read_record(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The run record of a *complete* folder, or None (absent, unreadable or not complete)."""
    try:
        record = json.loads((Path(folder) / RUN_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("status") == "complete" else None


def write_record(folder: str | os.PathLike[str], **fields: Any) -> Path:
    """Seal a run folder: write ``run.json`` last. Adds versions, platform, command line and time to ``fields``."""
    record = {
        "status": "complete",
        "command": [Path(sys.argv[0]).name, *without_secrets(sys.argv[1:])],
        "versions": versions(),
        "platform": {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **fields,
    }
    return write_json(Path(folder) / RUN_RECORD, record)


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command line's words; the value of ``--hub_token``, ``--api_key=…`` and their like is "…"."""
    shown = []
    for before, word in zip(["", *words], words, strict=False):
        key, equals, _ = word.partition("=")
        secret = _SECRETS.search(before) and before.startswith("--") and "=" not in before and not word.startswith("--")
        shown.append("…" if secret else f"{key}=…" if equals and _SECRETS.search(key) else word)
    return shown


def versions() -> dict[str, str]:
    """Installed versions of the libraries that decide a result."""
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def fingerprint(value: Any) -> str:
    """sha256 of a JSON-able value, independent of key order: the name of a study's step."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def plain(value: Any) -> Any:
    """``value`` as JSON would give it back (paths as text, sets and tuples as sorted lists)."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path | set | frozenset | tuple):
        return str(value) if isinstance(value, Path) else sorted(value)
    raise TypeError(f"{type(value).__name__} has no stable fingerprint")


def hash_file(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def peak_memory_gib() -> float:
    """Peak resident memory of this process and its finished children, GiB (NaN where the system has no getrusage)."""
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak * unit / 2**30
