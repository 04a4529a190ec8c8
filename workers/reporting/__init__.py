"""What a worker tells of itself: its load, its presence, its measurements; and what its node tells it."""
