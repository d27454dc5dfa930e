"""`python -m whyalike`."""

from whyalike.cli import main

main()
