"""7-Scenes: sequences as folders or zip archives."""
