"""The embedded world with planted bias: the default of every recipe, and the toolkit's calibration weight."""

from teachfair.data.sandbox.world import AXES, SPLITS, UNKNOWN, Document, SandboxConfig, World

__all__ = ["AXES", "SPLITS", "UNKNOWN", "Document", "SandboxConfig", "World"]
