"""Third floor: judge a checkpoint folder. Benchmarks, statistics, retention and the report."""
