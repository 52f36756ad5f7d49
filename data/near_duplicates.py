"""Near-duplicates between two large collections of texts: MinHash and banding find candidates, exact Jaccard decides.

A text is the set of its word bigrams, beginning and end included, so that n words make n + 1 bigrams and one changed word
costs two of them. The MinHash permutations are datasketch's (its ``affine32`` scheme, same seed, same values: a test holds
them against ``MinHash.bulk``). datasketch applies them text by text and keeps its buckets in Python dictionaries: see
docs/decisions/0006. Here the same arithmetic runs over all texts at once, and buckets are joined by sorting.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

ROWS_PER_BAND = 3  # P(candidate) = 1 - (1 - J**3)**32: .9996 at J = .6, .0003 at J = .02 (texts that share one bigram)
BANDS = 32
SEED = 1
# Pairs of one bucket that are all looked at; in a larger one (rows of one template) every text meets PARTNERS others. A
# text that is nearer to some than the template makes it also meets them in the small buckets of what it does not share.
BUCKET_LIMIT = 1 << 17
PARTNERS = 8
_CHUNK = 400_000  # candidate pairs held at once: bounds memory
_END = 0  # the id of "a text begins or ends here"


class WordStore:
    """Texts as flat arrays of word ids, 4 bytes a word; each text ends with a mark of its own."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {"": _END}
        self._hashes = array("Q", [0x9E3779B97F4A7C15])
        self._words = array("I")
        self._starts = array("q", [0])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, words: Sequence[str]) -> int:
        """Keep a text; returns its number."""
        try:
            ids = [self._ids[word] for word in words]
        except KeyError:
            ids = [self._id(word) for word in words]
        self._words.extend(ids)
        self._words.append(_END)
        self._starts.append(len(self._words))
        return len(self._starts) - 2

    def _id(self, word: str) -> int:
        found = self._ids.get(word)
        if found is None:
            found = self._ids[word] = len(self._ids)
            # of the word itself, not Python's salted hash: the same texts give the same candidates in every process
            self._hashes.append(int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little"))
        return found

    def bigrams(self) -> tuple[NDArray[np.uint64], Numbers]:
        """(flat, starts): the set of bigrams of each text, as 40-bit numbers in ascending order."""
        hashes, starts = self.hashes()
        before = np.empty_like(hashes)
        if len(hashes):
            before[1:], before[0] = hashes[:-1], np.uint64(self._hashes[_END])
        hashes = _mixed(hashes + before * np.uint64(0xD6E8FEB86659FD93)) >> np.uint64(24)
        del before
        sets, sizes = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for begin in range(0, len(self), 20_000):
            end = min(begin + 20_000, len(self))
            number = np.repeat(np.arange(end - begin, dtype=np.uint64), np.diff(starts[begin : end + 1]))
            keys = np.unique((number << np.uint64(40)) | hashes[starts[begin] : starts[end]])
            sizes.append(np.bincount((keys >> np.uint64(40)).astype(np.int64), minlength=end - begin))
            sets.append(keys & np.uint64((1 << 40) - 1))
        return np.concatenate(sets), np.concatenate([[0], np.cumsum(np.concatenate(sizes))])

    def hashes(self) -> tuple[NDArray[np.uint64], Numbers]:
        """(flat word hashes, starts); the last of each text is the end mark's."""
        words = np.frombuffer(self._words, dtype=np.uint32) if len(self._words) else np.zeros(0, np.uint32)
        return np.frombuffer(self._hashes, dtype=np.uint64)[words], np.array(self._starts, dtype=np.int64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # MurmurHash3's finaliser, in place where it can be
    values = values ^ (values >> np.uint64(33))
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    values ^= values >> np.uint64(33)
    return values


@dataclass
class Found:
    """Near-duplicates, and what was looked at. ``left, right``: text numbers, ``jaccard``: of their bigram sets.

    Every text of either side that has a near-duplicate is in at least one of the pairs; not every pair is listed.
    """

    left: Numbers
    right: Numbers
    jaccard: NDArray[np.float64]
    candidates: int = 0
    crowded: int = 0  # texts (summed over bands) that met a sample of a crowded bucket, not all of it


def near_duplicates(
    store: WordStore,
    left: Numbers,
    right: Numbers,
    threshold: float,
    *,
    left_done: NDArray[np.bool_] | None = None,
    right_done: NDArray[np.bool_] | None = None,
    bands: int = BANDS,
    rows: int = ROWS_PER_BAND,
    seed: int = SEED,
) -> Found:
    """Texts of ``left`` with a text of ``right`` whose bigram sets have a Jaccard similarity >= ``threshold``.

    Args:
        left, right: (n,), (m,) text numbers of ``store``, each without repeats.
        left_done, right_done: (len(store),) texts that need no further partner: a pair of two of them is not looked at.
    Returns: pairs verified exactly, so there are no false ones; those missed are the share that the banding misses.
    """
    found = Found(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    if not len(left) or not len(right):
        return found
    done_left = np.zeros(len(store), bool) if left_done is None else left_done.copy()
    done_right = np.zeros(len(store), bool) if right_done is None else right_done.copy()
    bigrams, starts = store.bigrams()
    signatures = {"left": _signatures(bigrams, starts, left, bands * rows, seed)}
    signatures["right"] = _signatures(bigrams, starts, right, bands * rows, seed)
    kept: list[tuple[Numbers, Numbers, NDArray[np.float64]]] = []
    for band in range(bands):
        keys = [_band_keys(signatures[side][band * rows : (band + 1) * rows]) for side in ("left", "right")]
        for one, other, crowded in _joined(keys[0], keys[1]):
            found.crowded += crowded
            wanted = (left[one] != right[other]) & ~(done_left[left[one]] & done_right[right[other]])
            one, other = one[wanted], other[wanted]
            found.candidates += len(one)
            alike = _alike(signatures["left"], signatures["right"], one, other, threshold)
            one, other = left[one[alike]], right[other[alike]]
            jaccard = exact_jaccard(bigrams, starts, one, other)
            true = jaccard >= threshold
            one, other, jaccard = one[true], other[true], jaccard[true]
            done_left[one], done_right[other] = True, True
            if len(one):
                # one partner for every text of either side is enough, or templates would list n × m pairs
                first = np.union1d(np.unique(one, return_index=True)[1], np.unique(other, return_index=True)[1])
                kept.append((one[first], other[first], jaccard[first]))
    if kept:
        found.left, found.right = (np.concatenate([part[side] for part in kept]) for side in (0, 1))
        found.jaccard = np.concatenate([part[2] for part in kept])
    return found


def quotations(
    store: WordStore,
    left: Numbers,
    right: Numbers,
    min_words: int,
    *,
    left_done: NDArray[np.bool_] | None = None,
    right_done: NDArray[np.bool_] | None = None,
) -> Found:
    """Texts that lie word for word within a longer one of the other side (a benchmark's item behind an instruction).

    Args: as in :func:`near_duplicates`; ``min_words``: shorter texts quote nothing.
    Returns: pairs; ``jaccard`` is the share of the longer text that the shorter one makes up.
    """
    found = Found(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    done = [np.zeros(len(store), bool) if given is None else given for given in (left_done, right_done)]
    if not len(left) or not len(right):
        return found
    hashes, starts = store.hashes()
    ranges = _RangeHashes(hashes)
    parts = [
        _within(ranges, starts, inner, outer, min_words)
        for inner, outer in ((right, left), (left, right))
    ]
    one = np.concatenate([parts[0][1], parts[1][0]])
    other = np.concatenate([parts[0][0], parts[1][1]])
    share = np.concatenate([parts[0][2], parts[1][2]])
    new = ~(done[0][one] & done[1][other])
    found.left, found.right, found.jaccard = one[new], other[new], share[new]
    found.crowded = parts[0][3] + parts[1][3]
    return found


class _RangeHashes:
    """A hash of any run of words in one step: (sum of hash[k] * B**k over the run) / B**begin, modulo 2**64."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        base = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
        powers = np.full(len(hashes), base, dtype=np.uint64)
        powers[:1] = 1
        powers = np.cumprod(powers, dtype=np.uint64)
        self._sums = np.zeros(len(hashes) + 1, dtype=np.uint64)
        np.cumsum(hashes * powers, out=self._sums[1:])
        powers[1:] = np.uint64(pow(base, -1, 1 << 64))
        self._inverse = np.cumprod(powers, dtype=np.uint64)

    def __call__(self, begins: Numbers, lengths: Numbers | int) -> NDArray[np.uint64]:
        return _mixed((self._sums[begins + lengths] - self._sums[begins]) * self._inverse[begins])


def _within(
    ranges: _RangeHashes, starts: Numbers, inner: Numbers, outer: Numbers, min_words: int
) -> tuple[Numbers, Numbers, NDArray[np.float64], int]:
    """(inner text, outer text, share of the outer one, texts that met a sample) of quotations."""
    words = starts[1:] - starts[:-1] - 1
    inner = inner[words[inner] >= min_words]
    opening = ranges(starts[inner], min_words)
    # a table of one byte for each of 2**24 remainders tells nearly all other positions apart from an opening
    table = np.zeros(1 << 24, dtype=bool)
    table[(opening >> np.uint64(40)).astype(np.int64)] = True
    kept: list[tuple[Numbers, Numbers, NDArray[np.float64]]] = []
    crowded = 0
    outer = outer[words[outer] > min_words]
    for begin in range(0, len(outer), 100_000):
        part = outer[begin : begin + 100_000]
        room = words[part] - min_words + 1
        firsts = np.concatenate([[0], np.cumsum(room)[:-1]])
        at = np.arange(int(room.sum())) + np.repeat(starts[part] - firsts, room)
        text = np.repeat(part, room)
        keys = ranges(at, min_words)
        likely = table[(keys >> np.uint64(40)).astype(np.int64)]
        at, text, keys = at[likely], text[likely], keys[likely]
        for place, number, sampled in _joined(keys, opening):
            crowded += sampled
            quoted, longer, position = inner[number], text[place], at[place]
            fits = (position + words[quoted] < starts[longer + 1]) & (words[quoted] < words[longer])
            quoted, longer, position = quoted[fits], longer[fits], position[fits]
            same = ranges(starts[quoted], words[quoted]) == ranges(position, words[quoted])
            quoted, longer = quoted[same], longer[same]
            first = np.union1d(np.unique(quoted, return_index=True)[1], np.unique(longer, return_index=True)[1])
            quoted, longer = quoted[first], longer[first]
            kept.append((quoted, longer, words[quoted] / words[longer]))
    if not kept:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), crowded
    return (
        np.concatenate([entry[0] for entry in kept]),
        np.concatenate([entry[1] for entry in kept]),
        np.concatenate([entry[2] for entry in kept]),
        crowded,
    )


def _signatures(
    bigrams: NDArray[np.uint64], starts: Numbers, texts: Numbers, size: int, seed: int
) -> NDArray[np.uint32]:
    """(size, len(texts)): what ``datasketch.MinHash(size, seed)`` holds for each text's bigrams (their lower 32 bits)."""
    from datasketch import MinHash

    factors, summands = MinHash(num_perm=size, seed=seed).permutations
    signatures = np.empty((size, len(texts)), dtype=np.uint32)
    for begin in range(0, len(texts), 50_000):
        part = texts[begin : begin + 50_000]
        where, ends = _segments(starts, part)
        values = _premixed(bigrams[where].astype(np.uint32))
        for number in range(size):
            signatures[number, begin : begin + len(part)] = np.minimum.reduceat(
                values * factors[number] + summands[number], ends
            )
    return signatures


def _premixed(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    # the affine32 scheme's first step: MurmurHash3's 32-bit finaliser
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def _segments(starts: Numbers, texts: Numbers) -> tuple[Numbers, Numbers]:
    """Positions of the bigrams of ``texts`` one after the other, and where each text begins among them."""
    lengths = starts[texts + 1] - starts[texts]
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return np.arange(int(lengths.sum())) + np.repeat(starts[texts] - begins, lengths), begins


def _band_keys(rows: NDArray[np.uint32]) -> NDArray[np.uint64]:
    keys = np.zeros(rows.shape[1], dtype=np.uint64)
    for row in rows:
        keys = _mixed(keys * np.uint64(0x9E3779B97F4A7C15) + row)
    return keys


def _joined(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> Iterator[tuple[Numbers, Numbers, int]]:
    """Positions with equal keys, in portions of about _CHUNK pairs; third: how many met a sample of a crowded bucket."""
    order = np.argsort(right, kind="stable")
    ordered = right[order]
    low = np.searchsorted(ordered, left, "left")
    count = np.searchsorted(ordered, left, "right") - low
    meeting = np.flatnonzero(count)
    # neighbours in a bucket stay together, so that one found pair settles the rest of a template early
    meeting = meeting[np.argsort(left[meeting], kind="stable")]
    if not len(meeting):
        return
    low, count = low[meeting], count[meeting]
    _, bucket, in_bucket = np.unique(low, return_inverse=True, return_counts=True)
    crowded = (count > PARTNERS) & (count * in_bucket[bucket] > BUCKET_LIMIT)
    taken = np.where(crowded, PARTNERS, count)
    # in a crowded bucket the partners move on with each text, so that all of the other side are met too
    first = np.concatenate([[0], np.cumsum(in_bucket)[:-1]])
    turn = np.where(crowded, (np.arange(len(meeting)) - first[bucket]) * PARTNERS, 0)
    bounds = np.concatenate([[0], np.cumsum(taken)])
    begin = 0
    while begin < len(meeting):
        end = max(begin + 1, int(np.searchsorted(bounds, bounds[begin] + _CHUNK, "right")) - 1)
        lengths = taken[begin:end]
        within = np.arange(int(lengths.sum())) - np.repeat(bounds[begin:end] - bounds[begin], lengths)
        partner = (within + np.repeat(turn[begin:end], lengths)) % np.repeat(count[begin:end], lengths)
        yield (
            np.repeat(meeting[begin:end], lengths),
            order[np.repeat(low[begin:end], lengths) + partner],
            int(crowded[begin:end].sum()),
        )
        begin = end


def _alike(
    left: NDArray[np.uint32], right: NDArray[np.uint32], one: Numbers, other: Numbers, threshold: float
) -> Numbers:
    """Candidates whose signatures agree on so many rows that a Jaccard of ``threshold`` is not out of the question."""
    kept = np.arange(len(one))
    agreed = np.zeros(len(one), dtype=np.int32)
    done = 0
    size = len(left)
    # 4 standard deviations of a binomial share below the threshold: a true pair is dropped once in 30,000
    for stop in (size // 3, size):
        for row in range(done, stop):
            agreed += left[row][one] == right[row][other]
        slack = 4 * np.sqrt(max(threshold * (1 - threshold), 0.01) / stop)
        likely = agreed >= stop * (threshold - slack)
        kept, agreed, one, other, done = kept[likely], agreed[likely], one[likely], other[likely], stop
    return kept


def exact_jaccard(
    bigrams: NDArray[np.uint64], starts: Numbers, left: Numbers, right: Numbers
) -> NDArray[np.float64]:
    """(n,) Jaccard similarity of the bigram sets (as :meth:`WordStore.bigrams` gives them) of ``left[i]``, ``right[i]``."""
    result = np.zeros(len(left))
    for begin in range(0, len(left), 1 << 16):
        sides, sizes = [], []
        for texts in (left[begin : begin + (1 << 16)], right[begin : begin + (1 << 16)]):
            where, _ = _segments(starts, texts)
            sizes.append(starts[texts + 1] - starts[texts])
            number = np.repeat(np.arange(len(texts), dtype=np.uint64), sizes[-1])
            sides.append((number << np.uint64(40)) | bigrams[where])  # ascending: the sets are, and so are the numbers
        at = np.searchsorted(sides[1], sides[0])
        at[at == len(sides[1])] = 0
        both = sides[0][sides[1][at] == sides[0]]
        shared = np.bincount((both >> np.uint64(40)).astype(np.int64), minlength=len(sizes[0]))
        result[begin : begin + len(shared)] = shared / (sizes[0] + sizes[1] - shared)
    return result
