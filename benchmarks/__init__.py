"""What whyalike costs, and how true its maps are, beside others: `python -m benchmarks`.

Each file holds one question and a function `run` that answers it with a table. Costs are ratios of
things that took turns in one run, so that a machine that is slower, or busy, slows both. Nothing
here is a test, but each benchmark first checks that what it times gives the right answer.
"""
