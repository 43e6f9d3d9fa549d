"""What a user would otherwise write, kept runnable: each as fast as its library allows."""
