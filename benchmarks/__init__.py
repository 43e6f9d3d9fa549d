"""How fast, against the fastest code a competent user would write otherwise."""
