"""The card of the embedded guidance networks and evaluators: its faces, numbers, words and figure."""
