"""accelerate configs, as shipped."""
