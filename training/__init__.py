"""Data in, checkpoint out: trains the four families, MLP, CNN, LSTM and Transformer."""
