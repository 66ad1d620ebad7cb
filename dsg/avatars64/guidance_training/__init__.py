"""Training of the embedded guidance networks and evaluators: a job per network, and the loop that they share."""
