"""Pairs gathered from the files of one source: every problem, every pair left out and why, then one Dataset.

The readers of authors' formats (``data/sources``) share this: a record's malformed fields are all named before anything is
refused, nothing is left out without a reason that is counted, and the counts travel with the pairs.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.excluding import exclude
from teachfair.data.pairs import Counts, pairs_dataset
from teachfair.data.reading import Problem, Unreadable, kind_of, refuse, short, text_problems
from teachfair.errors import DataError, unknown_name

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


@dataclass
class Place:
    """Where a record stands: ``file:line``, or ``file:$[3]`` in a JSON document."""

    file: str
    line: int | str


@dataclass
class Gathering:
    """What one source has read so far.

    source: its name; limit_errors: problems that an error lists; extra: further columns, name -> dtype.
    """

    source: str
    limit_errors: int = 20
    extra: Mapping[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _ids: dict[str, Place] = field(default_factory=dict)
    _contents: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def bad(self, place: Place, name: str, what: str) -> None:
        self.problems.append(Problem(place.file, place.line, name, what))

    def record(self, raw: Any, place: Place) -> dict[str, Any] | None:
        """A record that is a mapping; None, and a problem, where it is not."""
        self.counts.records += 1
        if isinstance(raw, Unreadable):
            self.bad(place, raw.field, raw.what)
        elif not isinstance(raw, dict):
            self.bad(place, "row", f"an object was wanted, this is {kind_of(raw)}")
        else:
            return raw
        return None

    def text(self, record: Mapping[str, Any], name: str, place: Place, *, field: str = "", optional: bool = False) -> str:
        """The text of a field, white space normalised (it tells the sides apart in public sets); "" and a problem where
        there is none. ``field``: how the problem calls it, when it is nested."""
        field = field or name
        if name not in record:
            if not optional:
                present = ", ".join(short(str(key)) for key in list(record)[:8]) or "nothing"
                self.bad(place, field, f"missing (this record has: {present})")
            return ""
        found = list(text_problems(field, record[name], may_be_empty=optional))
        for name_, what in found:
            self.bad(place, name_, what)
        return "" if found else " ".join(record[name].split())

    def label(self, record: Mapping[str, Any], name: str, place: Place, known: Iterable[str], *, field: str = "") -> str:
        """A field that holds one of ``known``; "" and a problem where it does not."""
        value = self.text(record, name, place, field=field)
        known = list(known)
        if value and value not in known:
            self.bad(place, field or name, f"{short(value)} is unknown; known ones: {', '.join(known)}")
            return ""
        return value

    def identity(self, record: Mapping[str, Any], name: str, place: Place, *, scope: str = "") -> str:
        """A record's id as text (a number is fine), used once only within ``scope``; "" and a problem otherwise."""
        value = record.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        text = self.text({**record, name: value} if name in record else record, name, place)
        if not text:
            return ""
        key = f"{scope}\0{text}"
        if key in self._ids:
            first = self._ids[key]
            self.bad(place, name, f"{short(text)} was already used at {first.file}:{first.line}")
            return ""
        self._ids[key] = place
        return text

    def drop(self, reason: str, n: int = 1) -> None:
        """``n`` pairs that are left out for ``reason``."""
        self.counts.read += n
        self.counts.dropped[reason] = self.counts.dropped.get(reason, 0) + n

    def correct(self, what: str, n: int = 1) -> None:
        self.counts.corrected[what] = self.counts.corrected.get(what, 0) + n

    def note_absent(self, place: Path, names: Iterable[str]) -> None:
        """Say which of the published files a folder lacks: its pairs are then not the whole set."""
        absent = [name for name in names if place.is_dir() and not (place / name).is_file()]
        if absent:
            self.note(f"not in the folder: {', '.join(absent)}")

    def note(self, what: str) -> None:
        if what not in self.counts.notes:
            self.counts.notes.append(what)

    def pair(
        self,
        prompt: str | Sequence[dict[str, str]],
        chosen: str,
        rejected: str,
        *,
        kind: str,
        axis: str,
        groups: Iterable[str] = (),
        cluster: str,
        lang: str,
        id: str,
        **extra: Any,
    ) -> None:
        """One pair. Equal sides are counted and left out; a repetition of an earlier pair is counted and kept, in the
        cluster of the earlier one."""
        self.counts.read += 1
        if " ".join(chosen.split()) == " ".join(rejected.split()):
            self.counts.dropped_equal += 1
            return
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        content = (str(messages), chosen, rejected)
        self.counts.repeated += content in self._contents
        cluster = self._contents.setdefault(content, cluster)
        self.rows.append(
            {
                "prompt": messages,
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
                "kind": kind, "axis": axis, "groups": list(groups), "cluster": cluster, "source": self.source,
                "lang": lang, "id": id, **extra,
            }
        )  # fmt: skip

    def refuse(self) -> None:
        """Raise one DataError that lists every problem (up to the limit), if there was any."""
        refuse(
            self.problems,
            bad=len({(problem.where, problem.line) for problem in self.problems}),
            read=self.counts.records,
            rows=f"{self.source} records",
            limit=self.limit_errors,
            fix="restore the authors' file, or mend these records",
        )

    def dataset(
        self,
        *,
        where: str,
        split: str = "train",
        test_share: float = 0.0,
        exclude_ids: str | Path | None = None,
        wanted: Callable[[dict[str, Any]], bool] | None = None,
    ) -> Dataset:
        """The pairs of a split, those that are ``wanted``, without the excluded ids; all that was left out is counted.

        Raises: DataError that lists every problem (up to the limit), or says that no pairs are left.
        """
        self.refuse()
        asked = [row for row in self.rows if wanted is None or wanted(row)]
        asked = [row for row in asked if in_test(row["cluster"], test_share) == (split == "test")]
        self.counts.not_asked += len(self.rows) - len(asked)
        self.counts.kept = len(asked)
        kept = exclude(asked, self.counts, exclude_ids)
        if not kept:
            raise DataError(
                f"no pairs are left of {self.counts.read}",
                where=f"{where}, split {split}",
                fix="set test_share > 0 for a test split, or ask for more axes, kinds or languages",
            )
        self._say(where)
        return pairs_dataset(kept, self.counts, extra=self.extra)

    def _say(self, where: str) -> None:
        counts = self.counts
        if counts.dropped_equal:
            logger.warning("%s: dropped %d pairs with equal sides", where, counts.dropped_equal)
        for reason, n in counts.dropped.items():
            logger.warning("%s: dropped %d pairs: %s", where, n, reason)
        for what, n in counts.corrected.items():
            logger.warning("%s: corrected %d: %s", where, n, what)
        for note in counts.notes:
            logger.warning("%s: %s", where, note)


def in_test(cluster: str, share: float) -> bool:
    """Whether a cluster belongs to the test share; by its hash, so that the same cluster always does, in every source."""
    return int(hashlib.sha256(cluster.encode()).hexdigest()[:8], 16) / 16**8 < share


def check_split(split: str, test_share: float) -> None:
    """Raises: ConfigError for a split or a share that a source without splits of its own cannot give."""
    from teachfair.errors import ConfigError

    if split not in ("train", "test"):
        raise unknown_name("split", split, ("train", "test"))
    if not 0 <= test_share < 1:
        raise ConfigError(f"a share of {test_share}", where="test_share", fix="give at least 0 and less than 1")


def check_names(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raises: ConfigError for the first of ``names`` that is not ``known``."""
    for name in [names] if isinstance(names, str) else names:
        if name not in known:
            raise unknown_name(kind, name, known)


def place_of(path_or_id: str | Path | None, card: Mapping[str, Any]) -> Path | str:
    """A file or folder that is there, or the id of a hub dataset ("owner/name").

    Raises: DataError that says what the source reads, where there is neither.
    """
    source, formats = card["name"], "; ".join(card["formats"])
    fix = f"give {formats} ({card['public_id']})"
    if path_or_id is None or not str(path_or_id).strip():
        raise DataError(f"{source} is read from its authors' files, and no path was given", where=source, fix=fix)
    if "\0" in str(path_or_id):
        raise DataError("a path cannot hold a NUL character", where=source, fix=fix)
    path = Path(path_or_id)
    if path.exists():
        return path
    text = str(path_or_id)
    if card.get("hub") and text.count("/") == 1 and not path.is_absolute() and not path.suffix and text[0] not in "./~":
        return text
    raise DataError("there is no such file or folder", where=text, fix=fix)


def files_of(place: Path, names: Iterable[str], card: Mapping[str, Any], *, all_of_them: bool = False) -> list[Path]:
    """The file itself, or those of ``names`` that the folder holds.

    Raises: DataError if it holds none, or not ``all_of_them`` where they were asked for by name.
    """
    if place.is_file():
        return [place]
    names = list(names)
    absent = [name for name in names if not (place / name).is_file()]
    if all_of_them and absent:
        raise DataError(
            f"there is no {', '.join(absent)}", where=str(place), fix=f"add it ({card['public_id']}), or ask for less"
        )
    found = [place / name for name in names if (place / name).is_file()]
    if not found:
        raise DataError(
            f"none of the files of {card['name']} is in this folder",
            where=str(place),
            fix=f"give a folder with {' or '.join(names[:4])}{' …' if len(names) > 4 else ''} ({card['public_id']})",
        )
    return found


def digest(*texts: str) -> str:
    """12 hexadecimal digits that stand for the texts, white space normalised."""
    return hashlib.sha256("\0".join(" ".join(text.split()) for text in texts).encode()).hexdigest()[:12]
