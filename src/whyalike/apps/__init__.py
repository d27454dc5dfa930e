"""What is made of the parts for one purpose: a study with people."""
