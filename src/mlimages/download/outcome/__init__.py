"""What a finished download publishes for other programs."""
