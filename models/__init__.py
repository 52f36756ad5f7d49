"""Ground floor: a checkpoint folder. Load it whatever it is, seal it, read likelihoods out of it."""
