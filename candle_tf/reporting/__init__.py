"""Tables and images of a finished run."""
