"""Ray Tune moves trials around, Optuna proposes them; neither appears inside a trial."""
