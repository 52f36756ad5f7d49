"""How token sequences are laid into rows for a model: without padding, a shared beginning only once.

The sequences form a tree over their tokens. A row holds a part of that tree in depth-first order: each node is one token
of one position, and sees itself and the nodes above it (its trunk) only, so that it gets what it would get if its sequence
were alone. A sentence that many prompts begin with, a context with three answers, are computed once for a row.

The cost of a row's attention grows with the square of its width, what a trunk costs again in each row falls with it:
:func:`plan` takes the width at which the two together are least.

Nothing here needs torch. Every rule is a function of the requests and of the model's shape, never of a stopwatch or of free
memory: the same requests make the same batches on every run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# A token sequence and the position from which it is scored.
Request = tuple[tuple[int, ...], int]

_WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)
# Scores of attention are computed this much slower than the same number of multiplications in a linear layer (softmax,
# mask, small matrices). It only moves the choice of the width.
_ATTENTION_PENALTY = 3.0


@dataclass
class Pass:
    """What is fed for some requests, and the requests that are read off it."""

    fed: tuple[int, ...]
    requests: list[Request]


@dataclass
class Row:
    """Passes in lexicographic order, laid as one tree of ``tokens`` nodes."""

    passes: list[Pass]
    tokens: int

    @property
    def requests(self) -> list[Request]:
        return [request for one in self.passes for request in one.requests]

    @property
    def scored(self) -> int:
        """At most so many nodes need logits."""
        return min(self.tokens, sum(len(ids) - start for ids, start in self.requests))


def passes(wanted: Sequence[Request], *, fold: bool = False, whole: bool = False) -> list[Pass]:
    """Requests by what must be fed: all but the last token, whose successor nobody asks for; ``whole`` feeds all.

    ``fold`` reads a sequence that begins another off that other one (a tree does so by itself).
    Returns: passes in lexicographic order of what is fed.
    """
    by_input: dict[tuple[int, ...], list[Request]] = {}
    for request in wanted:
        by_input.setdefault(request[0] if whole else request[0][:-1], []).append(request)
    if not fold:
        return [Pass(fed, by_input[fed]) for fed in sorted(by_input)]
    folded: list[Pass] = []
    for fed in sorted(by_input, reverse=True):  # in this order a prefix follows right after what it begins
        if folded and folded[-1].fed[: len(fed)] == fed:
            folded[-1].requests.extend(by_input[fed])
        else:
            folded.append(Pass(fed, by_input[fed]))
    return folded[::-1]


def padded(all_passes: Sequence[Pass], budget: int) -> Iterator[list[Pass]]:
    """Plain batches, longest first (memory trouble shows at once), at most ``budget`` padded tokens each."""
    batch: list[Pass] = []
    for one in sorted(all_passes, key=lambda one: (-len(one.fed), one.fed)):
        if batch and len(batch[0].fed) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences share at their beginning."""
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return min(len(a), len(b))


def needed_tokens(sequences: Sequence[Sequence[int]]) -> int:
    """Nodes of the one tree of all sequences, each without its last token: what no method can do without."""
    fed = sorted({tuple(ids[:-1]) for ids in sequences})
    return sum(map(len, fed)) - sum(common_prefix(a, b) for a, b in itertools.pairwise(fed))


def plan(all_passes: Sequence[Pass], *, hidden: int, tokens: int, scored: int) -> Iterator[list[Row]]:
    """Rows, then batches of rows of about one width, widest first.

    Args: all_passes in lexicographic order; hidden: the model's width, which weighs attention against linear layers;
        tokens: at most so many nodes and pads a batch; scored: at most so many rows of logits a batch (one row of
        sequences may exceed both: it is not torn).
    """
    if not all_passes:
        return
    lengths = [len(one.fed) for one in all_passes]
    shared = [0, *(common_prefix(a.fed, b.fed) for a, b in itertools.pairwise(all_passes))]
    widths = [width for width in _WIDTHS if width <= min(tokens, max(scored, 64))] or [tokens]
    best: tuple[float, list[int], list[int]] | None = None
    for width in widths:
        starts, sizes = _tear(lengths, shared, width)
        cost = sum(
            len(group) * group[0] * (1 + _ATTENTION_PENALTY * group[0] / (6 * hidden)) for group in _groups(sizes, tokens)
        )
        if best is None or cost < best[0]:
            best = (cost, starts, sizes)
        if len(starts) == 1:
            break
    assert best is not None
    _, starts, sizes = best
    rows = [
        Row(list(all_passes[begin:end]), size)
        for begin, end, size in zip(starts, [*starts[1:], len(all_passes)], sizes, strict=True)
    ]
    rows.sort(key=lambda row: -row.tokens)  # stable: equal rows keep the lexicographic order
    batch: list[Row] = []
    logits = 0
    for row in rows:
        if batch and (batch[0].tokens * (len(batch) + 1) > tokens or logits + row.scored > scored):
            yield batch
            batch, logits = [], 0
        batch.append(row)
        logits += row.scored
    if batch:
        yield batch


def _groups(sizes: list[int], tokens: int) -> Iterator[list[int]]:
    """Widths of rows, widest first, in batches of at most ``tokens`` nodes and pads."""
    ordered = sorted(sizes, reverse=True)
    begin = 0
    while begin < len(ordered):
        end = begin + max(1, tokens // ordered[begin])
        yield ordered[begin:end]
        begin = end


def _tear(lengths: list[int], shared: list[int], width: int) -> tuple[list[int], list[int]]:
    """Where rows of at most ``width`` nodes begin, and how many nodes each has.

    A full row is torn in its second half, at the sequence that shares least with its predecessor: that much must be
    computed again.
    """
    starts, sizes = [0], []
    begin, size = 0, lengths[0]
    sizes_after = [size]  # nodes of the row up to each of its sequences
    index = 1
    while index < len(lengths):
        size += lengths[index] - shared[index]
        if size <= width:
            sizes_after.append(size)
            index += 1
            continue
        half = next((k for k, so_far in enumerate(sizes_after) if 2 * so_far >= width), len(sizes_after) - 1)
        tear = min(range(begin + half + 1, index + 1), key=lambda k: (shared[k], -k))
        sizes.append(sizes_after[tear - 1 - begin])
        starts.append(tear)
        begin, size, index = tear, lengths[tear], tear + 1
        sizes_after = [size]
    return starts, [*sizes, sizes_after[-1]]


@dataclass
class Layout:
    """A batch of rows as arrays, (rows, width) where nothing else is said.

    ``last``: the last node of the subtree below a node, so that node q sees node k if k ≤ q ≤ last[k]. A pad sees itself.
    ``keep``: nodes that need logits. ``picks``, ``targets`` (n,): for each scored token, request by request in the order
    of the rows' passes, the number of its node among the kept ones (row by row), and its id.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    last: np.ndarray
    keep: np.ndarray
    picks: np.ndarray
    targets: np.ndarray


def lay(rows: Sequence[Row]) -> Layout:
    """The arrays of one batch."""
    shape = (len(rows), max(row.tokens for row in rows))
    input_ids = np.zeros(shape, dtype=np.int64)
    position_ids = np.zeros(shape, dtype=np.int64)
    last = np.broadcast_to(np.arange(shape[1]), shape).copy()
    keep = np.zeros(shape, dtype=bool)
    wanted: list[np.ndarray] = []
    targets: list[int] = []
    for number, row in enumerate(rows):
        trunk = np.empty(0, dtype=np.int64)  # the nodes of the sequence before this one
        before: tuple[int, ...] = ()
        end = 0
        for one in row.passes:
            common = common_prefix(before, one.fed)
            last[number, trunk[common:]] = end - 1
            added = np.arange(end, end + len(one.fed) - common)
            input_ids[number, added] = one.fed[common:]
            position_ids[number, added] = np.arange(common, len(one.fed))
            trunk = np.concatenate([trunk[:common], added])
            before, end = one.fed, end + len(added)
            for ids, start in one.requests:
                nodes = trunk[start - 1 : len(ids) - 1]
                keep[number, nodes] = True
                wanted.append(number * shape[1] + nodes)
                targets += ids[start:]
        last[number, trunk] = end - 1
    rank = np.cumsum(keep) - 1
    return Layout(input_ids, position_ids, last, keep, rank[np.concatenate(wanted)], np.array(targets, dtype=np.int64))
