"""The ways of training: one file each, and the only list of them."""
