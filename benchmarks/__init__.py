"""How fast the replications run, against the emulator's limit and against Stable-Baselines3: `python -m benchmarks`."""
