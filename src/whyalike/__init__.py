"""Why are these two images alike?"""

__version__ = "0.1.0"
