"""Does a model still know who is who? Probes, erasure and a verdict: taught, forgotten, hidden or broken."""
