"""What `jaxmaml advise` is made of: target, bounds, differences and costs, rules, text."""
