"""Real models on real data: presets, the training loop with its checkpoints, evaluation and figures."""
