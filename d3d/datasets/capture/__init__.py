"""Captures: a user's own images with poses, in the formats of many programs."""
