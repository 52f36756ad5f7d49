"""YAML configs of the doors, as shipped."""
