"""What `kubectl sixgate` shows: a whole installation, read from the API server with the rights of whoever asks."""
