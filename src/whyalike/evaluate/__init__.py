"""What a model, and what its maps, are worth on data of which the truth is known."""
