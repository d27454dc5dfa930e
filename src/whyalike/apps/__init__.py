"""Systems built of the parts: each answers one question from beginning to end."""
