"""Plain PyTorch training: nothing here knows of ray, optuna or pandas."""
