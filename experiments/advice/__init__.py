"""What `python -m experiments advise` is made of: the problem, the theorems' numbers, differences, costs, rules."""
