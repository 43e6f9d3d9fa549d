"""What a user would otherwise write, kept runnable and as fast as its means allow."""
