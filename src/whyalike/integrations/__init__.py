"""What other programs show of whyalike's results."""
