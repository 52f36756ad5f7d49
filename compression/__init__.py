"""Second floor: a checkpoint folder in, a compressed checkpoint folder and its accounting out.

Adding a compression: one file with a frozen dataclass that has a ``name`` and ``apply(checkpoint, out)``, and
one line in ``COMPRESSIONS``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from teachfair.errors import unknown_name


@dataclass(frozen=True)
class CompressedCheckpoint:
    """A compressed checkpoint folder and what it costs.

    ``bytes_on_disk`` counts the weight files; ``bits_per_parameter`` = 8 · bytes_on_disk / n_parameters,
    where ``n_parameters`` is the count of the model before compression (tied weights once).
    """

    path: Path
    bytes_on_disk: int
    n_parameters: int
    bits_per_parameter: float
    n_quantised_layers: int


class Compression(Protocol):
    """What a compression is: any object with a name and this method."""

    @property
    def name(self) -> str: ...

    def apply(self, checkpoint: Path, out: Path) -> CompressedCheckpoint: ...


from teachfair.compression.bitsandbytes import FourBit, Int8  # noqa: E402  (it needs the class above)

COMPRESSIONS: dict[str, Compression] = {
    "int8": Int8(),
    "nf4": FourBit(quant_type="nf4"),
    "fp4": FourBit(quant_type="fp4"),
}


def get(name: str | Any) -> Compression:
    """The compression called ``name``; a compression object is returned as it is.

    Raises: ConfigError with the known names.
    """
    if not isinstance(name, str):
        return name
    if name not in COMPRESSIONS:
        raise unknown_name("compression", name, COMPRESSIONS)
    return COMPRESSIONS[name]
