"""Sources of preference pairs: one module each, named in ``teachfair.data.SOURCES``."""
