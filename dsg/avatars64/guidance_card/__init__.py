"""The card of the embedded guidance networks, evaluator and selector: its faces, numbers, words and figure."""
