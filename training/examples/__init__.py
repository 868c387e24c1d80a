"""Short programs that show how other tools drive a training run."""
