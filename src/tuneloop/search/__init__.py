"""Learning from clicks: training data, encoders, losses, metrics, the training loop."""
