"""Concept erasure in closed form: the least change of hidden states after which no linear map finds the label.

Source: LEACE (Belrose et al. 2023, arXiv:2306.03819, theorem 4.3). Derived: let x have mean μ and covariance Σ, and let
C = cov(x, z) for one-hot labels z. In whitened coordinates y = W (x − μ), W = Σ^(−1/2), cov(y, z) = W C. An affine map
leaves no linear information iff cov(r(x), z) = 0, and Euclidean distance in the metric of x is least if exactly the
columns of W C are projected away where y is isotropic:

    r(x) = x − W⁺ U Uᵀ W (x − μ),      U an orthonormal basis of the columns of W C

which is an oblique projection of rank k ≤ (number of groups − 1). It is written here as two thin factors.

With fewer words than dimensions Σ is nearly singular, and Uᵀ W reads noise at a high gain: on every other token the change
would be far larger than on the words it was fitted on. cov(r(x), z) = 0 holds for *any* invertible W, so that Σ may be
shrunk towards a multiple of the identity without losing it; what is least then is the distance in the shrunk metric. At a
shrinkage of 1 this is the orthogonal projection off the difference of the group means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import CheckpointError, InputError
from teachfair.evaluation.knowledge.hidden_states import GroupText, blocks_of, changed_at, hidden_states

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from teachfair.evaluation.knowledge.hidden_states import Change

    Array = NDArray[np.float64]


SHRINKAGE = 0.1  # of a model's states: some hundred words are fewer than most models have dimensions


@dataclass(frozen=True)
class Eraser:
    """r(x) = x − left @ right @ (x − mean): left (width, k), right (k, width) with right @ left = I, mean (width,)."""

    left: Array
    right: Array
    mean: Array

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def __call__(self, x: Array) -> Array:
        """(..., width) → (..., width)."""
        return x - ((x - self.mean) @ self.right.T) @ self.left.T

    def matrix(self) -> Array:
        """The linear part, (width, width), acting on columns."""
        return np.eye(len(self.mean)) - self.left @ self.right

    def on_tensors(self) -> Change:
        """The same on torch tensors of any shape, in float32."""
        import torch

        factors = [torch.tensor(part, dtype=torch.float32) for part in (self.left, self.right, self.mean)]

        def change(states: torch.Tensor) -> torch.Tensor:
            left, right, mean = (part.to(states.device) for part in factors)
            return (states - ((states.float() - mean) @ right.T) @ left.T).to(states.dtype)

        return change


def fit_eraser(x: NDArray[Any], labels: Sequence[str], *, shrinkage: float = 0.0) -> Eraser:
    """The least-squares eraser of ``labels`` from rows ``x`` (n, width). Rank 0 if nothing linear is there to erase.

    ``shrinkage``: 0 (LEACE itself) to 1, see above. Directions in which the data do not vary are left alone.
    Raises: InputError for fewer than two groups, or rows that do not match.
    """
    x, whiten, colour = _whitening(x, shrinkage)
    if len(labels) != len(x) or len(set(labels)) < 2:
        raise InputError(
            f"{len(x)} rows, {len(labels)} labels of {len(set(labels))} groups", where="fit_eraser",
            fix="give one label a row, of two groups or more",
        )  # fmt: skip
    mean = x.mean(axis=0)
    one_hot = (np.asarray(labels)[:, None] == np.unique(np.asarray(labels))[None, :]).astype(float)
    cross = whiten @ ((x - mean).T @ (one_hot - one_hot.mean(axis=0)) / len(x))
    basis, strength, _ = np.linalg.svd(cross, full_matrices=False)
    # the covariance of a whitened direction with an indicator is at most 1/2: no scale is needed
    u = basis[:, strength > 1e-6]
    return Eraser(colour @ u, u.T @ whiten, mean)


def random_eraser(x: NDArray[Any], rank: int, seed: int, *, shrinkage: float = 0.0) -> Eraser:
    """Erases ``rank`` random directions of unit variance in the whitened data: the control of equal rank and size."""
    x, whiten, colour = _whitening(x, shrinkage)
    rng = np.random.default_rng(seed)
    # within the data's support: what has no variance cannot be the control of what has
    directions = (whiten @ colour) @ rng.standard_normal((x.shape[1], rank))
    u = np.linalg.qr(directions)[0]
    return Eraser(colour @ u, u.T @ whiten, x.mean(axis=0))


def _whitening(x: NDArray[Any], shrinkage: float) -> tuple[Array, Array, Array]:
    """(rows, W, W⁺) of the shrunk covariance; eigenvalues below 1e-9 of the largest count as zero."""
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or not np.isfinite(x).all() or not 0 <= shrinkage <= 1:
        raise InputError(
            f"states of shape {x.shape}, shrinkage {shrinkage}", where="fit_eraser",
            fix="give finite rows, (n, width), and a shrinkage from 0 to 1",
        )  # fmt: skip
    centred = x - x.mean(axis=0)
    covariance = centred.T @ centred / len(x)
    target = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * target)
    keep = values > max(values.max(), 0.0) * 1e-9
    root = np.sqrt(values[keep])
    return x, (vectors[:, keep] / root) @ vectors[:, keep].T, (vectors[:, keep] * root) @ vectors[:, keep].T


def fit_erasers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[GroupText],
    axis: str,
    *,
    sites: Sequence[int] | None = None,
    random_seed: int | None = None,
    shrinkage: float = SHRINKAGE,
) -> dict[int, Eraser]:
    """One eraser per site, first to last, each fitted on states that the earlier ones have already changed.

    Otherwise a later block would read the group off what an earlier eraser never saw (Belrose et al. call the sequence
    concept scrubbing). ``random_seed``: erase random directions of the same ranks instead, the control.
    """
    labels = [text.groups[axis] for text in texts]
    wanted = range(len(blocks_of(model)) + 1) if sites is None else sorted(sites)
    erasers: dict[int, Eraser] = {}
    for site in wanted:
        with changed_at(model, {s: eraser.on_tensors() for s, eraser in erasers.items()}):
            x = hidden_states(model, tokenizer, texts, sites=[site])[:, 0]
        eraser = fit_eraser(x, labels, shrinkage=shrinkage)
        if random_seed is not None:
            eraser = random_eraser(x, max(eraser.rank, 1), random_seed * 1000 + site, shrinkage=shrinkage)
        if eraser.rank:
            erasers[site] = eraser
    return erasers


# what each architecture's block adds to the residual stream: the last linear maps of attention and of the MLP
_WRITERS = ("o_proj", "down_proj", "c_proj", "out_proj", "fc2", "dense", "dense_4h_to_h")
_POSITIONS = ("wpe", "embed_positions")


def fold(model: PreTrainedModel, eraser: Eraser) -> None:
    """Write the eraser into the weights: every state of the residual stream is then an erased one. In place.

    Exact for pre-norm decoders, by linearity: embeddings become r(e), all that a block adds is multiplied by the linear
    part P, and P is idempotent, so every partial sum s has become r(s). A head tied to the embeddings is untied first:
    it reads the stream and keeps its rows.
    """
    import torch

    matrix = torch.tensor(eraser.matrix(), dtype=torch.float32)
    shift = torch.tensor(eraser.left @ (eraser.right @ eraser.mean), dtype=torch.float32)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and head.weight is embeddings.weight:
        head.weight = torch.nn.Parameter(embeddings.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
    with torch.no_grad():
        embeddings.weight.copy_(embeddings.weight @ matrix.T + shift)
        for name, module in model.named_modules():
            if name.rpartition(".")[2] in _POSITIONS:
                module.weight.copy_(module.weight @ matrix.T)
        written = 0
        for block in blocks_of(model):
            for name, module in block.named_modules():
                if name.rpartition(".")[2] not in _WRITERS or not hasattr(module, "weight"):
                    continue
                transposed = type(module).__name__ == "Conv1D"
                module.weight.copy_(module.weight @ matrix.T if transposed else matrix @ module.weight)
                if getattr(module, "bias", None) is not None:
                    module.bias.copy_(matrix @ module.bias)
                written += 1
    if written != 2 * len(blocks_of(model)):
        raise CheckpointError(
            f"{written} maps into the residual stream were found, not two a block", where=type(model).__name__,
            fix="erase by hooks (fit_erasers), or use a Llama-, Qwen-, GPT-2-, OPT- or GPT-NeoX-shaped policy",
        )  # fmt: skip


def fold_sites(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[GroupText],
    axis: str,
    *,
    sites: Sequence[int] = (0,),
    shrinkage: float = SHRINKAGE,
) -> dict[str, Any]:
    """Erase a group by folding what is fitted at each of ``sites`` in turn; in place. Returns what was done, for a record.

    A fold takes its direction away from *every* state, since the residual stream has no place where only one layer could be
    changed. Directions of deep sites carry other things in early ones: folding all sites breaks the sandbox policy
    (docs/knowledge.md). Site 0 alone, the default, removes what the words bring along, and
    is not enough where later layers work the group out from several tokens: ``left_over`` says what is left, the largest
    correlation of a direction with the group at each site.
    Raises: CheckpointError where states of the folded model are not erased ones (post-norm and scaled-embedding
        architectures); the model in memory is spoiled then.
    """
    labels = [text.groups[axis] for text in texts]
    erased = 0
    for site in sites:
        eraser = fit_eraser(hidden_states(model, tokenizer, texts, sites=[site])[:, 0], labels, shrinkage=shrinkage)
        if not eraser.rank:
            continue
        fold(model, eraser)
        states = hidden_states(model, tokenizer, texts[:: max(1, len(texts) // 8)])
        error = np.abs(eraser(states.astype(np.float64)) - states).max()
        if error > 1e-3 * max(1.0, float(np.abs(states).max())):
            raise CheckpointError(
                f"after folding, erasing once more still changes states by {error:.3g}", where=type(model).__name__,
                fix="this architecture normalises or scales what its blocks add: erase by hooks (fit_erasers)",
            )  # fmt: skip
        erased += eraser.rank
    states = hidden_states(model, tokenizer, texts)
    left = [fit_correlation(states[:, column], labels) for column in range(states.shape[1])]
    return {"axis": axis, "directions": erased, "sites": list(sites), "left_over": left, "n_texts": len(texts)}


def save_erased(
    policy: str | Path, out: str | Path, texts: Sequence[GroupText], axis: str, *, sites: Sequence[int] = (0,),
    shrinkage: float = SHRINKAGE,
) -> dict[str, Any]:  # fmt: skip
    """PROTOCOL's rival ``erased``: ``policy`` without the group, as a full checkpoint that ``from_pretrained`` loads.

    Appears whole under ``out`` or not at all; what was done stands in its ``run.json`` and is returned. Raises: as
    :func:`fold_sites`; RunFolderError if ``out`` is taken; CheckpointError for a quantised policy.
    """
    from teachfair.models.checkpoint import content_hash, inspect_checkpoint, load_policy
    from teachfair.runs import whole_folder, write_record

    if inspect_checkpoint(policy).kind == "quantised":
        raise CheckpointError(
            "a quantised policy cannot be erased in its weights", where=str(policy), fix="erase it before it is quantised"
        )
    model, tokenizer = load_policy(policy)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    with whole_folder(Path(out)) as aside:
        report = fold_sites(model, tokenizer, texts, axis, sites=sites, shrinkage=shrinkage)
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        write_record(aside, what="erased", policy=str(policy), policy_hash=content_hash(policy), **report)
    return report


def fit_correlation(x: NDArray[Any], labels: Sequence[str]) -> float:
    """The largest canonical correlation of rows (n, width) with the labels: 0 = no linear map tells the groups apart."""
    x, whiten, _ = _whitening(x, 0.0)
    one_hot = (np.asarray(labels)[:, None] == np.unique(np.asarray(labels))[None, :]).astype(float)
    centred = one_hot - one_hot.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    keep = values > 1e-9
    z = centred @ (vectors[:, keep] / np.sqrt(values[keep]))
    return float(np.linalg.norm(whiten @ ((x - x.mean(axis=0)).T @ z / len(x)), ord=2))
