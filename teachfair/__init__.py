"""teachfair: teach language models what is fair, and measure whether the lesson survives compression.

The folders at the root of the repository are the subpackages of this package (``data/`` is
``teachfair.data`` and so on; see docs/architecture.md). Importing ``teachfair`` imports nothing heavy:
torch, transformers and TRL are loaded by the function that needs them.
"""

__version__ = "0.1.0"
