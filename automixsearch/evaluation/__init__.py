"""What a trained network is judged by."""
