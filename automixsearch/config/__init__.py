"""What people write, checked: knobs, data, trials, spaces, and how they are read and identified."""
